import jax
import jax.numpy as jnp
import numpy as np
import pytest

from purify.core.errors import UserError
from purify.diffusion.preconditioning import Preconditioning
from purify.diffusion.predictions import read_output
from purify.diffusion.run_chain import sample, start_noise
from purify.diffusion.samplers import SAMPLERS
from purify.diffusion.timesteps import edit_timesteps

EDM = Preconditioning(levels=64)
X = np.random.default_rng(0).normal(size=(3, 4, 4, 2)).astype(np.float32)


def test_levels_are_those_of_equation_5():
    i = np.arange(64)
    by_hand = (80 ** (1 / 7) + i / 63 * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7  # theirs descend
    np.testing.assert_allclose(EDM.sigmas(), by_hand[::-1], rtol=1e-12)
    found = np.sqrt(1 / EDM.schedule().alphas_cumprod - 1)
    np.testing.assert_allclose(found, by_hand[::-1], rtol=1e-6)


def test_denoise_is_equation_7():
    seen = []

    def network(x, told):
        seen.append((np.asarray(x, np.float64), np.asarray(told, np.float64)))
        return jnp.tanh(x + told[:, None, None, None])

    sigma = np.array([0.01, 0.5, 30.0])
    found = EDM.denoise(network, jnp.asarray(X), jnp.asarray(sigma, jnp.float32))
    s, x = sigma[:, None, None, None], X.astype(np.float64)
    c_skip, c_out = 0.25 / (s**2 + 0.25), s * 0.5 / np.sqrt(s**2 + 0.25)
    inside, told = x / np.sqrt(s**2 + 0.25), np.log(sigma) / 4
    np.testing.assert_allclose(seen[0][0], inside, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(seen[0][1], told, rtol=1e-5)
    wanted = c_skip * x + c_out * np.tanh(inside + told[:, None, None, None])
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)


def test_the_weighted_error_of_an_ignorant_network_is_one_at_every_level():
    """Karras et al. 2022, appendix B.6: the weight times c_out squared is 1."""
    sigma = EDM.sigmas()
    found = EDM.weight(sigma) * (sigma * 0.5) ** 2 / (sigma**2 + 0.25)
    np.testing.assert_allclose(found, 1, rtol=1e-12)


def test_levels_drawn_are_log_normal():
    drawn = np.log(EDM.draw(jax.random.key(0), 20_000))
    np.testing.assert_allclose([drawn.mean(), drawn.std()], [-1.2, 1.2], atol=0.03)


@pytest.mark.long
def test_the_ideal_denoiser_of_gaussian_images_samples_them():
    """Images N(0, .5^2): the best answer to x_0 + sigma n is x .25 / (.25 + sigma^2), and chains
    must end at deviation .5.
    """
    schedule = EDM.schedule()
    ratio = jnp.asarray(EDM.sigmas(), jnp.float32)

    def network(x, t):
        s = ratio[t][:, None, None, None]
        return x * jnp.sqrt(1 + s**2) * 0.25 / (0.25 + s**2)

    keys = jax.random.split(jax.random.key(1), 64)
    for name in ('ddim', 'sde', 'dpmpp_2m'):
        sampler = SAMPLERS.make(name, schedule, edit_timesteps(64, 40))
        out = np.asarray(
            jax.jit(lambda x, s=sampler: sample(s, network, x, keys))(start_noise(keys, (8, 8, 1)))
        )
        assert abs(out.std() - 0.5) < 0.05, name


def test_its_schedule_reads_answers_as_clean_images():
    x0, _ = read_output(EDM.schedule(), jnp.asarray(X), jnp.ones_like(X), jnp.array([0, 30, 63]))
    np.testing.assert_array_equal(x0, X)


@pytest.mark.parametrize(
    ('change', 'told'),
    [({'sigma_min': 90.0}, 'sigma_min=90'), ({'rho': 0.0}, 'rho=0'), ({'levels': 1}, 'levels=1')],
)
def test_wrong_settings_are_named(change, told):
    with pytest.raises(UserError, match=told):
        Preconditioning(**change)
