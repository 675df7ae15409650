import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from purify.core.errors import UserError
from purify.models.classifiers import efficientnet
from purify.models.classifiers.classifier import drop
from purify.models.classifiers.registry import NETWORKS
from purify.models.classifiers.resnet import ResNet
from purify.models.files.weights import abstract

OWN = {
    'resnet': {'stages': (1, 1), 'block': 'preact', 'width': 4},
    'densenet': {'stages': (1, 1), 'growth': 2},
    'vgg': {'stages': (1, 1), 'width': 4, 'hidden': 6},
    'fast': {'width': 4, 'widths': (1, 2)},
}
FAMILIES = ('resnet', 'densenet', 'efficientnet', 'vgg', 'fast')


@pytest.fixture
def short(monkeypatch):
    """An EfficientNet of two blocks in place of seven stages."""
    monkeypatch.setattr(efficientnet, 'STAGES', ((1, 3, 1, 32, 1), (6, 5, 2, 64, 1)))


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
    with pytest.raises(ValueError, match='needs a key'):
        drop(x, 0.5, True, None)


@pytest.mark.usefixtures('short')
@pytest.mark.parametrize('name', FAMILIES)
def test_every_family_has_the_common_interface(name):
    """Maps, features and logits fit together, for any size and one channel, with a key too."""
    network = abstract(
        lambda rngs: NETWORKS.make(
            name, num_classes=7, channels=1, dtype='bfloat16', **OWN.get(name, {}), rngs=rngs
        )
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

    maps, pooled, features, logits = jax.eval_shape(
        run, state, jax.ShapeDtypeStruct((2, 45, 32, 1), jnp.float32)
    )
    assert maps.ndim == 4
    assert pooled.shape == features.shape == (2, network.head.in_features)
    assert logits.shape == (2, 7)
    assert {x.dtype for x in (maps, pooled, features, logits)} == {jnp.dtype('float32')}


def build(name):
    """EfficientNet's width .25 is of 8 channels; statistics and dropout where a family has them."""
    own = OWN.get(name, {'width': 0.25}) | ({'norm': 'batch'} if name == 'vgg' else {})
    return NETWORKS.make(name, num_classes=3, channels=3, **own, rngs=nnx.Rngs(0))


@pytest.mark.long
@pytest.mark.usefixtures('short')
@pytest.mark.parametrize('name', FAMILIES)
def test_groups_are_the_way_to_the_logits_and_still_ones_learn_nothing(name):
    """The second group alone learns where the first is still; statistics and values are those of
    the network that learns all.
    """
    network, key = build(name), jax.random.key(0)
    images = np.random.default_rng(0).random((4, 12, 12, 3), np.float32)
    graph, params, stats = nnx.split(network, nnx.Param, ...)

    def loss(params, stats, still):
        network = nnx.merge(graph, params, stats, copy=True)
        groups, logits = network.answer(images, train=True, key=key, still=still)
        # reaches into every group, past what a stop at one place would hold back
        weighed = sum((x**2).sum() for x in groups)
        return weighed + (logits**2).sum(), (groups, logits, nnx.state(network, nnx.BatchStat))

    run = jax.jit(jax.value_and_grad(loss, has_aux=True), static_argnums=2)
    (_, (groups, logits, moved)), free = run(params, stats, 0)
    (_, (kept, same, moved_too)), half = run(params, stats, 1)
    assert len(groups) == len(network.stages) == 2
    close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5)
    jax.tree.map(close, (kept, same, moved_too), (groups, logits, moved))
    before = nnx.to_flat_state(nnx.state(network, nnx.BatchStat))
    for (path, old), (_, new) in zip(before, nnx.to_flat_state(moved_too), strict=True):
        assert not np.array_equal(old[...], new[...]), path

    first = {('blocks', 0), ('convs', 0), ('norms', 0)}
    for (path, slope), (_, all_learn) in zip(
        nnx.to_flat_state(half), nnx.to_flat_state(free), strict=True
    ):
        still = path[:2] in first or path[0] in ('stem', 'stem_norm', 'whitening')
        assert np.any(np.asarray(slope[...])) != still, path
        assert np.any(np.asarray(all_learn[...])), path


@pytest.mark.long
@pytest.mark.parametrize('train', [False, True])
def test_an_answer_is_maps_and_a_call_of_the_same_pass(train):
    """Of a VGG, which drops units by its key."""
    network = NETWORKS.make('vgg', num_classes=3, channels=3, **OWN['vgg'], rngs=nnx.Rngs(0))
    key = jax.random.key(0)
    images = np.random.default_rng(0).random((4, 12, 12, 3), np.float32)
    groups, logits = network.answer(images, train=train, key=key)
    np.testing.assert_array_equal(network(images, train=train, key=key), logits)
    np.testing.assert_array_equal(network.maps(images, train=train), groups[-1])
    if train:
        assert not np.array_equal(network(images, train=False), logits), 'nothing was dropped'


@pytest.mark.parametrize('still', [-1, 3])
def test_more_groups_than_there_are_cannot_stay(still):
    with pytest.raises(UserError, match=f'first {still} groups .* has 2. Choose from 0 to 2'):
        build('resnet').groups(np.zeros((1, 8, 8, 3), np.float32), train=False, still=still)


def test_maps_of_still_groups_carry_no_gradient_however_deep_they_lie():
    network = build('resnet')
    x = np.random.default_rng(0).random((2, 8, 8, 3), np.float32)
    slopes = nnx.jit(
        nnx.grad(
            lambda network: sum((maps**2).sum() for maps in network.groups(x, train=False, still=2))
        )
    )(network)
    assert len(jax.tree.leaves(slopes)) > 10
    assert not any(np.any(slope) for slope in jax.tree.leaves(slopes))


@pytest.mark.long
def test_members_of_groups_count_through_all_blocks():
    network = abstract(
        lambda rngs: NETWORKS.make('densenet121', num_classes=3, channels=3, rngs=rngs)
    )
    wanted = [(0, 6), (6, 18), (18, 42), (42, 58)]
    assert [(x.start, x.stop) for x in map(network.members, range(4))] == wanted
    assert len(network.blocks) == 58


def test_one_mean_goes_with_a_deviation_for_each_channel():
    options = {'num_classes': 2, 'channels': 3, 'width': 4, 'mean': (0.5,), 'std': (0.1, 0.2, 0.4)}
    network = ResNet(**options, stages=(1,), rngs=nnx.Rngs(0))
    found = network.normalise(jnp.full((2, 4, 4, 3), 0.6))
    np.testing.assert_allclose(found, np.broadcast_to([1.0, 0.5, 0.25], (2, 4, 4, 3)), rtol=1e-5)
