import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from purify.core.errors import UserError
from purify.models.classifiers.resnet import ResNet
from purify.train.objectives.unlearn import HoldUp, Unlearn, flooding, local_ascent
from purify.train.state import split_network

RNG = np.random.default_rng(0)
LOSSES = np.array([0.1, 0.49, 0.7, 3.0, 0.05])
BATCH = {
    'image': RNG.integers(0, 256, (6, 8, 8, 1), np.uint8),
    'label': np.array([0, 1, 2, 0, 1, 2], np.int32),
    'id': np.arange(6),
}


def small():
    return split_network(
        ResNet(stages=(1,), block='basic', num_classes=3, channels=1, width=8, rngs=nnx.Rngs(0))
    )


def test_local_ascent_turns_samples_around_one_by_one():
    wanted = pytest.approx((-0.1 - 0.49 + 0.7 + 3.0 - 0.05) / 5, rel=1e-6)
    assert float(local_ascent(jnp.array(LOSSES), 0.5)) == wanted
    slope = jax.grad(local_ascent)(jnp.array(LOSSES), 0.5)
    np.testing.assert_allclose(slope, np.array([-1, -1, 1, 1, -1]) / 5, rtol=1e-6)


@pytest.mark.long
@pytest.mark.parametrize('gamma', [0.5, 2.0])
def test_flooding_turns_the_whole_batch_around(gamma):
    mean = LOSSES.mean()  # .868
    found = float(flooding(jnp.array(LOSSES), gamma))
    assert found == pytest.approx(abs(mean - gamma) + gamma, rel=1e-6)
    slope = jax.grad(flooding)(jnp.array(LOSSES), gamma)
    np.testing.assert_allclose(slope, np.full(5, np.sign(mean - gamma) / 5), rtol=1e-6)


def losses_by_hand(graph, params, stats):
    logits = np.asarray(
        nnx.merge(graph, params, stats)(BATCH['image'].astype(np.float32) / 255, train=True),
        np.float64,
    )
    return np.log(np.exp(logits).sum(-1)) - logits[np.arange(6), BATCH['label']]


@pytest.mark.parametrize('rule', ['local_ascent', 'flooding', 'unlearn'])
def test_tasks_take_the_cross_entropy_of_the_network_in_training(rule):
    graph, params, stats = small()
    losses = losses_by_hand(graph, params, stats)
    gamma = float(np.median(losses))  # some below, some above
    task = Unlearn(graph) if rule == 'unlearn' else HoldUp(graph, rule=rule, gamma=gamma)
    loss, (new, metrics) = task(params, stats, (), BATCH, jax.random.key(0))
    signs = np.sign(losses - gamma)
    wanted = {
        'unlearn': -losses.mean(),
        'flooding': abs(losses.mean() - gamma) + gamma,
        'local_ascent': (signs * losses).mean(),
    }
    assert float(loss) == pytest.approx(wanted[rule], rel=1e-4)
    assert float(metrics['cross_entropy']) == pytest.approx(losses.mean(), rel=1e-4)
    moved = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), stats, new)
    assert max(jax.tree.leaves(moved)) > 1e-4


def descend(task, params, stats, steps):
    """The cross-entropy after some steps of the task."""
    optimizer = optax.sgd(0.1)

    @jax.jit
    def update(params, stats, state):
        (_, (stats, metrics)), grads = jax.value_and_grad(task, has_aux=True)(
            params, stats, (), BATCH, jax.random.key(0)
        )
        updates, state = optimizer.update(grads, state)
        return optax.apply_updates(params, updates), stats, state, metrics['cross_entropy']

    state, seen = optimizer.init(params), []
    for _ in range(steps):
        params, stats, state, loss = update(params, stats, state)
        seen.append(float(loss))
    return seen


@pytest.mark.long
def test_held_up_losses_float_and_unlearned_ones_climb():
    graph, params, stats = small()
    held = descend(HoldUp(graph, rule='local_ascent', gamma=0.8), params, stats, 60)
    assert min(held) > 0.6
    # plain cross-entropy
    free = descend(HoldUp(graph, rule='local_ascent', gamma=0.0), params, stats, 60)
    assert free[-1] < 0.5
    climbed = descend(Unlearn(graph), params, stats, 10)
    assert climbed[-1] > climbed[0] + 0.2


def test_bad_settings_are_refused():
    with pytest.raises(UserError, match='gamma=-1'):
        HoldUp(None, rule='flooding', gamma=-1)  # pyright: ignore[reportArgumentType]
    with pytest.raises(UserError, match='one of'):
        HoldUp(None, rule='sinking', gamma=1)  # pyright: ignore[reportArgumentType]
