import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from purify.core.errors import UserError
from purify.diffusion.samplers import SAMPLERS
from purify.diffusion.scheduler_config import sampler_from_diffusers, schedule_from_diffusers, schedule_to_diffusers, with_sampler
from purify.diffusion.schedules import Schedule, make_schedule

LINEAR = make_schedule('linear', 1000)
SD = {  # runwayml/stable-diffusion-v1-5
    '_class_name': 'PNDMScheduler', 'beta_start': 0.00085, 'beta_end': 0.012, 'beta_schedule': 'scaled_linear',
    'num_train_timesteps': 1000, 'set_alpha_to_one': False, 'skip_prk_steps': True, 'steps_offset': 1, 'clip_sample': False,
}  # fmt: skip


def test_a_published_scheduler_file():
    schedule = schedule_from_diffusers(  # google/ddpm-cifar10-32
        {
            '_class_name': 'DDPMScheduler',
            '_diffusers_version': '0.1.1',
            'beta_end': 0.02,
            'beta_schedule': 'linear',
            'beta_start': 0.0001,
            'clip_sample': True,
            'num_train_timesteps': 1000,
            'trained_betas': None,
            'variance_type': 'fixed_large',
        }
    )
    np.testing.assert_array_equal(schedule.betas, make_schedule('linear', 1000).betas)
    assert (schedule.prediction, schedule.clip_sample, schedule.final_alpha_cumprod) == ('epsilon', True, 1.0)


@pytest.mark.parametrize(
    ('name', 'clips', 'final_is_one'),
    [
        ('DDPMScheduler', True, True),
        ('DDIMScheduler', True, True),
        ('PNDMScheduler', False, False),
        ('DPMSolverMultistepScheduler', False, True),
        ('EulerDiscreteScheduler', False, True),
    ],
)
def test_defaults_of_each_class(name, clips, final_is_one):
    schedule = schedule_from_diffusers({'_class_name': name})
    assert (schedule.steps, schedule.clip_sample, schedule.set_alpha_to_one) == (1000, clips, final_is_one)


def test_settings_a_class_does_not_read_stay_unread():
    old = {'clip_sample': True, 'set_alpha_to_one': False}
    assert not schedule_from_diffusers({'_class_name': 'PNDMScheduler'} | old).clip_sample
    assert schedule_from_diffusers({'_class_name': 'DDPMScheduler'} | old).set_alpha_to_one
    assert not schedule_from_diffusers({'_class_name': 'DDIMScheduler'} | old).set_alpha_to_one


@pytest.mark.parametrize(
    'change',
    [
        {'_class_name': 'HeunDiscreteScheduler'},
        {'beta_schedule': 'sigmoid'},
        {'prediction_type': 'flow'},
        {'thresholding': True},
        {'rescale_betas_zero_snr': True},
    ],
)
def test_unsupported_files_are_refused_by_name(change):
    with pytest.raises(UserError, match=next(iter(change))):
        schedule_from_diffusers({'_class_name': 'DDIMScheduler'} | change)


@given(
    st.sampled_from(['linear', 'cosine', 'scaled_linear', 'free']),
    st.integers(2, 60),
    st.sampled_from(['epsilon', 'sample', 'v_prediction']),
    st.booleans(),
    st.booleans(),
)
def test_files_say_the_same_when_read_back(name, steps, prediction, one, clip):
    options = {'prediction': prediction, 'set_alpha_to_one': one, 'clip_sample': clip, 'clip_range': 2.0}
    if name == 'free':
        schedule = Schedule(np.random.default_rng(steps).uniform(0.01, 0.3, steps), **options)
    else:
        schedule = make_schedule(name, steps, **options)
    config = json.loads(json.dumps(schedule_to_diffusers(schedule)))
    again = schedule_from_diffusers(config)
    np.testing.assert_allclose(again.betas, schedule.betas, rtol=1e-9)
    for field in ('prediction', 'set_alpha_to_one', 'clip_sample', 'clip_range'):
        assert getattr(again, field) == getattr(schedule, field)
    if steps > 2:  # two betas are a line of any kind
        expected = {'cosine': 'squaredcos_cap_v2', 'free': 'linear'}.get(name, name)
        assert config['beta_schedule'] == expected
        assert (config['trained_betas'] is not None) == (name == 'free')


def test_samplers_from_scheduler_files():
    ddpm = sampler_from_diffusers({'_class_name': 'DDPMScheduler', 'variance_type': 'fixed_large'}, 10)
    large = SAMPLERS.make('ddpm', LINEAR, range(900, -1, -100), variance='fixed_large')
    np.testing.assert_array_equal(ddpm.tables['on_noise'], large.tables['on_noise'])
    np.testing.assert_array_equal(ddpm.timesteps, large.timesteps)
    log = sampler_from_diffusers({'_class_name': 'DDPMScheduler', 'variance_type': 'fixed_small_log'}, 10)
    small = SAMPLERS.make('ddpm', LINEAR, range(900, -1, -100))
    np.testing.assert_array_equal(log.tables['on_noise'], small.tables['on_noise'])


@pytest.mark.parametrize(
    ('name', 'change'),
    [
        ('DDPMScheduler', {'variance_type': 'learned'}),
        ('PNDMScheduler', {'skip_prk_steps': False}),
        ('DPMSolverMultistepScheduler', {'algorithm_type': 'sde-dpmsolver++'}),
        ('DPMSolverMultistepScheduler', {'solver_order': 3}),
        ('DPMSolverMultistepScheduler', {'use_karras_sigmas': True}),
        ('EulerDiscreteScheduler', {'final_sigmas_type': 'sigma_min'}),
        ('EulerDiscreteScheduler', {'timestep_spacing': 'quadratic'}),
    ],
)
def test_scheduler_files_with_other_arithmetic_are_refused(name, change):
    key, value = next(iter(change.items()))
    with pytest.raises(UserError, match=key if key != 'timestep_spacing' else value):
        sampler_from_diffusers({'_class_name': name} | change, 10)


def test_pndm_files_without_the_setting_mean_runge_kutta():
    with pytest.raises(UserError, match='skip_prk_steps'):
        sampler_from_diffusers({'_class_name': 'PNDMScheduler'}, 10)


@pytest.mark.parametrize('name', SAMPLERS)
def test_another_sampler_takes_over_the_noise_and_the_place(name):
    config = with_sampler(SD, name)
    sampler = sampler_from_diffusers(config, 10)
    schedule = schedule_from_diffusers(SD)
    spacing = 'linspace' if name in ('dpmpp_2m', 'euler') else 'leading'
    first = {'linspace': 999, 'leading': 901}[spacing]
    assert sampler.timesteps[0] == first
    assert np.isclose(sampler.tables['alpha'][0] ** 2, schedule.alphas_cumprod[first])
    assert sampler.clip is None
    with pytest.raises(UserError, match='ddim, ddpm'):
        with_sampler(SD, 'heun')


def test_strength_keeps_the_last_timesteps():
    whole, part = (sampler_from_diffusers(with_sampler(SD, 'ddim'), 10, strength=s) for s in (1.0, 0.65))
    np.testing.assert_array_equal(part.timesteps, whole.timesteps[4:])
    for name, table in part.tables.items():
        np.testing.assert_array_equal(table, whole.tables[name][4:])
    for bad in (0.0, 0.05, 1.5):
        with pytest.raises(UserError, match='strength'):
            sampler_from_diffusers(SD, 10, strength=bad)


def test_options_go_to_the_sampler():
    assert not sampler_from_diffusers(with_sampler(SD, 'ddim'), 10).stochastic
    assert sampler_from_diffusers(with_sampler(SD, 'ddim'), 10, eta=1.0).stochastic
    with pytest.raises(UserError, match='eta'):
        sampler_from_diffusers(SD, 10, eta=1.0)
