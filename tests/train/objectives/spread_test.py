import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from purify.core.errors import UserError
from purify.models.classifiers.resnet import ResNet
from purify.train.objectives.spread import Spread, centre_similarity
from purify.train.state import split_network

RNG = np.random.default_rng(0)
BATCH = {
    'image': RNG.integers(0, 256, (8, 8, 8, 1), np.uint8),
    'label': np.array([0, 1, 3, 0, 1, 3, 3, 0], np.int32),
}


def small():
    return split_network(
        ResNet(
            stages=(1,),
            block='basic',
            num_classes=4,
            channels=1,
            width=8,
            norm='group',
            rngs=nnx.Rngs(0),
        )
    )


def by_hand(features, labels):
    """Mean cosine of the centres of every two classes that are there."""
    centres = [features[labels == k].mean(0) for k in sorted(set(labels.tolist()))]
    pairs = [(a, b) for i, a in enumerate(centres) for b in centres[i + 1 :]]
    return np.mean([a @ b / np.sqrt((a @ a) * (b @ b)) for a, b in pairs])


def test_it_is_the_mean_cosine_of_two_centres():
    # classes 1, 3, 5 and 6 are not there
    features, labels = RNG.normal(size=(30, 5)) + 0.5, RNG.integers(0, 6, 30) // 2 * 2
    found = jax.jit(centre_similarity, static_argnums=2)(
        jnp.array(features, jnp.float32), jnp.array(labels), 7
    )
    assert float(found) == pytest.approx(by_hand(features, labels), abs=1e-5)


@pytest.mark.long
def test_its_slope_is_that_of_the_formula():
    features, labels = RNG.normal(size=(9, 3)), np.array([0, 0, 1, 2, 2, 2, 1, 0, 1])
    slope = jax.grad(centre_similarity)(jnp.array(features, jnp.float32), jnp.array(labels), 3)
    for where in ((0, 0), (3, 2), (8, 1)):
        moved = [features.copy(), features.copy()]
        moved[0][where] += 1e-5
        moved[1][where] -= 1e-5
        rise = (by_hand(moved[0], labels) - by_hand(moved[1], labels)) / 2e-5
        assert float(slope[where]) == pytest.approx(rise, abs=1e-4)


@pytest.mark.long
def test_one_class_alone_pulls_at_nothing_and_a_centre_at_zero_breaks_nothing():
    features = jnp.array(RNG.normal(size=(4, 3)), jnp.float32)
    for rows, labels in (
        (features, jnp.zeros(4, int)),
        (features.at[:2].set(0), jnp.array([0, 0, 1, 1])),
    ):
        loss, slope = jax.value_and_grad(centre_similarity)(rows, labels, 3)
        assert float(loss) == 0
        np.testing.assert_array_equal(slope, np.zeros((4, 3)))


@pytest.mark.long
@pytest.mark.parametrize('weight', [0.0, 0.5])
def test_the_task_adds_the_cross_entropy_by_its_weight(weight):
    graph, params, stats = small()
    network = nnx.merge(graph, params, stats)
    features = np.asarray(
        network.features(BATCH['image'].astype(np.float32) / 255, train=True), np.float64
    )
    logits = np.asarray(network.head(jnp.array(features, jnp.float32)), np.float64)
    crossed = (np.log(np.exp(logits).sum(-1)) - logits[np.arange(8), BATCH['label']]).mean()
    loss, (_, metrics) = Spread(graph, weight)(params, stats, (), BATCH, jax.random.key(0))
    found = float(loss)
    assert found == pytest.approx(by_hand(features, BATCH['label']) + weight * crossed, abs=1e-5)
    assert float(metrics['closeness']) == pytest.approx(by_hand(features, BATCH['label']), abs=1e-5)
    assert float(metrics['accuracy']) == (logits.argmax(-1) == BATCH['label']).mean()


def test_centres_move_apart():
    graph, params, stats = small()
    task, adam = Spread(graph, 0.0), optax.adam(1e-2)
    state, closeness = adam.init(params), []
    slope = jax.jit(
        jax.value_and_grad(lambda params: task(params, stats, (), BATCH, jax.random.key(0))[0])
    )
    for _ in range(30):
        value, gradient = slope(params)
        closeness.append(float(value))
        updates, state = adam.update(gradient, state)
        params = optax.apply_updates(params, updates)
    assert closeness[-1] < closeness[0] - 0.05


@pytest.mark.parametrize('weight', [-0.1, float('nan')])
def test_a_negative_weight_is_refused(weight):
    with pytest.raises(UserError, match='spread'):
        Spread(small()[0], weight)
