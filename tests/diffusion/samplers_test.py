import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from purify.core.errors import UserError
from purify.diffusion.samplers import SAMPLERS, VARIANCES
from purify.diffusion.schedules import PREDICTIONS, make_noise_schedule
from purify.diffusion.timesteps import edit_timesteps, make_timesteps

LINEAR = make_noise_schedule('linear', 1000)
FREE = make_noise_schedule('linear', 1000, clip_sample=False)
X, EPS, NOISE = (
    jnp.asarray(a, jnp.float32) for a in np.random.default_rng(0).normal(size=(3, 2, 3, 3, 2))
)
LISTS = st.lists(st.integers(0, 999), min_size=1, max_size=12, unique=True).map(
    lambda t: sorted(t, reverse=True)
)


def step(sampler, i=0, x=X, output=EPS, noise=NOISE):
    return np.asarray(sampler.final(sampler.step(sampler.init(x), i, output, noise)))


def test_posterior_between_neighbours_by_hand():
    """Ho et al. 2020, eq. 7, with beta and alpha of the respaced chain 700 -> 300, in float64."""
    ab, ab2 = FREE.alphas_cumprod[700], FREE.alphas_cumprod[300]
    beta = 1 - ab / ab2
    x0 = (np.asarray(X, np.float64) - np.sqrt(1 - ab) * np.asarray(EPS)) / np.sqrt(ab)
    from_x = np.sqrt(1 - beta) * (1 - ab2) / (1 - ab) * np.asarray(X)
    mean = np.sqrt(ab2) * beta / (1 - ab) * x0 + from_x
    small = (1 - ab2) / (1 - ab) * beta
    for variance, value in (('fixed_small', small), ('fixed_large', beta)):
        sampler = SAMPLERS.make('ddpm', FREE, [700, 300], variance=variance)
        found = step(sampler)
        np.testing.assert_allclose(found, mean + np.sqrt(value) * np.asarray(NOISE), atol=2e-6)


def test_clipping_follows_the_schedule_unless_overridden():
    def x0_of(sampler):  # a chain of one call ends at its prediction of x_0
        return step(sampler)

    free = (np.asarray(X) - np.sqrt(1 - FREE.alphas_cumprod[900]) * np.asarray(EPS)) / np.sqrt(
        FREE.alphas_cumprod[900]
    )
    assert np.abs(free).max() > 2
    for name in SAMPLERS:
        found = x0_of(SAMPLERS.make(name, LINEAR, [900]))
        np.testing.assert_allclose(found, np.clip(free, -1, 1), atol=1e-5)
        found = x0_of(SAMPLERS.make(name, FREE, [900]))
        np.testing.assert_allclose(found, free, rtol=1e-5, atol=1e-5)
        found = x0_of(SAMPLERS.make(name, LINEAR, [900], clip_sample=False))
        np.testing.assert_allclose(found, free, rtol=1e-5, atol=1e-5)
        found = x0_of(SAMPLERS.make(name, FREE, [900], clip_sample=True))
        np.testing.assert_allclose(found, np.clip(free, -1, 1), atol=1e-5)


@pytest.mark.parametrize('rederived', [True, False])
@pytest.mark.parametrize('name', ['ddim', 'euler', 'pndm'])
def test_where_x0_is_clipped_eps_follows_it(name, rederived):
    """By hand, in float64: the eps between x and the clipped x_0, or the network's own, as
    diffusers has it by default.
    """
    sampler = SAMPLERS.make(name, LINEAR, [700, 300], use_clipped_model_output=rederived)
    (alpha, alpha2), (sigma, sigma2) = LINEAR.alpha_sigma(np.array([700, 300]))
    x, eps = np.asarray(X, np.float64), np.asarray(EPS, np.float64)
    x0 = np.clip((x - sigma * eps) / alpha, -1, 1)
    expected = alpha2 * x0 + sigma2 * ((x - alpha * x0) / sigma if rederived else eps)
    np.testing.assert_allclose(step(sampler), expected, atol=2e-5)


@given(LISTS, st.integers(0, 11), st.sampled_from(PREDICTIONS))
def test_ddim_with_eta_one_is_ddpm(timesteps, i, prediction):
    i = min(i, len(timesteps) - 1)
    schedule = make_noise_schedule('linear', 1000, clip_sample=False, prediction=prediction)
    ddim = SAMPLERS.make('ddim', schedule, timesteps, eta=1.0)
    ddpm = SAMPLERS.make('ddpm', schedule, timesteps, variance='fixed_small')
    large = 1e-5 / np.sqrt(schedule.alphas_cumprod[timesteps[i]])
    np.testing.assert_allclose(step(ddim, i), step(ddpm, i), rtol=1e-4, atol=large)


@given(LISTS)
def test_euler_in_its_own_coordinates(timesteps):
    """Karras et al.

    2022: with y = x / alpha and s = sigma / alpha, y' = y + (s' - s) eps, in float64.
    """
    sampler = SAMPLERS.make('euler', FREE, timesteps)
    s = np.append(np.sqrt(1 / FREE.alphas_cumprod[timesteps] - 1), 0)
    alpha = 1 / np.sqrt(1 + s**2)
    for i in range(len(timesteps)):
        y = np.asarray(X, np.float64) / alpha[i] + (s[i + 1] - s[i]) * np.asarray(EPS)
        found = step(sampler, i)
        np.testing.assert_allclose(found, alpha[i + 1] * y, rtol=1e-4, atol=1e-5 / alpha[i])


def test_euler_takes_fractions_and_the_network_sees_them():
    sampler = SAMPLERS.make(
        'euler', FREE, make_timesteps(1000, 7, spacing='linspace', sampler='euler')
    )
    _, t = sampler.network_input(sampler.init(X), 1)
    assert t.dtype == jnp.float32
    np.testing.assert_allclose(t, [832.5, 832.5])
    with pytest.raises(UserError, match='euler'):
        SAMPLERS.make('ddim', FREE, [832.5, 3])


def test_second_order_of_dpmpp_by_hand():
    """Lu et al. 2022, algorithm 2, in float64."""
    t = [900, 600, 200]
    sampler = SAMPLERS.make('dpmpp_2m', FREE, t)
    alpha, sigma = FREE.alpha_sigma(np.array(t))
    lam = np.log(alpha / sigma)
    carry = sampler.step(sampler.init(X), 0, EPS, None)
    first = (np.asarray(X, np.float64) - sigma[0] * np.asarray(EPS)) / alpha[0]
    x = sigma[1] / sigma[0] * np.asarray(X) - alpha[1] * np.expm1(-(lam[1] - lam[0])) * first
    np.testing.assert_allclose(sampler.final(carry), x, rtol=1e-5, atol=1e-5)
    carry = sampler.step(carry, 1, NOISE, None)
    second = (x - sigma[1] * np.asarray(NOISE)) / alpha[1]
    r = (lam[1] - lam[0]) / (lam[2] - lam[1])
    mixed = (1 + 1 / (2 * r)) * second - 1 / (2 * r) * first
    x = sigma[2] / sigma[1] * x - alpha[2] * np.expm1(-(lam[2] - lam[1])) * mixed
    np.testing.assert_allclose(sampler.final(carry), x, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize(
    ('n', 'told'), [(1, [7]), (2, [7, 5, 5]), (3, [7, 5, 5, 1]), (5, [7, 5, 5, 3, 2, 0])]
)
def test_pndm_visits_the_second_timestep_twice(n, told):
    timesteps = {1: [7], 2: [7, 5], 3: [7, 5, 1], 5: [7, 5, 3, 2, 0]}[n]
    sampler = SAMPLERS.make('pndm', FREE, timesteps)
    np.testing.assert_array_equal(sampler.timesteps, told)
    assert sampler.steps == len(told)


def test_learned_range_reaches_from_small_to_large():
    t = [700, 300, 0]
    fixed = {v: SAMPLERS.make('ddpm', FREE, t, variance=v) for v in ('fixed_small', 'fixed_large')}
    ranged = SAMPLERS.make('ddpm', FREE, t, variance='learned_range')

    def learned(sampler, value, i=0):
        return step(sampler, i, output=jnp.concatenate([EPS, jnp.full_like(EPS, value)], axis=-1))

    np.testing.assert_allclose(learned(ranged, -1.0), step(fixed['fixed_small']), atol=1e-5)
    np.testing.assert_allclose(learned(ranged, 1.0), step(fixed['fixed_large']), atol=1e-5)
    assert np.abs(step(fixed['fixed_small']) - step(fixed['fixed_large'])).max() > 1e-2
    log_mean = 0.5 * (
        np.log(fixed['fixed_small'].tables['on_noise'][0])
        + np.log(fixed['fixed_large'].tables['on_noise'][0])
    )
    without = step(ranged, noise=jnp.zeros_like(X), output=jnp.concatenate([EPS, EPS], axis=-1))
    found = learned(ranged, 0.0)
    np.testing.assert_allclose(found, without + np.exp(log_mean) * np.asarray(NOISE), atol=1e-5)

    direct = SAMPLERS.make('ddpm', FREE, t, variance='learned')
    found = learned(direct, np.log(0.25))
    np.testing.assert_allclose(found, without + 0.5 * np.asarray(NOISE), atol=1e-5)
    # no noise in the last call
    np.testing.assert_allclose(learned(direct, 3.0, i=2), learned(direct, -3.0, i=2))
    with pytest.raises(UserError, match='twice the channels'):
        step(ranged)


@pytest.mark.parametrize('name', SAMPLERS)
def test_other_samplers_leave_a_learned_variance_aside(name):
    sampler = SAMPLERS.make(name, FREE, [700, 300, 0])
    both = jnp.concatenate([EPS, 100 * NOISE], axis=-1)
    np.testing.assert_array_equal(step(sampler, output=both), step(sampler))


def test_consistency_goes_to_the_clean_image_and_back_to_the_next_level():
    sampler = SAMPLERS.make('consistency', FREE, [700, 300])
    carry = sampler.init(X)
    carry = sampler.step(carry, 0, EPS, NOISE)
    alpha, sigma = FREE.alpha_sigma(np.array([700, 300]))
    x0 = (X - sigma[0] * EPS) / alpha[0]
    np.testing.assert_allclose(carry['x'], alpha[1] * x0 + sigma[1] * NOISE, rtol=1e-5, atol=1e-5)
    last = sampler.final(sampler.step(carry, 1, EPS, NOISE))
    np.testing.assert_allclose(last, (carry['x'] - sigma[1] * EPS) / alpha[1], rtol=1e-5, atol=1e-5)
    assert not SAMPLERS.make('consistency', FREE, [700]).stochastic


def test_who_draws_noise():
    stochastic = {name: SAMPLERS.make(name, FREE, [5, 0]).stochastic for name in SAMPLERS}
    wanted = {'ddpm': True, 'ddim': False, 'dpmpp_2m': False, 'euler': False, 'pndm': False}
    wanted |= {'sde': True, 'consistency': True}
    assert stochastic == wanted
    assert SAMPLERS.make('ddim', FREE, [5, 0], eta=0.3).stochastic
    assert all(SAMPLERS.make('ddpm', FREE, [5, 0], variance=v).stochastic for v in VARIANCES)


def test_where_ddim_and_pndm_end():
    open_ended = make_noise_schedule('linear', 1000, set_alpha_to_one=False, clip_sample=False)
    for name in ('ddim', 'pndm'):
        # already at alphas_cumprod[0]
        np.testing.assert_allclose(step(SAMPLERS.make(name, open_ended, [0])), X, atol=1e-6)
        assert np.abs(step(SAMPLERS.make(name, FREE, [0])) - X).max() > 1e-3
    for name in ('ddpm', 'euler', 'dpmpp_2m'):
        found = step(SAMPLERS.make(name, open_ended, [0]))
        np.testing.assert_array_equal(found, step(SAMPLERS.make(name, FREE, [0])))


@pytest.mark.long
@pytest.mark.parametrize('name', SAMPLERS)
def test_state_stays_float32_under_bfloat16_outputs_and_traced_steps(name):
    sampler = SAMPLERS.make(name, LINEAR, edit_timesteps(50, 3))
    carry = sampler.init(X.astype(jnp.bfloat16))
    after = jax.jit(sampler.step)(carry, 0, EPS.astype(jnp.bfloat16), NOISE)
    assert {leaf.dtype for leaf in jax.tree.leaves((carry, after))} == {jnp.dtype('float32')}
    assert jax.tree.structure(carry) == jax.tree.structure(after)
    traced = sampler.network_input(carry, 1)
    np.testing.assert_array_equal(jax.jit(sampler.network_input)(carry, 1)[1], traced[1])
    assert traced[1].dtype == jnp.int32


@pytest.mark.parametrize(
    ('make', 'words'),
    [
        (lambda: SAMPLERS.make('heun', FREE, [1]), 'ddim, ddpm, dpmpp_2m, euler, pndm'),
        (lambda: SAMPLERS.make('ddim', FREE, [1], eta=1.5), '1.5'),
        (lambda: SAMPLERS.make('ddim', FREE, [1], eta=float('nan')), 'nan'),
        (lambda: SAMPLERS.make('euler', FREE, [1], eta=1.0), 'eta'),
        (lambda: SAMPLERS.make('ddpm', FREE, [1], variance='big'), 'fixed_small, fixed_large'),
        (lambda: SAMPLERS.make('ddpm', FREE, [1, 5]), 'descend'),
        (lambda: SAMPLERS.make('ddpm', FREE, [1000, 5]), '999'),
        (lambda: SAMPLERS.make('ddpm', FREE, []), 'non-empty'),
    ],
)
def test_refusals(make, words):
    with pytest.raises(UserError, match=words):
        make()


@pytest.mark.parametrize('prediction', PREDICTIONS)
def test_sde_by_hand(prediction):
    """Lu et al.

    2022, SDE-DPM-Solver++(2M): three calls in float64, the last of them to the clean image.
    """
    schedule = make_noise_schedule('linear', 1000, clip_sample=False, prediction=prediction)
    t, rng = [900, 500, 200], np.random.default_rng(1)
    sampler = SAMPLERS.make('sde', schedule, t)
    outputs, noises = rng.normal(size=(2, 3, *X.shape))
    a, s = np.sqrt(schedule.alphas_cumprod[t]), np.sqrt(1 - schedule.alphas_cumprod[t])
    lam = np.log(a / s)
    x, carry, last = np.asarray(X, np.float64), sampler.init(X), None
    for i in range(3):
        out = outputs[i]
        x0 = {
            'epsilon': (x - s[i] * out) / a[i],
            'sample': out,
            'v_prediction': a[i] * x - s[i] * out,
        }[prediction]
        if i < 2:
            h = lam[i + 1] - lam[i]
            slope = 0 if last is None else (x0 - last) / (lam[i] - lam[i - 1])
            ahead = a[i + 1] * (1 - np.exp(-2 * h)) * (x0 + h / 2 * slope)
            drift = s[i + 1] / s[i] * np.exp(-h) * x + ahead
            x = drift + s[i + 1] * np.sqrt(1 - np.exp(-2 * h)) * noises[i]
        else:
            x = x0
        carry = sampler.step(
            carry, i, jnp.asarray(out, jnp.float32), jnp.asarray(noises[i], jnp.float32)
        )
        last = x0
        np.testing.assert_allclose(sampler.final(carry), x, rtol=1e-4, atol=1e-4)


@given(LISTS)
def test_sde_of_first_order_is_ddpm(timesteps):
    """The first call has no x_0 before it."""
    sde, ddpm = (SAMPLERS.make(name, FREE, timesteps) for name in ('sde', 'ddpm'))
    np.testing.assert_allclose(
        step(sde), step(ddpm), rtol=1e-4, atol=1e-5 / np.sqrt(FREE.alphas_cumprod[timesteps[0]])
    )
