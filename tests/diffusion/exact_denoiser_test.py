"""Every sampler under guidance, with a network that makes no mistake: errors are the sampler's."""

import functools

import jax
import numpy as np
import pytest
from support.exact_denoiser import exact_eps, nearest, poisoned_digits, predict_pair

from purify.diffusion.guidance import guide
from purify.diffusion.run_chain import sample, start_noise
from purify.diffusion.samplers import SAMPLERS
from purify.diffusion.schedules import make_noise_schedule
from purify.diffusion.timesteps import make_timesteps

LINEAR = make_noise_schedule('linear', 1000)  # which clips
POINTS, LABELS, STAMPED = poisoned_digits()
ASKED, COUNT, STEPS = 0, 2000, 50
CHAINS = {
    'ddim': ('ddim', {'eta': 0.0}),
    'ddim_eta1': ('ddim', {'eta': 1.0}),
    'ddpm_large': ('ddpm', {'variance': 'fixed_large'}),
    **{name: (name, {}) for name in ('dpmpp_2m', 'euler', 'pndm', 'sde')},
}


@functools.cache
def shares(name, scale, **options):
    """(share that shows the class asked for, share that shows the trigger) of generations, by their
    nearest training image.
    """
    chain = SAMPLERS.make(
        name, LINEAR, make_timesteps(1000, STEPS, spacing='trailing', sampler=name), **options
    )
    keys = jax.random.split(jax.random.key(0), COUNT)
    predict = guide(predict_pair(LINEAR, POINTS, LABELS == ASKED), scale)
    made = np.asarray(jax.jit(lambda: sample(chain, predict, start_noise(keys, (8, 8, 1)), keys))())
    like = nearest(made.reshape(COUNT, -1), POINTS)
    return (LABELS[like] == ASKED).mean(), STAMPED[like].mean()


def test_the_denoiser_is_the_posterior_mean():
    """Against the sum over all components, one by one, in float64."""
    alpha, sigma = (float(level[0]) for level in LINEAR.alpha_sigma(np.array([300])))
    rng = np.random.default_rng(1)
    x = alpha * POINTS[:3] + sigma * rng.normal(size=(3, 64))
    variance = alpha**2 * 0.1**2 + sigma**2
    for row in x:
        log_weights = np.array(
            [-((row - alpha * point) ** 2).sum() / (2 * variance) for point in POINTS]
        )
        weights = np.exp(log_weights - log_weights.max())
        clean = [point + alpha * 0.1**2 / variance * (row - alpha * point) for point in POINTS]
        x0 = np.average(clean, axis=0, weights=weights)
        by_hand = (row - alpha * x0) / sigma
        got = exact_eps(np, row[None], alpha, sigma, POINTS, np.ones((1, len(POINTS)), bool))[0]
        np.testing.assert_allclose(got, by_hand, atol=1e-9)
    pair = predict_pair(LINEAR, POINTS, LABELS == ASKED)(
        x[[0, 0]].reshape(2, 8, 8, 1).astype(np.float32), np.array([300, 300])
    )
    for row, among in zip(pair, (LABELS >= 0, LABELS == ASKED), strict=True):
        exact = exact_eps(np, x[:1], alpha, sigma, POINTS, among[None])
        np.testing.assert_allclose(np.ravel(row), exact[0], atol=2e-4)


@pytest.mark.long
@pytest.mark.parametrize('scale', [1.0, 3.0, 6.0])
@pytest.mark.parametrize('chain', CHAINS)
def test_guidance_leads_to_the_class_and_not_to_the_trigger(chain, scale):
    name, options = CHAINS[chain]
    shown, triggered = shares(name, scale, **options)
    expected, expected_trigger = shares('ddpm', scale)
    assert abs(shown - expected) <= 0.05
    assert abs(triggered - expected_trigger) <= 0.06
    if scale == 1.0:
        p_t = STAMPED.sum() / (LABELS == ASKED).sum()
        assert abs(triggered - p_t) <= 0.05


@pytest.mark.long
def test_what_diffusers_default_does_under_guidance():
    """The eps of a clipped x_0 is not the network's: with it, a chain is driven away from what it
    is guided to.
    """
    assert shares('ddim', 6.0, eta=0.0)[0] > 0.95
    assert shares('ddim', 6.0, eta=0.0, use_clipped_model_output=False)[0] < 0.5
