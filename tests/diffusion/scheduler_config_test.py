import json
import re
from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from purify.core.errors import UserError
from purify.diffusion.samplers import SAMPLERS
from purify.diffusion.scheduler_config import (
    OF_FILES,
    sampler_from_diffusers,
    schedule_from_diffusers,
    schedule_to_diffusers,
    with_sampler,
)
from purify.diffusion.schedules import Schedule, make_noise_schedule

LINEAR = make_noise_schedule('linear', 1000)
SD = {  # runwayml/stable-diffusion-v1-5
    '_class_name': 'PNDMScheduler',
    'beta_start': 0.00085,
    'beta_end': 0.012,
    'beta_schedule': 'scaled_linear',
    'num_train_timesteps': 1000,
    'set_alpha_to_one': False,
    'skip_prk_steps': True,
    'steps_offset': 1,
    'clip_sample': False,
}


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
    np.testing.assert_array_equal(schedule.betas, make_noise_schedule('linear', 1000).betas)
    wanted = ('epsilon', True, 1.0)
    assert (schedule.prediction, schedule.clip_sample, schedule.final_alpha_cumprod) == wanted


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
    wanted = (1000, clips, final_is_one)
    assert (schedule.steps, schedule.clip_sample, schedule.set_alpha_to_one) == wanted


def test_settings_a_class_does_not_read_stay_unread():
    old = {'clip_sample': True, 'set_alpha_to_one': False}
    assert not schedule_from_diffusers({'_class_name': 'PNDMScheduler'} | old).clip_sample
    assert schedule_from_diffusers({'_class_name': 'DDPMScheduler'} | old).set_alpha_to_one
    assert not schedule_from_diffusers({'_class_name': 'DDIMScheduler'} | old).set_alpha_to_one


@pytest.mark.parametrize(
    'change',
    [
        {'_class_name': 'HeunDiscreteScheduler'},
        {'_class_name': ['DDIMScheduler']},
        {'beta_schedule': 'sigmoid'},
        {'prediction_type': 'flow'},
        {'thresholding': True},
        {'rescale_betas_zero_snr': True},
    ],
)
def test_unsupported_files_are_refused_by_name(change):
    with pytest.raises(UserError, match=next(iter(change))):
        schedule_from_diffusers({'_class_name': 'DDIMScheduler'} | change)


@pytest.mark.parametrize(
    ('old', 'meant'), [(True, 'epsilon'), (False, 'sample'), (None, 'epsilon')]
)
def test_old_files_say_what_is_predicted_by_predict_epsilon(old, meant):
    """diffusers 0.9 replaced it by prediction_type, 'sample' for false."""
    config = {'_class_name': 'DDPMScheduler', 'predict_epsilon': old}
    assert schedule_from_diffusers(config).prediction == meant
    assert schedule_from_diffusers(config | {'prediction_type': meant}).prediction == meant
    for name in OF_FILES:  # another sampler does not change what the network predicts
        assert schedule_from_diffusers(with_sampler(config, name)).prediction == meant
    if old is not None:
        told = f"prediction_type = 'v_prediction', but predict_epsilon = {old} means '{meant}'"
        with pytest.raises(UserError, match=told):
            schedule_from_diffusers(config | {'prediction_type': 'v_prediction'})
    with pytest.raises(UserError, match="predict_epsilon = 'no' must be true or false"):
        schedule_from_diffusers({'_class_name': 'DDPMScheduler', 'predict_epsilon': 'no'})


@pytest.mark.parametrize(
    ('kind', 'unread'),
    [
        ('EulerDiscreteScheduler', {'clip_sample': True}),
        ('PNDMScheduler', {'clip_sample': True, 'solver_order': 3}),
        ('DDIMScheduler', {'variance_type': 'learned_range', 'algorithm_type': 'sde-dpmsolver++'}),
    ],
)
def test_settings_of_other_classes_are_named(capsys, kind, unread):
    # as in SDXL's
    own = {'_class_name': kind, 'set_alpha_to_one': False, 'skip_prk_steps': True}
    own |= {'interpolation_type': 'linear'}
    schedule_from_diffusers(own)
    assert not capsys.readouterr().err
    assert schedule_from_diffusers(own | unread).clip_sample is (kind == 'DDIMScheduler')
    said = capsys.readouterr().err
    assert all(f'{key} = {value!r}' in said for key, value in unread.items())
    schedule_from_diffusers(own | unread)
    assert not capsys.readouterr().err, 'said once'


def test_what_another_sampler_leaves_behind_is_not_laid_to_the_file(capsys):
    ddim = {'_class_name': 'DDIMScheduler', 'clip_sample': True, 'variance_type': 'fixed_small'}
    sampler_from_diffusers(ddim, 10)
    for name in ('dpmpp_2m', 'euler', 'pndm', 'sde'):
        assert sampler_from_diffusers(with_sampler(ddim, name), 10).clip is None
    assert not capsys.readouterr().err


def test_null_is_nothing_said():
    assert schedule_from_diffusers(
        {'_class_name': 'DDIMScheduler', 'use_clipped_model_output': None}
    ).use_clipped_model_output


def test_a_range_of_nothing_is_refused_by_its_name():
    with pytest.raises(UserError, match='clip_sample_range = 0 must be above 0'):
        schedule_from_diffusers({'_class_name': 'DDPMScheduler', 'clip_sample_range': 0})


def test_settings_that_no_class_knows_are_refused_and_silent_ones_pass():
    config = {'_class_name': 'DDIMScheduler'}
    for off in (None, False):
        schedule_from_diffusers(config | {'timestep_values': off, '_note': 3})
    with pytest.raises(UserError, match=r"not supported: \{'sigma_data': 0.5\}"):
        schedule_from_diffusers(config | {'sigma_data': 0.5})
    plain = {'lower_order_final': True, 'sample_max_value': 1.0}
    plain |= {'dynamic_thresholding_ratio': 0.995, 'tensor_format': 'pt'}
    schedule_from_diffusers(
        config | plain | {'skip_prk_steps': True, 'interpolation_type': 'linear'}
    )


@given(
    st.sampled_from(['linear', 'cosine', 'scaled_linear', 'free']),
    st.integers(2, 60),
    st.sampled_from(['epsilon', 'sample', 'v_prediction']),
    st.booleans(),
    st.booleans(),
    st.booleans(),
)
def test_files_say_the_same_when_read_back(name, steps, prediction, one, clip, rederived):
    options = {'prediction': prediction, 'set_alpha_to_one': one, 'clip_sample': clip}
    options |= {'clip_range': 2.0}
    if name == 'free':
        schedule = Schedule(np.random.default_rng(steps).uniform(0.01, 0.3, steps), **options)
    else:
        schedule = make_noise_schedule(name, steps, **options)
    schedule = replace(schedule, use_clipped_model_output=rederived)
    config = json.loads(json.dumps(schedule_to_diffusers(schedule)))
    again = schedule_from_diffusers(config)
    np.testing.assert_allclose(again.betas, schedule.betas, rtol=1e-9)
    for field in (*options, 'use_clipped_model_output'):
        assert getattr(again, field) == getattr(schedule, field)
    if steps > 2:  # two betas are a line of any kind
        expected = {'cosine': 'squaredcos_cap_v2', 'free': 'linear'}.get(name, name)
        assert config['beta_schedule'] == expected
        assert (config['trained_betas'] is not None) == (name == 'free')


def test_samplers_from_scheduler_files():
    ddpm = sampler_from_diffusers(
        {'_class_name': 'DDPMScheduler', 'variance_type': 'fixed_large'}, 10
    )
    large = SAMPLERS.make('ddpm', LINEAR, range(900, -1, -100), variance='fixed_large')
    np.testing.assert_array_equal(ddpm.tables['on_noise'], large.tables['on_noise'])
    np.testing.assert_array_equal(ddpm.timesteps, large.timesteps)
    log = sampler_from_diffusers(
        {'_class_name': 'DDPMScheduler', 'variance_type': 'fixed_small_log'}, 10
    )
    small = SAMPLERS.make('ddpm', LINEAR, range(900, -1, -100))
    np.testing.assert_array_equal(log.tables['on_noise'], small.tables['on_noise'])


@pytest.mark.parametrize(
    ('name', 'change'),
    [
        ('DDPMScheduler', {'variance_type': 'learned'}),
        ('PNDMScheduler', {'skip_prk_steps': False}),
        ('DPMSolverMultistepScheduler', {'algorithm_type': 'sde-dpmsolver'}),
        ('DPMSolverMultistepScheduler', {'solver_order': 3}),
        ('DPMSolverMultistepScheduler', {'use_karras_sigmas': True}),
        ('DPMSolverMultistepScheduler', {'lambda_min_clipped': -5.1}),
        ('DPMSolverMultistepScheduler', {'variance_type': 'learned_range'}),
        ('EulerDiscreteScheduler', {'final_sigmas_type': 'sigma_min'}),
        ('EulerDiscreteScheduler', {'timestep_spacing': 'quadratic'}),
        ('EulerDiscreteScheduler', {'timestep_spacing': ['leading']}),
    ],
)
def test_scheduler_files_with_other_arithmetic_are_refused(name, change):
    with pytest.raises(UserError, match=next(iter(change))):
        sampler_from_diffusers({'_class_name': name} | change, 10)


def test_pndm_files_without_the_setting_mean_runge_kutta():
    with pytest.raises(UserError, match='skip_prk_steps'):
        sampler_from_diffusers({'_class_name': 'PNDMScheduler'}, 10)


@pytest.mark.parametrize('name', OF_FILES)
def test_another_sampler_takes_over_the_noise_and_the_place(name):
    config = with_sampler(SD, name)
    sampler = sampler_from_diffusers(config, 10)
    schedule = schedule_from_diffusers(SD)
    spacing = 'linspace' if name in ('dpmpp_2m', 'euler', 'sde') else 'leading'
    first = {'linspace': 999, 'leading': 901}[spacing]
    assert sampler.timesteps[0] == first
    assert np.isclose(sampler.tables['alpha'][0] ** 2, schedule.alphas_cumprod[first])
    assert sampler.clip is None
    with pytest.raises(UserError, match='ddim, ddpm'):
        with_sampler(SD, 'heun')
    with pytest.raises(UserError, match='priors on pixels that were distilled'):
        with_sampler(SD, 'consistency')


def test_strength_keeps_the_last_timesteps():
    whole, part = (
        sampler_from_diffusers(with_sampler(SD, 'ddim'), 10, strength=s) for s in (1.0, 0.65)
    )
    np.testing.assert_array_equal(part.timesteps, whole.timesteps[4:])
    for name, table in part.tables.items():
        np.testing.assert_array_equal(table, whole.tables[name][4:])


@pytest.mark.parametrize(
    ('steps', 'strength', 'told'),
    [
        (10, 0.0, 'from 0.1 to 1'),
        (10, 0.05, 'from 0.1 to 1'),
        (10, 1.5, 'from 0.1 to 1'),
        (10, float('nan'), 'from 0.1 to 1'),
        (3, 0.333, 'from 0.334 to 1'),
        (1, 0.5, 'strength=0.5: a single step takes strength 1 only'),
    ],
)
def test_bad_strengths(steps, strength, told):
    with pytest.raises(UserError, match=told):
        sampler_from_diffusers(SD, steps, strength=strength)
    least = float(told.split()[1]) if told.startswith('from') else 1.0
    assert sampler_from_diffusers(with_sampler(SD, 'ddim'), steps, strength=least).steps == 1


@pytest.mark.parametrize(
    'change',
    [
        {'beta_start': 'x'},
        {'beta_end': None},
        {'beta_end': float('nan')},
        {'num_train_timesteps': 'x'},
        {'num_train_timesteps': 10.5},
        {'num_train_timesteps': True},
        {'num_train_timesteps': 0},
        {'num_train_timesteps': 10**10},
        {'beta_start': 10**400},
        {'clip_sample_range': 10**400},
        {'trained_betas': [10**400]},
        {'steps_offset': '1'},
        {'clip_sample': 'no'},
        {'set_alpha_to_one': 1.0},
        {'clip_sample_range': [1]},
        {'trained_betas': ['0.1', '0.2']},
        {'trained_betas': 0.1},
        {'trained_betas': [[0.1], [0.2]]},
        {'beta_schedule': ['linear']},
        {'prediction_type': 3},
    ],
)
def test_values_of_the_wrong_type_are_named(change):
    key, value = next(iter(change.items()))
    with pytest.raises(UserError, match=re.escape(f'scheduler_config.json: {key} = {value!r} ')):
        sampler_from_diffusers({'_class_name': 'DDIMScheduler'} | change, 10)


def test_as_many_betas_as_timesteps():
    betas = {'_class_name': 'DDIMScheduler', 'trained_betas': [0.1, 0.2]}
    assert schedule_from_diffusers(betas).steps == 2
    assert schedule_from_diffusers(betas | {'num_train_timesteps': 2}).steps == 2
    said = 'num_train_timesteps = 1000 must be 2, the number of trained_betas'
    with pytest.raises(UserError, match=said):
        schedule_from_diffusers(betas | {'num_train_timesteps': 1000})


def test_unknown_classes_lend_their_noise_to_another_sampler():
    heun = SD | {'_class_name': 'HeunDiscreteScheduler'}
    said = r'HeunDiscreteScheduler.*take its noise: ddim, ddpm, dpmpp_2m, euler, pndm, sde'
    with pytest.raises(UserError, match=said):
        sampler_from_diffusers(heun, 10)
    for name in OF_FILES:
        theirs, own = (
            sampler_from_diffusers(with_sampler(config, name), 10) for config in (heun, SD)
        )
        np.testing.assert_array_equal(theirs.tables['alpha'], own.tables['alpha'])
    flow = {
        '_class_name': 'FlowMatchEulerDiscreteScheduler',
        'num_train_timesteps': 1000,
        'shift': 3.0,
    }
    with pytest.raises(UserError, match=r'FlowMatchEulerDiscreteScheduler.*no noise'):
        with_sampler(flow, 'ddim')


@pytest.mark.parametrize('change', [{'use_flow_sigmas': True}, {'snr_shift_scale': 3.0}])
def test_settings_that_change_the_noise_are_not_dropped_with_the_sampler(change):
    with pytest.raises(UserError, match=next(iter(change))):
        with_sampler(
            {'_class_name': 'CogVideoXDDIMScheduler', 'beta_schedule': 'scaled_linear'} | change,
            'ddim',
        )


def test_noise_that_is_not_supported_stays_so_with_another_sampler():
    with pytest.raises(UserError, match='rescale_betas_zero_snr'):
        sampler_from_diffusers(with_sampler(SD | {'rescale_betas_zero_snr': True}, 'ddim'), 10)


# where the steps go, from float64 by hand ---------------------------------------------------------

ABAR = np.cumprod(1 - np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2)


def abar(t):
    return ABAR[t] if t >= 0 else ABAR[0]  # set_alpha_to_one is False in SD


def ddim_step(x, output, prediction, t, to):
    a, b = abar(t) ** 0.5, (1 - abar(t)) ** 0.5
    eps = a * output + b * x if prediction == 'v_prediction' else output
    return abar(to) ** 0.5 * (x - b * eps) / a + (1 - abar(to)) ** 0.5 * eps


def run(sampler, x, outputs):
    carry = sampler.init(jnp.full((1, 1, 1, 1), x))
    for i in range(sampler.steps):
        carry = sampler.step(carry, i, jnp.full((1, 1, 1, 1), outputs[i]), None)
    return float(sampler.final(carry).item())


@pytest.mark.long
@pytest.mark.parametrize('prediction', ['epsilon', 'v_prediction'])
@pytest.mark.parametrize(
    ('spacing', 'visited'),
    [
        ('leading', [853, 711, 569, 427, 285, 143, 1]),
        ('linspace', [999, 832, 666, 500, 333, 166, 0]),
        ('trailing', [999, 856, 713, 570, 428, 285, 142]),
    ],
)
@pytest.mark.parametrize('skip', [0, 1, 3])
def test_ddim_and_pndm_step_a_stride_of_142(spacing, visited, prediction, skip):
    outputs, x = np.random.default_rng(skip).normal(size=8), 0.7
    strength = (7 - skip) / 7 + 1e-9 if skip else 1.0
    config = SD | {'timestep_spacing': spacing, 'prediction_type': prediction}

    expected = x
    for output, t in zip(outputs, visited[skip:], strict=False):
        expected = ddim_step(expected, output, prediction, t, t - 142)
    ddim = sampler_from_diffusers(with_sampler(config, 'ddim'), 7, strength=strength)
    np.testing.assert_array_equal(ddim.timesteps, visited[skip:])
    np.testing.assert_allclose(run(ddim, x, outputs), expected, rtol=1e-4, atol=1e-4)

    calls = [visited[0], *visited[1:2], *visited[1:]][skip:]
    states, past = [x], []
    for i, (output, t) in enumerate(zip(outputs, calls, strict=False)):
        if i == 1:  # the first step again, with the mean of both answers
            states.append(ddim_step(x, (output + past[0]) / 2, prediction, t + 142, t))
            continue
        past = [output, *past]
        recipe = {1: [1], 2: [3 / 2, -1 / 2], 3: [23 / 12, -16 / 12, 5 / 12]}.get(
            len(past), [55 / 24, -59 / 24, 37 / 24, -9 / 24]
        )
        mean = sum(weight * part for weight, part in zip(recipe, past, strict=False))
        states.append(ddim_step(states[-1], mean, prediction, t, t - 142))
    pndm = sampler_from_diffusers(config, 7, strength=strength)
    np.testing.assert_array_equal(pndm.timesteps, calls)
    np.testing.assert_allclose(run(pndm, x, outputs), states[-1], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(('spacing', 'last'), [('leading', 0), ('trailing', 99)])
def test_ddpm_draws_noise_at_the_end_unless_at_timestep_0(spacing, last):
    config = {
        '_class_name': 'DDPMScheduler',
        'variance_type': 'fixed_large',
        'timestep_spacing': spacing,
    }
    sampler = sampler_from_diffusers(config, 10)
    assert sampler.timesteps[-1] == last
    left = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))[last]
    np.testing.assert_allclose(sampler.tables['on_noise'][-1], (1 - left) ** 0.5 if last else 0)


def test_options_go_to_the_sampler():
    assert not sampler_from_diffusers(with_sampler(SD, 'ddim'), 10).stochastic
    assert sampler_from_diffusers(with_sampler(SD, 'ddim'), 10, eta=1.0).stochastic
    with pytest.raises(UserError, match='eta'):
        sampler_from_diffusers(SD, 10, eta=1.0)


@pytest.mark.parametrize(
    'said', [{}, {'use_clipped_model_output': True}, {'use_clipped_model_output': False}]
)
def test_eps_follows_a_clipped_x0_unless_the_file_says_otherwise(said):
    config = schedule_to_diffusers(LINEAR) | {'_class_name': 'DDIMScheduler'} | said
    sampler = sampler_from_diffusers(config, 10)
    assert sampler.use_clipped_model_output is said.get('use_clipped_model_output', True)
    assert with_sampler(config, 'ddim').items() >= said.items()
    with pytest.raises(UserError, match='use_clipped_model_output'):
        sampler_from_diffusers(config | {'use_clipped_model_output': 'no'}, 10)


@pytest.mark.parametrize('kind', ['DDPMScheduler', 'DPMSolverMultistepScheduler'])
def test_samplers_without_eps_refuse_the_choice_that_would_do_nothing(kind):
    assert sampler_from_diffusers({'_class_name': kind, 'use_clipped_model_output': True}, 10)
    with pytest.raises(UserError, match='use_clipped_model_output = False must be true or nothing'):
        sampler_from_diffusers({'_class_name': kind, 'use_clipped_model_output': False}, 10)
