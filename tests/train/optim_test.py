import jax
import numpy as np
import optax
import pytest

from purify.core.errors import UserError
from purify.train.optim import make_lr_schedule, make_optimizer, total_steps

ADAM = {'name': 'adam', 'b1': 0.9, 'b2': 0.999}


def test_total_steps_from_epochs_or_steps():
    assert total_steps(30, 0, 800, 64) == 375
    assert total_steps(0.0, 7, 800, 64) == 7
    assert total_steps(5, 0, 8, 64) == 5
    for epochs, steps in ((1, 1), (0, 0)):
        with pytest.raises(UserError, match='give one of them'):
            total_steps(epochs, steps, 800, 64)
    with pytest.raises(UserError, match='no step at all'):
        total_steps(0.01, 0, 800, 64)


def test_linear_with_warmup_is_a_triangle():
    schedule = make_lr_schedule(100, lr=0.2, schedule='linear', warmup=0.2)
    found = [float(schedule(step)) for step in (0, 19, 20, 60, 100)]
    np.testing.assert_allclose(found, [0.2 / 21, 0.2 * 20 / 21, 0.2, 0.1, 0.0], atol=1e-6)


def test_cosine_with_warmup_follows_the_formula():
    schedule = make_lr_schedule(100, lr=0.2, schedule='cosine', warmup=0.1)
    for step in range(10):
        assert float(schedule(step)) == pytest.approx(0.2 * (step + 1) / 11)
    for step in (10, 40, 99):
        wanted = 0.2 * (1 + np.cos(np.pi * (step - 10) / 90)) / 2
        assert float(schedule(step)) == pytest.approx(wanted, abs=1e-6)


def test_step_schedule_drops_where_the_paper_does():
    schedule = make_lr_schedule(
        1000, lr=1e-3, schedule='step', warmup=0.0, drops=(0.3, 0.5), factor=0.1
    )
    wanted = pytest.approx([1e-3, 1e-3, 1e-4, 1e-4, 1e-5])
    assert [float(schedule(s)) for s in (0, 299, 301, 499, 501)] == wanted


@pytest.mark.parametrize(
    ('total', 'drops'), [(6, (0.5, 0.55)), (6, (0.5, 0.52, 0.55, 0.9)), (100, (0.5, 0.55))]
)
def test_drops_that_fall_on_one_step_all_count(total, drops):
    schedule = make_lr_schedule(total, lr=0.2, schedule='step', warmup=0.0, drops=drops, factor=0.1)
    wanted = [
        0.2 * 0.1 ** sum(step >= round(share * total) for share in drops) for step in range(total)
    ]
    assert [float(schedule(step)) for step in range(total)] == pytest.approx(wanted, rel=1e-5)


def test_sgd_is_pytorchs():
    """w <- w - lr v, v <- .9 v + (g + wd w), by hand in float64."""
    optimizer = make_optimizer(
        10,
        name='sgd',
        lr=0.1,
        schedule='constant',
        warmup=0.0,
        clip=0.0,
        momentum=0.9,
        nesterov=False,
        weight_decay=0.01,
    )
    w, velocity, params = 2.0, 0.0, np.float32(2.0)
    state = optimizer.init(params)
    for gradient in (1.0, -0.5, 0.25):
        velocity = 0.9 * velocity + gradient + 0.01 * w
        w -= 0.1 * velocity
        updates, state = optimizer.update(np.float32(gradient), state, params)
        params = optax.apply_updates(params, updates)
        assert float(params) == pytest.approx(w, rel=1e-6)


def test_lars_scales_each_layer_by_its_own_lengths_and_leaves_biases_alone():
    """You et al.

    2017, by hand in float64: v <- .9 v + lr r (g + wd w), w <- w - v, r = trust |w| / |g + wd w|.
    """
    optimizer = make_optimizer(
        10,
        name='lars',
        lr=0.3,
        schedule='constant',
        warmup=0.0,
        clip=0.0,
        momentum=0.9,
        weight_decay=0.1,
        trust_coefficient=0.02,
    )
    rng = np.random.default_rng(0)
    start = {'kernel': rng.normal(size=(3, 4)), 'bias': rng.normal(size=4)}
    params = {name: value.astype(np.float32) for name, value in start.items()}
    state = optimizer.init(params)
    speed = {name: np.zeros_like(value) for name, value in start.items()}
    for _ in range(3):
        slopes = {name: rng.normal(size=value.shape) for name, value in start.items()}
        for name, slope in slopes.items():
            pull = slope + 0.1 * start[name] if name == 'kernel' else slope
            trust = (
                0.02 * np.linalg.norm(start[name]) / np.linalg.norm(pull)
                if name == 'kernel'
                else 1.0
            )
            speed[name] = 0.9 * speed[name] + 0.3 * trust * pull
            start[name] = start[name] - speed[name]
        updates, state = optimizer.update(
            {name: slope.astype(np.float32) for name, slope in slopes.items()}, state, params
        )
        params = optax.apply_updates(params, updates)
        for name, value in start.items():
            np.testing.assert_allclose(params[name], value, rtol=1e-5, atol=1e-6)


def test_muon_steps_by_an_orthogonal_matrix_and_all_but_kernels_by_adam():
    """Of U S V^T it takes U V^T, S being near 1 (published: .7 to 1.2), from taps and inputs to
    outputs; with more outputs than inputs by the root of their ratio more.
    """
    optimizer = make_optimizer(
        10, name='muon', lr=0.5, schedule='constant', momentum=0.9, adam_share=0.2
    )
    rng = np.random.default_rng(0)
    shapes = {'conv': (3, 3, 4, 5), 'narrow': (20, 6), 'wide': (4, 16)}
    slopes = {name: {'kernel': rng.normal(size=shape)} for name, shape in shapes.items()}
    slopes |= {
        'norm': {'bias': rng.normal(size=5)},
        'table': {'embedding': rng.normal(size=(4, 3))},
    }
    slopes = jax.tree.map(np.float32, slopes)
    params = jax.tree.map(np.zeros_like, slopes)
    updates, _ = optimizer.update(slopes, optimizer.init(params), params)
    for name, scale in (('conv', 1), ('narrow', 1), ('wide', 2)):
        outputs = shapes[name][-1]
        found = -np.asarray(updates[name]['kernel'], float).reshape(-1, outputs) / 0.5 / scale
        slope = slopes[name]['kernel'].reshape(-1, outputs)
        left, _, right = np.linalg.svd(slope, full_matrices=False)
        inside = left.T @ found @ right.T
        assert ((np.diag(inside) > 0.6) & (np.diag(inside) < 1.3)).all()
        np.testing.assert_allclose(inside - np.diag(np.diag(inside)), 0, atol=1e-2)
        np.testing.assert_allclose(left @ inside @ right, found, atol=1e-2)
    first = 1 + 0.9 * 0.1 / (1 - 0.9**2)  # Adam with Nesterov's momentum (Dozat 2016)
    for name, leaf in (('norm', 'bias'), ('table', 'embedding')):
        wanted = -0.1 * first * np.sign(slopes[name][leaf])
        np.testing.assert_allclose(updates[name][leaf], wanted, rtol=1e-4)


def test_epochs_of_few_images_are_a_least_number_of_updates():
    assert total_steps(12, 0, 250, 256, 400) == 400
    assert total_steps(12, 0, 10_000, 256, 400) == 469
    assert total_steps(0, 7, 250, 256, 400) == 7


def test_clip_bounds_the_gradient():
    kwargs = {'lr': 1.0, 'schedule': 'constant', 'warmup': 0.0, 'momentum': 0.0, 'nesterov': False}
    kwargs |= {'weight_decay': 0.0}
    optimizer = make_optimizer(1, name='sgd', clip=1.0, **kwargs)
    updates, _ = optimizer.update(
        np.array([3.0, 4.0], np.float32),
        optimizer.init(np.zeros(2, np.float32)),
        np.zeros(2, np.float32),
    )
    assert np.asarray(updates) == pytest.approx([-0.6, -0.8])


@pytest.mark.parametrize('bad', [{'lr': 0.0}, {'lr': -1.0}, {'warmup': 1.0}])
def test_bad_numbers_are_named(bad):
    with pytest.raises(UserError, match=r'optim\.lr'):
        make_optimizer(
            10, **(ADAM | {'lr': 0.1, 'schedule': 'cosine', 'warmup': 0.0, 'clip': 0.0} | bad)
        )


def test_unknown_names_list_the_choices():
    common = {'lr': 0.1, 'warmup': 0.0, 'clip': 0.0}
    with pytest.raises(UserError, match="Did you mean 'adam'"):
        make_optimizer(10, name='adan', schedule='cosine', **common)
    with pytest.raises(UserError, match='constant, cosine, linear, step'):
        make_optimizer(10, name='adam', schedule='square', b1=0.9, b2=0.99, **common)
