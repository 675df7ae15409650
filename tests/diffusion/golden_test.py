"""Every scheduler of diffusers that we stand in for, step by step: same network outputs in, same
trajectory out.
"""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden.chains import GOLDEN_CHAINS, error, ours
from golden.weights import OTHER

from purify.diffusion.samplers import SAMPLERS
from purify.diffusion.scheduler_config import sampler_from_diffusers
from purify.diffusion.schedules import make_noise_schedule

GOLDEN = OTHER / 'schedulers'
NAMES = ('ddim', 'ddim_eta1_clip', 'pndm_skip_prk', 'dpmpp_2m', 'euler', 'ddim_v')


@pytest.fixture(scope='module')
def golden():
    if not GOLDEN.is_dir():
        pytest.skip('golden files not present')
    return json.loads((GOLDEN / 'schedulers.json').read_text()), np.load(
        GOLDEN / 'trajectories.npz'
    )


def build(entry):
    config = entry['config'] | {'_class_name': entry['class']}
    if entry['class'] == 'PNDMScheduler':
        assert config['skip_prk_steps']
    sampler = sampler_from_diffusers(config, entry['num_inference_steps'])
    if entry['step_kwargs']:  # eta is an argument of diffusers' step(), not part of the file
        schedule = make_noise_schedule('linear', 1000)
        sampler = SAMPLERS.make(
            'ddim',
            schedule,
            sampler.timesteps,
            use_clipped_model_output=False,
            **entry['step_kwargs'],
        )
    return sampler


@pytest.mark.long
@pytest.mark.parametrize('name', NAMES)
def test_trajectory_of_diffusers(golden, name):
    entries, arrays = golden
    sampler = build(entries[name])
    expected = arrays[f'{name}/trajectory']
    np.testing.assert_array_equal(sampler.timesteps, arrays[f'{name}/timesteps'])

    # diffusers' Euler keeps x / alpha; ours is variance preserving (see samplers.euler)
    scale = np.append(sampler.tables['alpha'], 1.0) if name == 'euler' else np.ones(len(expected))
    expected = expected * scale[:, None, None, None, None]

    def call(carry, inputs):
        i, output, noise = inputs
        carry = sampler.step(carry, i, output, noise)
        return carry, sampler.final(carry)

    steps = (jnp.arange(sampler.steps), arrays[f'{name}/model_output'], arrays[f'{name}/noise'])
    start = jnp.asarray(expected[0])
    _, states = jax.jit(lambda x: jax.lax.scan(call, sampler.init(x), steps))(start)
    np.testing.assert_allclose(states, expected[1:], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('variance', ['fixed_small', 'fixed_large'])
@pytest.mark.parametrize('t', [999, 500, 150, 149, 1])
def test_single_ddpm_step_of_diffusers(golden, variance, t):
    with np.load(GOLDEN / 'ddpm_steps.npz') as arrays:
        x, eps, noise, expected = (
            arrays[f'{variance}/{t}/{key}'] for key in ('x', 'eps', 'noise', 'prev')
        )
    sampler = SAMPLERS.make(
        'ddpm', make_noise_schedule('linear', 1000), [t, t - 1], variance=variance
    )
    carry = sampler.step(sampler.init(jnp.asarray(x)), 0, jnp.asarray(eps), jnp.asarray(noise))
    # diffusers keeps 1 - alphas_cumprod in float32, which at t = 1 cancels to four digits; its
    # formula in float64 agrees with us, and in float32 with its own output
    tolerance = 1e-4 if t == 1 else 1e-5
    np.testing.assert_allclose(sampler.final(carry), expected, rtol=tolerance, atol=tolerance)


@pytest.mark.long
@pytest.mark.parametrize('kind', sorted({chain.kind for chain in GOLDEN_CHAINS}))
def test_whole_chains_of_diffusers(kind):
    stored = GOLDEN.parent / 'scheduler_chains.json'
    if not stored.is_file():
        pytest.skip('golden files not present')
    expected = json.loads(stored.read_text())
    wrong = {}
    for chain in (chain for chain in GOLDEN_CHAINS if chain.kind == kind):
        made = ours(chain)
        difference = error(made, np.reshape(expected[chain.name], made.shape))
        if not difference < 1e-4:
            wrong[chain.name] = difference
    assert wrong == {}
