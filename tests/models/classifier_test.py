import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from purify.models import efficientnet
from purify.models.classifier import drop
from purify.models.networks import NETWORKS
from purify.models.weights import abstract

OWN = {'resnet': {'stages': (1, 1), 'block': 'preact', 'width': 4}, 'vgg': {'stages': (1, 1), 'width': 4, 'hidden': 6}}


def test_drop_keeps_the_mean_and_scales_what_stays():
    x = jnp.asarray(np.random.default_rng(0).random((200, 5, 5, 4)) + 1, jnp.float32)
    some = np.asarray(drop(x, 0.25, True, jax.random.key(0)))
    assert (some == 0).mean() == pytest.approx(0.25, abs=0.02)
    np.testing.assert_allclose(some[some > 0], np.asarray(x)[some > 0] / 0.75, rtol=1e-6)
    rows = np.asarray(drop(x, 0.25, True, jax.random.key(0), whole=True)).reshape(200, -1)
    gone = (rows == 0).all(1)
    assert gone.mean() == pytest.approx(0.25, abs=0.1)
    assert (rows[~gone] > 0).all()


def test_nothing_is_dropped_in_evaluation_or_at_rate_zero():
    x = jnp.ones((2, 3))
    assert drop(x, 0.5, False, None) is x
    assert drop(x, 0.0, True, None) is x
    with pytest.raises(ValueError, match='without a key'):
        drop(x, 0.5, True, None)


@pytest.mark.parametrize('name', ['resnet', 'efficientnet', 'vgg'])
def test_every_family_has_the_common_interface(name, monkeypatch):
    """Maps, features and logits fit together, for any size and one channel; they take a key in training."""
    monkeypatch.setattr(efficientnet, 'STAGES', ((1, 3, 1, 32, 1), (6, 5, 2, 64, 2)))
    network = abstract(
        lambda rngs: NETWORKS.make(name, num_classes=7, channels=1, dtype='bfloat16', **OWN.get(name, {}), rngs=rngs)
    )
    graph, state = nnx.split(network)

    def run(state, images):
        network, key = nnx.merge(graph, state), jax.random.key(0)
        maps = network.maps(images, train=False)
        return (
            maps,
            network.pool(maps, train=False),
            network.features(images, train=True, key=key),
            network(images, train=True, key=key),
        )

    maps, pooled, features, logits = jax.eval_shape(run, state, jax.ShapeDtypeStruct((2, 45, 32, 1), jnp.float32))
    assert maps.ndim == 4
    assert pooled.shape == features.shape == (2, network.head.in_features)
    assert logits.shape == (2, 7)
    assert {x.dtype for x in (maps, pooled, features, logits)} == {jnp.dtype('float32')}
