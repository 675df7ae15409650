import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from scipy.special import log_softmax, softmax
from support.meshes import mesh_of

from purify.core import devices
from purify.core.errors import UserError
from purify.models.classifiers.resnet import ResNet
from purify.train.loop import make_step
from purify.train.objectives.semi_supervised import FitHead, FitTail, MixMatch, head_only, sharpen
from purify.train.objectives.tasks import Classify
from purify.train.state import abstract_network, make_state

RNG = np.random.default_rng(0)
STILL = {'pad_px': 0, 'flip': 0.0}  # views that are the images
UNMIXED = 1e-6  # of a Beta whose larger share is 1


class Linear(nnx.Module):
    """Pixels, a linear body, a head; with `norm`, statistics too."""

    def __init__(self, rngs, norm=False):
        self.norm = nnx.BatchNorm(12, rngs=rngs) if norm else None
        self.body = nnx.Linear(12, 6, rngs=rngs)
        self.head = nnx.Linear(6, 3, rngs=rngs)

    def features(self, images, *, train, key=None):
        del key
        flat = images.reshape(len(images), -1)
        return self.body(
            flat if self.norm is None else self.norm(flat, use_running_average=not train)
        )

    def __call__(self, images, *, train, key=None):
        return self.head(self.features(images, train=train, key=key))


def build(rngs):
    return Linear(rngs)


def build_normed(rngs):
    return Linear(rngs, norm=True)


def rows(count):
    images = RNG.integers(0, 256, (2, count, 2, 2, 3), np.uint8)
    ids = np.arange(count, dtype=np.int32)
    labels = RNG.integers(0, 3, count).astype(np.int32)
    made = {'image': images[0], 'label': labels, 'id': ids, 'unlabelled': images[1]}
    return made | {'unlabelled_id': ids + 50}


def logits_of(params, images):
    """The linear network in float64."""
    p = jax.tree.map(lambda x: np.asarray(x, np.float64), params)
    flat = images.reshape(len(images), -1)
    return (flat @ p['body']['kernel'] + p['body']['bias']) @ p['head']['kernel'] + p['head'][
        'bias'
    ]


def fresh(make, scale=3.0):
    graph, _ = abstract_network(make)
    state = make_state(make, optax.identity(), seed=0, keep_ema=False, mesh=mesh_of(1))
    return graph, jax.tree.map(lambda x: scale * x, state.params), state.stats


@pytest.mark.long
def test_sharpening_is_the_papers():
    p = RNG.dirichlet(np.ones(5), 4)
    expected = p**2 / (p**2).sum(-1, keepdims=True)
    np.testing.assert_allclose(sharpen(jnp.asarray(p, jnp.float32), 0.5), expected, rtol=1e-5)
    np.testing.assert_allclose(sharpen(jnp.array([1.0, 0.0]), 0.5), [1, 0])


@pytest.mark.long
def test_the_heads_loss_is_written_out_and_only_the_head_moves():
    graph, params, stats = fresh(build_normed, scale=1.0)
    batch = rows(5)
    loss, (new, _) = jax.jit(FitHead(graph, 0.1, 1.0))(params, stats, (), batch, jax.random.key(0))
    # the norm at its start: mean 0, variance 1
    flat = batch['image'].astype(np.float64) / 255 / np.sqrt(1 + 1e-5)
    p = softmax(logits_of(params, flat), -1)
    known = np.eye(3)[batch['label']]
    written = -0.1 * (known * np.log(p)).sum(-1) - (p * np.log(np.maximum(known, 1e-4))).sum(-1)
    np.testing.assert_allclose(loss, written.mean(), rtol=1e-5)
    for a, b in zip(jax.tree.leaves(stats), jax.tree.leaves(new), strict=True):
        np.testing.assert_array_equal(a, b)


def test_weight_decay_leaves_all_but_the_head():
    mesh = mesh_of(1)
    optimizer = head_only(optax.adamw(1e-2, weight_decay=0.5))
    graph, _ = abstract_network(build)
    state = make_state(build, optimizer, seed=0, keep_ema=False, mesh=mesh)
    step = jax.jit(make_step(FitHead(graph, 0.1, 1.0), optimizer, 1, 0))
    after, _ = step(step(state, (), rows(4))[0], (), rows(4))
    np.testing.assert_array_equal(after.params['body']['kernel'], state.params['body']['kernel'])
    assert np.abs(after.params['head']['kernel'] - state.params['head']['kernel']).min() > 1e-4


def build_residual(rngs):
    return ResNet(stages=(1, 1), block='preact', num_classes=3, channels=3, width=4, rngs=rngs)


def test_the_tails_gradient_is_that_of_plain_training_and_nothing_before_it_moves():
    graph, params, stats = fresh(build_residual, scale=1.0)
    batch = rows(3)

    @jax.jit
    def both(params, stats):
        value = lambda task: jax.value_and_grad(task, has_aux=True)(
            params, stats, (), batch, jax.random.key(0)
        )
        return value(FitTail(graph, 1)), value(Classify(graph))

    ((loss, (after, _)), slopes), ((plain, (moved, _)), whole) = both(params, stats)
    np.testing.assert_allclose(loss, plain, rtol=1e-6)
    for a, b, before in zip(*map(jax.tree.leaves, (after, moved, stats)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5)
        assert np.abs(a - before).max() > 0  # the statistics of all groups
    learn = ([grads['blocks'][1], grads['head']] for grads in (slopes, whole))
    for a, b in zip(*map(jax.tree.leaves, learn), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)
    for part in (lambda grads: grads['stem'], lambda grads: grads['blocks'][0]):
        assert any(slope.any() for slope in jax.tree.leaves(part(whole)))
        assert not any(slope.any() for slope in jax.tree.leaves(part(slopes)))


@pytest.mark.parametrize('groups', [0, 3])
def test_a_tail_of_no_groups_or_too_many_is_refused(groups):
    graph, like = abstract_network(build_residual)
    with pytest.raises(UserError, match=rf'groups={groups}.* from 1 to 2'):
        jax.eval_shape(
            FitTail(graph, groups), like['params'], like['stats'], (), rows(2), jax.random.key(0)
        )


def mixmatch(graph, **changes):
    return MixMatch(graph, **STILL | {'temperature': 0.5, 'alpha': 0.75, 'weight': 15.0} | changes)


def written_out(params, images, targets, weight):
    """Loss of rows [labelled, first views, second views] of `b` images each, in float64."""
    logits, b = logits_of(params, images), len(images) // 3
    supervised = -(targets[:b] * log_softmax(logits[:b], -1)).sum(-1).mean()
    return supervised + weight * np.square(softmax(logits[b:], -1) - targets[b:]).mean()


def unmixed_rows(params, batch):
    """Images and targets of `written_out`, before they are mixed."""
    labelled, other = (batch[name].astype(np.float64) / 255 for name in ('image', 'unlabelled'))
    guess = softmax(logits_of(params, other), -1) ** 2
    guess /= guess.sum(-1, keepdims=True)
    return np.concatenate([labelled, other, other]), np.concatenate(
        [np.eye(3)[batch['label']], guess, guess]
    )


@pytest.mark.long
def test_without_views_and_mixture_the_loss_is_written_out():
    graph, params, stats = fresh(build)
    batch = rows(5)
    value = jax.jit(jax.value_and_grad(mixmatch(graph, alpha=UNMIXED), has_aux=True))
    images, targets = unmixed_rows(params, batch)
    # guesses stay where they are: no gradient flows into them
    bias, tiny = np.asarray(params['head']['bias']), 1e-5
    for progress in (0.0, 0.3, 1.0):
        (loss, _), slopes = value(
            params, stats, (), batch | {'progress': progress}, jax.random.key(1)
        )
        wanted = written_out(params, images, targets, 15 * progress)
        np.testing.assert_allclose(loss, wanted, rtol=2e-5)
        for k in range(3):
            moved = [
                params | {'head': params['head'] | {'bias': bias + way * tiny * np.eye(3)[k]}}
                for way in (1, -1)
            ]
            ahead, behind = (written_out(p, images, targets, 15 * progress) for p in moved)
            found = slopes['head']['bias'][k]
            np.testing.assert_allclose(found, (ahead - behind) / (2 * tiny), rtol=1e-3, atol=1e-4)


@pytest.mark.long
def test_halves_are_mixed_with_some_other_row():
    graph, params, stats = fresh(build)
    batch = rows(1)
    images, targets = unmixed_rows(params, batch)
    possible = []
    for order in itertools.permutations(range(3)):
        halves = [(x + x[list(order)]) / 2 for x in (images, targets)]
        possible.append(written_out(params, *halves, 15.0))
    task = jax.jit(mixmatch(graph, alpha=1e7))  # Beta's mass is at one half
    seen = [
        float(task(params, stats, (), batch | {'progress': 1.0}, jax.random.key(seed))[0])
        for seed in range(12)
    ]
    nearest = [int(np.abs(np.array(possible) - loss).argmin()) for loss in seen]
    np.testing.assert_allclose(seen, np.array(possible)[nearest], rtol=2e-3)
    # the image with a label is mixed with a view of the other, or is not
    assert len({round(possible[k], 4) for k in nearest}) == 2


@pytest.mark.long
def test_eight_devices_mix_one_batch():
    graph, _ = abstract_network(build_normed)
    batch, found = rows(16), []
    for count in (1, 8):
        mesh = mesh_of(count)
        optimizer = optax.sgd(0.1)
        state = make_state(build_normed, optimizer, seed=1, keep_ema=False, mesh=mesh)
        step = jax.jit(make_step(mixmatch(graph, pad_px=1, flip=0.5), optimizer, 1, 3, steps=2))
        placed = devices.put_batch(batch, mesh)
        for _ in range(2):
            state, metrics = step(state, (), placed)
        found.append((state, metrics))
    (one, metrics), (eight, spread) = found
    for name in metrics:
        np.testing.assert_allclose(metrics[name], spread[name], rtol=1e-4)
    # half way, the consistency counts half of its 15
    whole = metrics['supervised'] + 7.5 * metrics['consistency']
    np.testing.assert_allclose(metrics['loss'], whole, rtol=1e-5)
    for a, b in zip(
        jax.tree.leaves((one.params, one.stats)),
        jax.tree.leaves((eight.params, eight.stats)),
        strict=True,
    ):
        np.testing.assert_allclose(a, b, atol=2e-5)


@pytest.mark.parametrize(
    'wrong', [{'temperature': 0.0}, {'alpha': 0.0}, {'weight': -1.0}, {'pad_px': -1}, {'flip': 2.0}]
)
def test_wrong_settings_are_refused(wrong):
    graph, _ = abstract_network(build)
    with pytest.raises(UserError, match=next(iter(wrong))):
        mixmatch(graph, **wrong)
