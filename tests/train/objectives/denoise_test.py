import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from purify.core.errors import UserError
from purify.diffusion.preconditioning import Preconditioning
from purify.diffusion.schedules import make_noise_schedule
from purify.train.objectives.denoise import Denoise, DenoisePreconditioned, told_classes
from purify.train.state import split_network

SCHEDULE = make_noise_schedule('linear', 1000)
BLACK = {'image': np.zeros((64, 8, 8, 1), np.uint8), 'label': np.arange(64) % 3}


class Perfect(nnx.Module):
    """Knows that the image is black: x_t = -sqrt(a) + sqrt(1 - a) noise."""

    def __init__(self):
        self.alphas = nnx.data(jnp.asarray(SCHEDULE.alphas_cumprod, jnp.float32))

    def __call__(self, x, t, *, key=None):
        a = self.alphas[t][:, None, None, None]
        return (x + jnp.sqrt(a)) / jnp.sqrt(1 - a)


class Silent(nnx.Module):
    def __call__(self, x, t, labels=None, *, key=None):
        return jnp.zeros_like(x)


class Tells(nnx.Module):
    """Answers with the class it was told."""

    def __call__(self, x, t, labels, *, key=None):
        return jnp.broadcast_to(labels.astype(jnp.float32)[:, None, None, None], x.shape)


def loss_of(task, batch=BLACK, key=0):
    graph, params, stats = split_network(task[0])
    return float(task[1](graph)(params, stats, (), batch, jax.random.key(key))[0])


@pytest.mark.long
def test_the_loss_is_zero_for_a_perfect_network_and_the_variance_of_noise_for_a_silent_one():
    black = {'image': BLACK['image']}  # without classes no label is asked for
    make = lambda graph: Denoise(graph, SCHEDULE, 8, 0.9)
    assert loss_of((Perfect(), make), black) < 1e-3
    assert loss_of((Silent(), make), black) == pytest.approx(1.0, abs=0.06)


@pytest.mark.long
def test_a_silent_network_under_edm_has_the_loss_of_its_skip_alone():
    """D = c_skip (x_0 + s n), so weight (D - x_0)^2 has the mean weight ((c_skip - 1)^2 x_0^2 +
    c_skip^2 s^2) over log-normal s.
    """
    edm = Preconditioning()
    s = np.exp(-1.2 + 1.2 * np.random.default_rng(0).normal(size=200_000))
    skip, weight = 0.25 / (s**2 + 0.25), (s**2 + 0.25) / (s * 0.5) ** 2
    expected = (weight * ((skip - 1) ** 2 + skip**2 * s**2)).mean()  # black is -1
    many = {'image': np.zeros((4096, 4, 4, 1), np.uint8), 'label': np.zeros(4096, int)}
    found = loss_of(
        (Silent(), lambda graph: DenoisePreconditioned(graph, edm, 4, 0.0, 3, 0.1)), many
    )
    assert found == pytest.approx(expected, rel=0.1)


def test_timesteps_below_a_bound_are_drawn_as_often_as_asked():
    """Evenly under it and evenly from it on; all alike unless a bound is set."""
    steps = SCHEDULE.steps
    often = Denoise(None, SCHEDULE, 8, 0.0, below=steps // 4, share=0.9)
    drawn = np.asarray(often.draw(jax.random.key(0), 40_000))
    low, high = drawn[drawn < steps // 4], drawn[drawn >= steps // 4]
    assert len(low) / len(drawn) == pytest.approx(0.9, abs=0.01)
    assert (low.min(), high.max()) == (0, steps - 1)
    assert low.mean() == pytest.approx((steps // 4 - 1) / 2, rel=0.02)
    assert high.mean() == pytest.approx((steps // 4 + steps - 1) / 2, rel=0.02)
    late = Denoise(None, SCHEDULE, 8, 0.0, below=999, share=1e-9)
    assert float(late.draw(jax.random.key(0), 9).min()) == 999
    alike = np.asarray(Denoise(None, SCHEDULE, 8, 0.0).draw(jax.random.key(0), 40_000))
    assert alike.mean() == pytest.approx((steps - 1) / 2, rel=0.02)


@pytest.mark.parametrize(
    ('wrong', 'told'),
    [
        ({'below': -1}, 'below='),
        ({'below': SCHEDULE.steps, 'share': 0.5}, 'below='),
        ({'share': 1.0}, 'share='),
        ({'share': 0.5}, 'go together'),
        ({'below': 5}, 'go together'),
    ],
)
def test_bounds_that_are_none_are_refused(wrong, told):
    with pytest.raises(UserError, match=told):
        Denoise(None, SCHEDULE, 8, 0.0, **wrong)


def test_classes_are_told_and_hidden_by_chance():
    batch = {'label': jnp.arange(20_000) % 5}
    assert told_classes(batch, 0, 0.5, jax.random.key(0)) == ()
    (whole,) = told_classes(batch, 5, 0.0, jax.random.key(0))
    np.testing.assert_array_equal(whole, batch['label'])
    (told,) = told_classes(batch, 5, 0.3, jax.random.key(0))
    hidden = np.asarray(told) == 5
    assert abs(hidden.mean() - 0.3) < 0.015
    np.testing.assert_array_equal(np.asarray(told)[~hidden], np.asarray(batch['label'])[~hidden])


@pytest.mark.long
def test_the_network_hears_its_image_s_class():
    make = lambda graph: Denoise(graph, SCHEDULE, 8, 0.0, classes=3)
    losses = [loss_of((Tells(), make), BLACK | {'label': np.full(64, label)}) for label in range(3)]
    # E (n - label)^2
    np.testing.assert_allclose(losses, [1 + label**2 for label in range(3)], atol=0.2)


@pytest.mark.parametrize('drop', [-0.1, 1.0, float('nan')])
def test_chances_that_are_none_are_refused(drop):
    for make in (
        lambda: Denoise(None, SCHEDULE, 8, 0.0, 3, drop),
        lambda: DenoisePreconditioned(None, Preconditioning(), 8, 0.0, 3, drop),
    ):
        with pytest.raises(UserError, match='drop='):
            make()
