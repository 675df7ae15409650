"""Attention distillation against float64 NumPy, its gradient, and what its task refuses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from purify.core.errors import UserError
from purify.models.classifiers.resnet import ResNet
from purify.train.objectives.attention import AlignAttention, attention, attention_distance
from purify.train.state import split_network

RNG = np.random.default_rng(0)
# one program costs less than its operations one by one
jitted = jax.jit(attention, static_argnums=1)
SHAPES = ((3, 4, 4, 5), (3, 2, 2, 7), (3, 1, 1, 2))
STUDENT, TEACHER = ([RNG.normal(size=shape) for shape in SHAPES] for _ in range(2))
BATCH = {
    'image': RNG.integers(0, 256, (6, 8, 8, 1), np.uint8),
    'label': np.array([0, 1, 2, 0, 1, 2], np.int32),
    'id': np.arange(6),
}


def attention_by_hand(maps, power):
    """One image at a time: the sum over channels, flat, over its length."""
    rows = []
    for image in maps:
        flat = np.array(
            [sum(abs(value) ** power for value in place) for line in image for place in line]
        )
        rows.append(flat / np.sqrt((flat**2).sum()))
    return np.array(rows)


def distance_by_hand(student, teacher, betas, power):
    apart = [
        attention_by_hand(s, power) - attention_by_hand(t, power)
        for s, t in zip(student, teacher, strict=True)
    ]
    return sum(
        beta * (difference**2).sum() / difference.size
        for beta, difference in zip(betas, apart, strict=True)
    )


@pytest.mark.parametrize('power', [1.0, 2.0, 3.5])
def test_attention_is_what_numpy_makes_of_it(power):
    found = np.asarray(jitted(jnp.array(STUDENT[0], jnp.float32), power))
    np.testing.assert_allclose(found, attention_by_hand(STUDENT[0], power), rtol=2e-5, atol=1e-6)
    np.testing.assert_allclose((found**2).sum(-1), 1, rtol=1e-5)


def test_attention_does_not_see_scale_or_the_order_of_channels():
    maps = jnp.array(STUDENT[0], jnp.float32)
    np.testing.assert_allclose(jitted(-7 * maps[..., ::-1], 2.0), jitted(maps, 2.0), rtol=1e-5)


def test_maps_of_zeros_have_no_attention_and_no_slope():
    blank = jnp.zeros((2, 3, 3, 4))
    for power in (1.0, 2.0):
        found, slope = jax.jit(jax.value_and_grad(lambda x, p=power: attention(x, p).sum()))(blank)
        assert float(found) == 0
        np.testing.assert_array_equal(slope, 0)


@pytest.mark.parametrize('betas', [(1.0, 1.0, 1.0), (500.0, 1000.0, 1000.0), (0.0, 2.0, 0.0)])
def test_the_distance_is_the_weighted_mean_squared_error(betas):
    single = [[jnp.array(maps, jnp.float32) for maps in groups] for groups in (STUDENT, TEACHER)]
    wanted = distance_by_hand(STUDENT, TEACHER, betas, 2.0)
    distance = jax.jit(attention_distance)
    assert float(distance(*single, betas, 2.0)) == pytest.approx(wanted, rel=1e-4)
    # compiled sums differ in their last bit
    assert float(distance(single[0], single[0], betas, 2.0)) == pytest.approx(0, abs=1e-9)


@pytest.mark.long
def test_the_gradient_is_that_of_differences_and_the_teacher_has_none():
    single = [[jnp.array(maps, jnp.float32) for maps in groups] for groups in (STUDENT, TEACHER)]
    betas, power, step = (3.0, 5.0, 1.0), 2.0, 1e-5
    own, theirs = jax.jit(
        jax.grad(lambda s, t: attention_distance(s, t, betas, power), argnums=(0, 1))
    )(*single)
    for group, place in ((0, (0, 1, 2, 3)), (0, (2, 3, 3, 0)), (1, (1, 0, 1, 6))):
        moved = []
        for sign in (1, -1):
            maps = [values.copy() for values in STUDENT]
            maps[group][place] += sign * step
            moved.append(distance_by_hand(maps, TEACHER, betas, power))
        wanted = pytest.approx((moved[0] - moved[1]) / (2 * step), rel=1e-3)
        assert float(own[group][place]) == wanted
    assert max(float(jnp.abs(slope).max()) for slope in theirs) == 0


def network(seed=0, **changes):
    built = {
        'stages': (1, 1),
        'block': 'basic',
        'num_classes': 3,
        'channels': 1,
        'width': 4,
    } | changes
    return split_network(ResNet(**built, rngs=nnx.Rngs(seed)))


def make_task(beta=(2.0, 5.0), teacher=None):
    (graph, params, stats), (their_graph, *theirs) = network(), teacher or network(1)
    frozen = {'params': theirs[0], 'stats': theirs[1]}
    return AlignAttention(graph, their_graph, frozen, beta=beta, power=2.0), (
        params,
        stats,
        frozen,
        BATCH,
        jax.random.key(0),
    )


@pytest.mark.long
def test_the_task_adds_cross_entropy_and_compares_training_with_evaluation():
    task, inputs = make_task()
    loss, (new, metrics) = jax.jit(task)(*inputs)
    images = BATCH['image'].astype(np.float32) / 255
    own, logits = jax.jit(
        lambda params, stats: nnx.merge(task.graph, params, stats).answer(images, train=True)
    )(*inputs[:2])
    theirs = jax.jit(
        lambda w: nnx.merge(task.teacher_graph, w['params'], w['stats']).groups(images, train=False)
    )(task.frozen)
    logits = np.asarray(logits, np.float64)
    hard = (np.log(np.exp(logits).sum(-1)) - logits[np.arange(6), BATCH['label']]).mean()
    own, theirs = ([np.asarray(maps, np.float64) for maps in side] for side in (own, theirs))
    apart = distance_by_hand(own, theirs, (2.0, 5.0), 2.0)
    assert float(metrics['attention']) == pytest.approx(apart, rel=1e-4)
    assert float(loss) == pytest.approx(hard + apart, rel=1e-5)
    assert float(metrics['accuracy']) == pytest.approx((logits.argmax(-1) == BATCH['label']).mean())
    moved = jax.tree.map(lambda a, b: float(np.abs(a - b).max()), inputs[1], new)
    assert max(jax.tree.leaves(moved)) > 1e-4


def test_one_beta_serves_all_groups():
    (one, inputs), (each, _) = make_task((4.0,)), make_task((4.0, 4.0))
    found = float(jax.jit(one)(*inputs)[0])
    assert found == pytest.approx(float(jax.jit(each)(*inputs)[0]), rel=1e-6)


@pytest.mark.parametrize(
    ('beta', 'teacher', 'message'),
    [
        ((1.0, 2.0, 3.0), {}, 'has 3 weights, but the network 2 groups'),
        ((1.0,), {'stages': (1,)}, 'the same network'),
    ],
)
def test_what_does_not_fit_is_refused(beta, teacher, message):
    task, inputs = make_task(beta, network(1, **teacher))
    with pytest.raises(UserError, match=message):
        jax.eval_shape(task, *inputs)


@pytest.mark.parametrize(
    'bad',
    [
        {'beta': ()},
        {'beta': (1.0, -1.0)},
        {'beta': 1.0},
        {'beta': (np.nan,)},
        {'power': 0.5},
        {'power': np.inf},
    ],
)
def test_bad_numbers_are_refused(bad):
    graph, *_ = network()
    with pytest.raises(UserError, match="objective 'attention'"):
        AlignAttention(graph, graph, {}, **{'beta': (1.0,), 'power': 2.0} | bad)


def test_torch_has_the_same_loss_and_gradients():
    """As the released code has it: powers summed over channels, divided by their norm, mean squared
    error, times beta.
    """
    torch = pytest.importorskip('torch', reason='the parity extra (torch) is not installed')
    betas = (500.0, 1000.0, 1000.0)
    tensors = [torch.tensor(np.moveaxis(maps, -1, 1), requires_grad=True) for maps in STUDENT]
    loss = torch.zeros((), dtype=torch.float64)
    for beta, own, goal in zip(betas, tensors, TEACHER, strict=True):
        sums = [
            maps.abs().pow(2).sum(1).flatten(1)
            for maps in (own, torch.tensor(np.moveaxis(goal, -1, 1)))
        ]
        loss = loss + beta * torch.nn.functional.mse_loss(
            *(torch.nn.functional.normalize(flat, dim=1) for flat in sums)
        )
    loss.backward()
    single = [[jnp.array(maps, jnp.float32) for maps in groups] for groups in (STUDENT, TEACHER)]
    value, slopes = jax.jit(
        jax.value_and_grad(lambda s: attention_distance(s, single[1], betas, 2.0))
    )(single[0])
    assert float(value) == pytest.approx(loss.item(), rel=1e-4)
    for slope, tensor in zip(slopes, tensors, strict=True):
        wanted = np.moveaxis(tensor.grad.numpy(), 1, -1)
        np.testing.assert_allclose(slope, wanted, rtol=1e-3, atol=1e-4)
