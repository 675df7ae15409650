"""scheduler_config.json, the file in which diffusers keeps a noise schedule and the sampler that goes with it."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from purify.core.errors import UserError
from purify.diffusion.samplers import SAMPLERS, Sampler
from purify.diffusion.schedules import PREDICTIONS, SCHEDULES, Schedule, cosine
from purify.diffusion.timesteps import make_timesteps

_BETAS_OF = {'linear': 'linear', 'scaled_linear': 'scaled_linear', 'squaredcos_cap_v2': 'cosine'}  # theirs -> ours
_CLASSES = {  # (set_alpha_to_one, clip_sample) where the file is silent, and whether the class reads these two at all
    'DDPMScheduler': ((True, True), (False, True)),
    'DDIMScheduler': ((True, True), (True, True)),
    'PNDMScheduler': ((False, False), (True, False)),
    'DPMSolverMultistepScheduler': ((True, False), (False, False)),
    'EulerDiscreteScheduler': ((True, False), (False, False)),
}


def require(config: Mapping[str, Any], key: str, *allowed: Any) -> None:
    """Raises `UserError` when a scheduler_config.json holds a value of `key` that would change the arithmetic unseen."""
    if key in config and config[key] not in allowed:
        choices = ' or '.join(repr(value) for value in allowed)
        raise UserError(f'scheduler_config.json: {key} = {config[key]!r} is not supported; it must be {choices}.')


def schedule_from_diffusers(config: Mapping[str, Any]) -> Schedule:
    """The schedule that a diffusers scheduler_config.json describes, with that class's defaults where it is silent.

    Raises `UserError` for other scheduler classes and for settings that are not supported, by name.
    """
    name = config.get('_class_name')
    if name not in _CLASSES:
        raise UserError(f'scheduler_config.json: unknown _class_name {name!r}. Choose from: {", ".join(_CLASSES)}.')
    require(config, 'thresholding', False)
    require(config, 'rescale_betas_zero_snr', False)
    require(config, 'prediction_type', *PREDICTIONS)
    defaults, reads = _CLASSES[name]
    set_alpha_to_one, clip_sample = (
        bool(config.get(key, default)) if read else default
        for key, default, read in zip(('set_alpha_to_one', 'clip_sample'), defaults, reads, strict=True)
    )
    if config.get('trained_betas') is not None:
        betas = np.asarray(config['trained_betas'], np.float64)
    else:
        shape = config.get('beta_schedule', 'linear')
        require(config, 'beta_schedule', *_BETAS_OF)
        ends = {} if shape == 'squaredcos_cap_v2' else {k: config.get(k, d) for k, d in (('beta_start', 1e-4), ('beta_end', 0.02))}
        betas = SCHEDULES.make(_BETAS_OF[shape], int(config.get('num_train_timesteps', 1000)), **ends)
    return Schedule(
        betas,
        prediction=config.get('prediction_type', 'epsilon'),
        set_alpha_to_one=set_alpha_to_one,
        clip_sample=clip_sample,
        clip_range=float(config.get('clip_sample_range', 1.0)),
    )


def schedule_to_diffusers(schedule: Schedule) -> dict[str, Any]:
    """A scheduler_config.json for `schedule`: a DDPMScheduler, or a DDIMScheduler where the last step ends below alpha 1.

    Betas of a known shape are written by name, others one by one (`trained_betas`).
    """
    betas = schedule.betas
    config: dict[str, Any] = {
        '_class_name': 'DDPMScheduler' if schedule.set_alpha_to_one else 'DDIMScheduler',
        'num_train_timesteps': schedule.steps,
        'beta_start': float(betas[0]),
        'beta_end': float(betas[-1]),
        'beta_schedule': 'linear',
        'trained_betas': None,
        'prediction_type': schedule.prediction,
        'clip_sample': schedule.clip_sample,
        'clip_sample_range': schedule.clip_range,
    }
    if not schedule.set_alpha_to_one:
        config['set_alpha_to_one'] = False
    for theirs, ours in _BETAS_OF.items():
        same = cosine(schedule.steps) if ours == 'cosine' else None
        if same is None and betas[0] <= betas[-1]:
            same = SCHEDULES.make(ours, schedule.steps, beta_start=float(betas[0]), beta_end=float(betas[-1]))
        if same is not None and np.allclose(same, betas, rtol=1e-9, atol=0):
            return config | {'beta_schedule': theirs}
    return config | {'trained_betas': betas.tolist()}


_OFF = ('use_karras_sigmas', 'use_exponential_sigmas', 'use_beta_sigmas', 'use_lu_lambdas', 'use_flow_sigmas')
_FIXED = {  # settings that must have the value we implement: {class: {key: allowed}}
    'DDPMScheduler': {'variance_type': ('fixed_small', 'fixed_small_log', 'fixed_large', 'learned_range')},
    'DDIMScheduler': {},
    'PNDMScheduler': {'skip_prk_steps': (True,)},
    'DPMSolverMultistepScheduler': {
        'algorithm_type': ('dpmsolver++',),
        'solver_order': (2,),
        'solver_type': ('midpoint',),
        'final_sigmas_type': ('zero',),
    },
    'EulerDiscreteScheduler': {
        'interpolation_type': ('linear',),
        'timestep_type': ('discrete',),
        'final_sigmas_type': ('zero',),
        'sigma_min': (None,),
        'sigma_max': (None,),
    },
}
_NAMES = dict(zip(_FIXED, ('ddpm', 'ddim', 'pndm', 'dpmpp_2m', 'euler'), strict=True))


_SHARED = (  # what one scheduler class takes over from another's file
    'num_train_timesteps', 'beta_start', 'beta_end', 'beta_schedule', 'trained_betas', 'prediction_type',
    'timestep_spacing', 'steps_offset', 'clip_sample', 'clip_sample_range', 'set_alpha_to_one',
)  # fmt: skip


def with_sampler(config: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The scheduler_config.json `config` with another sampler, one of `SAMPLERS`, as diffusers' `from_config` changes it.

    Where the file does not say whether x_0 is clipped, it is not.
    """
    if name not in SAMPLERS:
        SAMPLERS[name]  # which raises, with the choices
    kind = next(theirs for theirs, ours in _NAMES.items() if ours == name)
    extra = {'skip_prk_steps': True} if name == 'pndm' else {}
    return {'clip_sample': False} | {key: config[key] for key in _SHARED if key in config} | extra | {'_class_name': kind}


def sampler_from_diffusers(config: Mapping[str, Any], steps: int, *, strength: float = 1.0, **options: Any) -> Sampler:
    """The sampler that a diffusers scheduler_config.json describes, on `steps` timesteps in its own spacing.

    `strength` below 1 keeps the last `int(steps * strength)` of the timesteps, for editing (as diffusers' image-to-image
    pipelines do); `options` go to the sampler (eta, variance).

    One thing differs from diffusers: DDIM and DDPM step to the next timestep of the list where diffusers subtracts a fixed
    stride (equal for 'leading', and for 'trailing' when `steps` divides T). Raises `UserError` for settings that are not
    supported, by name.
    """
    schedule = schedule_from_diffusers(config)
    kind = config['_class_name']
    for key, allowed in (_FIXED[kind] | dict.fromkeys(_OFF, (False, None))).items():
        require(config, key, *allowed)
    name = _NAMES[kind]
    if name == 'pndm':
        require({'skip_prk_steps': False} | dict(config), 'skip_prk_steps', True)  # the class's own default is False
    if name == 'ddpm':
        options = {'variance': config.get('variance_type', 'fixed_small').removesuffix('_log')} | options
    spacing = config.get('timestep_spacing', 'linspace' if name in ('dpmpp_2m', 'euler') else 'leading')
    offset = int(config.get('steps_offset', 0))
    timesteps = make_timesteps(schedule.steps, steps, spacing=spacing, steps_offset=offset, sampler=name)
    if not 0 < strength <= 1 or int(steps * strength) < 1:
        raise UserError(f'strength={strength} of {steps} steps leaves none: choose a strength in [{1 / steps:.3g}, 1].')
    sampler = SAMPLERS.make(name, schedule, timesteps[steps - int(steps * strength) :], **options)
    if name == 'euler' and spacing != 'leading':  # there diffusers starts a hair below N(0, 1): without what is left of an image
        return replace(sampler, start=float(sampler.tables['sigma'][0]))
    return sampler
