import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from support.meshes import mesh_of

from purify.core import devices
from purify.core.errors import UserError
from purify.data.augment import Flip, PadCrop, change_all
from purify.train.loop import make_step
from purify.train.objectives.contrast import Contrast, Projected, nt_xent
from purify.train.state import abstract_network, make_state

RNG = np.random.default_rng(0)
VIEWS = functools.partial(change_all, (PadCrop(1), Flip(0.5)))
ROWS = {
    'image': RNG.integers(0, 256, (16, 6, 6, 1), np.uint8),
    'label': np.arange(16, dtype=np.int32) % 3,
    'id': np.arange(16, dtype=np.int32) + 100,
}


class Tiny(nnx.Module):
    """A network with statistics, features and a head."""

    def __init__(self, rngs):
        self.norm = nnx.BatchNorm(36, rngs=rngs)
        self.body = nnx.Linear(36, 8, rngs=rngs)
        self.head = nnx.Linear(8, 3, rngs=rngs)

    def features(self, images, *, train, key=None):
        del key
        flat = self.norm(images.reshape(len(images), -1), use_running_average=not train)
        return jax.nn.relu(self.body(flat))


def build(rngs):
    return Projected(Tiny(rngs), 5, rngs=rngs)


def written_out(first, second, temperature):
    """Chen et al. 2020, algorithm 1, view by view, in float64."""
    points = [
        row
        for pair in zip(first.astype(np.float64), second.astype(np.float64), strict=True)
        for row in pair
    ]
    similar = lambda a, b: a @ b / (np.linalg.norm(a) * np.linalg.norm(b))
    losses, wins = [], []
    for i, anchor in enumerate(points):
        partner = i + 1 if i % 2 == 0 else i - 1
        others = {
            k: np.exp(similar(anchor, points[k]) / temperature)
            for k in range(len(points))
            if k != i
        }
        losses.append(-np.log(others[partner] / sum(others.values())))
        wins.append(max(others, key=others.get) == partner)
    return np.mean(losses), np.mean(wins)


@pytest.mark.parametrize(('rows', 'temperature'), [(1, 0.5), (7, 0.5), (7, 0.1), (20, 1.0)])
def test_the_loss_is_the_papers(rows, temperature):
    first = RNG.normal(size=(rows, 5)).astype(np.float32) * 3
    second = first + RNG.normal(size=first.shape).astype(np.float32) * 2
    ours = jax.jit(nt_xent, static_argnums=2)(first, second, temperature)
    np.testing.assert_allclose(ours, written_out(first, second, temperature), rtol=2e-6, atol=1e-6)


def test_points_of_no_length_and_equal_points_give_numbers():
    same = jnp.ones((4, 3))
    loss, wins = jax.jit(nt_xent)(same, same, 0.5)
    # eight views, seven of which look like the partner
    np.testing.assert_allclose(loss, np.log(7), rtol=1e-6)
    assert wins == 0
    slope = jax.jit(jax.grad(lambda x: nt_xent(x, same, 0.5)[0]))(jnp.zeros((4, 3)))
    np.testing.assert_array_equal(slope, np.zeros((4, 3)))


@functools.cache
def after_one_step(count, blind=False):
    graph, _ = abstract_network(build)
    mesh = mesh_of(count)
    optimizer = optax.sgd(0.5)
    state = make_state(build, optimizer, seed=1, keep_ema=False, mesh=mesh)
    step = jax.jit(make_step(Contrast(graph, VIEWS, 0.5), optimizer, 1, 3))
    labels = ROWS['label'][::-1] if blind else ROWS['label']
    state, metrics = step(state, (), devices.put_batch(ROWS | {'label': labels}, mesh))
    return state, metrics


@pytest.mark.long
def test_eight_devices_hold_one_batch_of_negatives():
    (one, metrics), (eight, spread) = (after_one_step(count) for count in (1, 8))
    np.testing.assert_allclose(metrics['loss'], spread['loss'], rtol=1e-5)
    assert metrics['loss'] > np.log(4)  # more than a device's own two images could give
    for a, b in zip(
        jax.tree.leaves((one.params, one.stats)),
        jax.tree.leaves((eight.params, eight.stats)),
        strict=True,
    ):
        np.testing.assert_allclose(a, b, atol=2e-5)


@pytest.mark.long
def test_labels_and_the_head_take_no_part():
    (seen, _), (blind, _) = (after_one_step(1, blind) for blind in (False, True))
    for a, b in zip(jax.tree.leaves(seen.params), jax.tree.leaves(blind.params), strict=True):
        np.testing.assert_array_equal(a, b)
    start = make_state(build, optax.sgd(0.5), seed=1, keep_ema=False, mesh=mesh_of(1))
    before, after = start.params['network'], seen.params['network']
    np.testing.assert_array_equal(before['head']['kernel'], after['head']['kernel'])
    assert np.abs(before['body']['kernel'] - after['body']['kernel']).max() > 1e-4


def test_wrong_settings_are_refused():
    graph, _ = abstract_network(build)
    with pytest.raises(UserError, match='temperature'):
        Contrast(graph, VIEWS, 0.0)
    with pytest.raises(UserError, match='projection'):
        Projected(Tiny(nnx.Rngs(0)), 0, rngs=nnx.Rngs(0))
