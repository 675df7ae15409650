import math

import jax.numpy as jnp
import numpy as np
import pytest

from purify.core.errors import UserError
from purify.diffusion.schedules import Schedule, add_noise, make_noise_schedule


def test_linear_betas_by_hand():
    schedule = make_noise_schedule('linear', 1000)
    assert schedule.betas[0] == 1e-4
    assert schedule.betas[-1] == 0.02
    assert schedule.betas[499] == pytest.approx(1e-4 + 499 / 999 * (0.02 - 1e-4), rel=1e-14)
    product = math.prod(1 - (1e-4 + i / 999 * (0.02 - 1e-4)) for i in range(700))
    assert schedule.alphas_cumprod[699] == pytest.approx(product, rel=1e-12)
    assert schedule.betas.dtype == schedule.alphas_cumprod.dtype == np.float64


def test_scaled_linear_betas_by_hand():
    betas = make_noise_schedule('scaled_linear', 1000).betas
    assert betas[250] == pytest.approx(
        (0.75 * 0 + math.sqrt(0.00085) + 250 / 999 * (math.sqrt(0.012) - math.sqrt(0.00085))) ** 2
    )
    assert (betas[0], betas[-1]) == (pytest.approx(0.00085), pytest.approx(0.012))


def test_cosine_schedule_by_hand():
    schedule = make_noise_schedule('cosine', 1000)

    def f(t):
        return math.cos((t / 1000 + 0.008) / 1.008 * math.pi / 2) ** 2

    assert schedule.alphas_cumprod[499] == pytest.approx(f(500) / f(0), rel=1e-12)
    assert schedule.betas[-1] == 0.999


def test_between_timesteps_the_ratio_is_linear():
    schedule = make_noise_schedule('linear', 10)
    ratios = np.sqrt((1 - schedule.alphas_cumprod) / schedule.alphas_cumprod)
    alpha, sigma = schedule.alpha_sigma(np.array([3, 3.25]))
    assert alpha[0] == pytest.approx(np.sqrt(schedule.alphas_cumprod[3]))
    assert sigma[1] / alpha[1] == pytest.approx(0.75 * ratios[3] + 0.25 * ratios[4])
    np.testing.assert_allclose(alpha**2 + sigma**2, 1)


@pytest.mark.long
def test_noise_of_each_image_has_its_own_timestep():
    schedule = make_noise_schedule('linear', 100)
    rng = np.random.default_rng(0)
    x0, noise = rng.normal(size=(2, 3, 4, 4, 3)).astype(np.float32)
    noised = add_noise(schedule, x0, noise, jnp.array([0, 50, 99]))
    for row, t in enumerate((0, 50, 99)):
        level = math.prod(1 - beta for beta in schedule.betas[: t + 1])
        wanted = math.sqrt(level) * x0[row] + math.sqrt(1 - level) * noise[row]
        np.testing.assert_allclose(noised[row], wanted, atol=1e-6)


@pytest.mark.long
def test_timesteps_outside_the_schedule_do_not_pass_for_noise():
    x = jnp.zeros((2, 2, 2, 1))
    noised = add_noise(make_noise_schedule('linear', 10), x, x, jnp.array([9, 10]))
    assert np.isfinite(noised[0]).all()
    assert np.isnan(noised[1]).all()


@pytest.mark.parametrize(
    ('make', 'named'),
    [
        (lambda: make_noise_schedule('quadratic', 10), 'cosine, linear, scaled_linear'),
        (lambda: make_noise_schedule('linear', 0), 'steps must be a positive integer'),
        (lambda: make_noise_schedule('linear', 10.5), '10.5'),
        (lambda: make_noise_schedule('linear', 10, beta_end=1.5), '1.5'),
        (lambda: make_noise_schedule('linear', 10, beta_start=float('nan')), 'nan'),
        (lambda: make_noise_schedule('linear', 10, offset=1), 'offset'),
        (lambda: make_noise_schedule('linear', 10, prediction='score'), 'v_prediction'),
        (lambda: make_noise_schedule('linear', 10, clip_range=float('inf')), 'clip_range'),
        (lambda: Schedule(np.array([0.1, np.nan])), 'between 0 and 1'),
        (lambda: Schedule(np.array([0.1, 1.0])), 'between 0 and 1'),
        (lambda: Schedule(np.array([])), 'non-empty'),
        (lambda: Schedule('abc'), 'abc'),
        (lambda: Schedule(np.full(1000, 0.9)), 'no signal'),
    ],
)
def test_builders_refuse(make, named):
    with pytest.raises(UserError, match=named):
        make()
