"""Noise schedules and samplers as diffusers keeps them, in a file scheduler_config.json."""

import functools
import math
import sys
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from purify.core.devices import say_once
from purify.core.errors import UserError
from purify.core.types import Facts, Settings
from purify.diffusion.chain_step import Sampler
from purify.diffusion.samplers import SAMPLERS
from purify.diffusion.schedules import PREDICTIONS, SCHEDULES, Schedule, cosine
from purify.diffusion.timesteps import SPACINGS, make_timesteps

_CLIPPED = ('ddim', 'euler', 'pndm')  # samplers that reckon with eps beside a clipped x_0
MOST_STEPS = 10**6  # of training; published schedules have 1000 to 4000
# Diffusers' names and ours.
_BETAS_OF = {'linear': 'linear', 'scaled_linear': 'scaled_linear', 'squaredcos_cap_v2': 'cosine'}
# (set_alpha_to_one, clip_sample) where the file is silent, and whether the class reads them at all.
_CLASSES = {
    'DDPMScheduler': ((True, True), (False, True)),
    'DDIMScheduler': ((True, True), (True, True)),
    'PNDMScheduler': ((False, False), (True, False)),
    'DPMSolverMultistepScheduler': ((True, False), (False, False)),
    'EulerDiscreteScheduler': ((True, False), (False, False)),
}


def require(config: Mapping[str, Any], key: str, *allowed: Any) -> None:
    """Raises `UserError` where a scheduler_config.json gives `key` an unsupported value."""
    if key in config and config[key] not in allowed:
        choices = ' or '.join(repr(value) for value in allowed)
        raise UserError(
            f'scheduler_config.json: {key} = {config[key]!r} is not supported; it must be'
            f' {choices}.'
        )


def _refuse(key: str, value: Any, kind: str) -> UserError:
    return UserError(f'scheduler_config.json: {key} = {value!r} must be {kind}.')


def _number(config: Mapping[str, Any], key: str, default: float) -> float:
    value = config.get(key, default)
    if (
        isinstance(value, bool)
        or not isinstance(value, int | float)
        or not abs(value) <= sys.float_info.max
    ):
        raise _refuse(key, value, 'a finite number')
    return value


def _whole(config: Mapping[str, Any], key: str, default: int) -> int:
    value = _number(config, key, default)
    if value != int(value) or value > MOST_STEPS:
        raise _refuse(key, value, f'a whole number up to {MOST_STEPS}')
    return int(value)


def _flag(config: Mapping[str, Any], key: str, default: bool) -> bool:
    value = config.get(key, default)
    if not isinstance(value, bool):
        raise _refuse(key, value, 'true or false')
    return value


def _betas(config: Mapping[str, Any]) -> np.ndarray:
    steps, given = _whole(config, 'num_train_timesteps', 1000), config.get('trained_betas')
    if given is not None:
        if not isinstance(given, list | tuple) or not all(
            type(beta) in (int, float) and 0 < beta < 1 for beta in given
        ):
            raise _refuse(
                'trained_betas', given, 'a list of numbers between 0 and 1 (both excluded)'
            )
        if 'num_train_timesteps' in config and len(given) != steps:
            raise _refuse(
                'num_train_timesteps', steps, f'{len(given)}, the number of trained_betas'
            )
        return np.asarray(given, np.float64)
    require(config, 'beta_schedule', *_BETAS_OF)
    shape = config.get('beta_schedule', 'linear')
    ends = {
        key: _number(config, key, default)
        for key, default in (('beta_start', 1e-4), ('beta_end', 0.02))
    }
    if steps < 1:
        raise _refuse('num_train_timesteps', steps, 'at least 1')
    return SCHEDULES.make(_BETAS_OF[shape], steps, **({} if shape == 'squaredcos_cap_v2' else ends))


def _prediction(config: Mapping[str, Any]) -> str:
    """What the network predicts; old files say it by `predict_epsilon`, where false is 'sample'."""
    require(config, 'prediction_type', *PREDICTIONS)
    old = config.get('predict_epsilon')
    if old is None:
        return config.get('prediction_type', 'epsilon')
    meant = 'epsilon' if _flag(config, 'predict_epsilon', True) else 'sample'
    if config.get('prediction_type', meant) != meant:
        raise UserError(
            f'scheduler_config.json: prediction_type = {config["prediction_type"]!r}, but'
            f' predict_epsilon = {old!r} means {meant!r}. Take out the one that is not meant.'
        )
    return meant


def _known_class(config: Mapping[str, Any], otherwise: str = '') -> str:
    name = config.get('_class_name')
    if not isinstance(name, str) or name not in _CLASSES:
        raise UserError(
            f'scheduler_config.json: unknown _class_name {name!r}. Choose from:'
            f' {", ".join(_CLASSES)}{otherwise}.'
        )
    return name


def schedule_from_diffusers(config: Mapping[str, Any]) -> Schedule:
    """The schedule that a scheduler_config.json describes, by its class's defaults where silent.

    Raises `UserError` for other scheduler classes, for settings that are not supported and for
    values of the wrong type, by name.
    """
    name = _known_class(config)
    if unread := _unread(config, name):
        _say_unread(name, ', '.join(f'{key} = {value!r}' for key, value in unread.items()))
    strange = {
        k: v
        for k, v in config.items()
        if k not in _KNOWN and k[:1] != '_' and v not in (None, False)
    }
    if strange:
        raise UserError(
            f'scheduler_config.json: settings that are not supported: {strange}. Choose another'
            ' scheduler.'
        )
    require(config, 'thresholding', False)
    require(config, 'rescale_betas_zero_snr', False)
    defaults, reads = _CLASSES[name]
    set_alpha_to_one, clip_sample = (
        _flag(config, key, default) if read else default
        for key, default, read in zip(
            ('set_alpha_to_one', 'clip_sample'), defaults, reads, strict=True
        )
    )
    clip_range = _number(config, 'clip_sample_range', 1.0)
    if clip_range <= 0:
        raise _refuse('clip_sample_range', clip_range, 'above 0')
    return Schedule(
        _betas(config),
        prediction=_prediction(config),
        set_alpha_to_one=set_alpha_to_one,
        clip_sample=clip_sample,
        clip_range=clip_range,
        use_clipped_model_output=config.get('use_clipped_model_output') is None
        or _flag(config, 'use_clipped_model_output', True),
    )


def schedule_to_diffusers(schedule: Schedule) -> Facts:
    """A scheduler_config.json for `schedule`: a DDPMScheduler, or where needed a DDIMScheduler.

    Betas of a known shape are written by name, others one by one (`trained_betas`).
    """
    betas = schedule.betas
    config: Settings = {
        '_class_name': (
            'DDPMScheduler'
            if schedule.set_alpha_to_one and schedule.use_clipped_model_output
            else 'DDIMScheduler'
        ),
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
    if not schedule.use_clipped_model_output:
        config['use_clipped_model_output'] = False
    for theirs, ours in _BETAS_OF.items():
        same = cosine(schedule.steps) if ours == 'cosine' else None
        if same is None and betas[0] <= betas[-1]:
            same = SCHEDULES.make(
                ours, schedule.steps, beta_start=float(betas[0]), beta_end=float(betas[-1])
            )
        if same is not None and np.allclose(same, betas, rtol=1e-9, atol=0):
            return config | {'beta_schedule': theirs}
    return config | {'trained_betas': betas.tolist()}


_OFF = (
    'use_karras_sigmas',
    'use_exponential_sigmas',
    'use_beta_sigmas',
    'use_lu_lambdas',
    'use_flow_sigmas',
)
_FIXED = {  # settings that must have the value we implement: {class: {key: allowed}}
    'DDPMScheduler': {
        'variance_type': ('fixed_small', 'fixed_small_log', 'fixed_large', 'learned_range')
    },
    'DDIMScheduler': {},
    'PNDMScheduler': {'skip_prk_steps': (True,)},
    'DPMSolverMultistepScheduler': {
        'algorithm_type': ('dpmsolver++', 'sde-dpmsolver++'),
        'solver_order': (2,),
        'solver_type': ('midpoint',),
        'final_sigmas_type': ('zero',),
        'lambda_min_clipped': (-math.inf,),
        'variance_type': (None, 'fixed_small', 'fixed_small_log', 'fixed_large'),
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
_SDE = {'algorithm_type': 'sde-dpmsolver++'}  # 'dpmpp_2m' with this is 'sde'


# What one scheduler class takes over from another's file.
_SHARED = (
    'num_train_timesteps', 'beta_start', 'beta_end', 'beta_schedule', 'trained_betas',
    'prediction_type', 'predict_epsilon', 'timestep_spacing', 'steps_offset', 'clip_sample',
    'clip_sample_range', 'use_clipped_model_output', 'set_alpha_to_one', 'thresholding',
    'rescale_betas_zero_snr',
)  # fmt: skip


# Known to diffusers, and without effect while the settings above have the values that are allowed.
_SILENT = (
    'sample_max_value', 'dynamic_thresholding_ratio',  # of thresholding
    'lower_order_final', 'euler_at_final',  # the last step to sigma 0 is of first order anyway
    'flow_shift', 'use_dynamic_shifting', 'time_shift_type',  # of use_flow_sigmas
    'tensor_format',  # of diffusers before 0.3
)  # fmt: skip
_KNOWN = {*_SHARED, *_OFF, *_SILENT, *(key for keys in _FIXED.values() for key in keys)}


def _unread(config: Mapping[str, Any], kind: str) -> Facts:
    """Settings of other classes in the file of class `kind` that ask for what it does not do."""
    foreign = [
        pair for fixed in _FIXED.values() for pair in fixed.items() if pair[0] not in _FIXED[kind]
    ]
    plain = {(key, allowed[0]) for key, allowed in foreign}
    names = {key for key, _ in foreign} | (set() if _reads_clipping(kind) else {'clip_sample'})
    return {
        key: config[key]
        for key in sorted(names)
        if config.get(key) not in (None, False) and (key, config[key]) not in plain
    }


def _reads_clipping(kind: str) -> bool:
    return _CLASSES[kind][1][1]


@functools.cache
def _say_unread(kind: str, told: str) -> None:
    say_once(
        f'scheduler_config.json: {kind} has no {told}: as in diffusers, what is not its own changes'
        ' nothing.'
    )


def with_sampler(config: Mapping[str, Any], name: str) -> Facts:
    """`config` with another sampler, one of `SAMPLERS`, as diffusers' `from_config` changes it.

    Where the file does not say whether x_0 is clipped, it is not. Raises `UserError` for unknown
    names, for the file of another scheduler class that holds no betas (flow matching), and for
    settings that change the noise in a way that is not supported.
    """
    if name not in SAMPLERS:
        SAMPLERS[name]  # which raises, with the choices
    if config.get('_class_name') not in [*_CLASSES] and not {
        'beta_schedule',
        'beta_start',
        'trained_betas',
    } & {*config}:
        raise UserError(
            f'scheduler_config.json: _class_name {config.get("_class_name")!r} without betas holds'
            f' no noise that sampler {name!r} could take. Use a model whose scheduler is one of:'
            f' {", ".join(_CLASSES)}.'
        )
    # This and the next change the noise, which no sampler is told.
    require(config, 'use_flow_sigmas', False, None)
    require(config, 'snr_shift_scale', 1, None)
    kind = next(
        theirs for theirs, ours in _NAMES.items() if ours == ('dpmpp_2m' if name == 'sde' else name)
    )
    extra: Facts = {'pndm': {'skip_prk_steps': True}, 'sde': _SDE}.get(name, {})
    taken = {
        key: config[key]
        for key in _SHARED
        if key in config and (key != 'clip_sample' or _reads_clipping(kind))
    }
    return {'clip_sample': False} | taken | extra | {'_class_name': kind}


def _kept(steps: int, strength: float) -> int:
    """How many of the timesteps `strength` keeps: `int(steps * strength)`, at least 1."""
    if 0 < strength <= 1 and int(steps * strength) >= 1:
        return int(steps * strength)
    if steps == 1:
        raise UserError(
            f'strength={strength}: a single step takes strength 1 only; choose 1 or more steps.'
        )
    least = math.ceil(1000 / steps) / 1000
    raise UserError(
        f'strength={strength} of {steps} steps leaves none: choose a strength from {least:g} to 1.'
    )


def sampler_from_diffusers(
    config: Mapping[str, Any], steps: int, *, strength: float = 1.0, **options: Any
) -> Sampler:
    """The sampler that a scheduler_config.json describes, with `steps` timesteps as it says.

    `strength` below 1 keeps the last `int(steps * strength)` of the timesteps, for editing (as
    diffusers' image-to-image pipelines do; of PNDM's calls, one more than timesteps, it leaves out
    as many as there of the timesteps); `options` go to the sampler (eta, variance).

    The chain is diffusers' own, to rounding, but for the lengths of 'trailing' that
    `make_timesteps` names, and for clipping: in DDIM, Euler and PNDM eps is derived again from the
    clipped x_0, which diffusers leaves to an argument of its step. Write that argument,
    `"use_clipped_model_output": false`, into the file for diffusers' default; the other samplers do
    not reckon with eps, and refuse it. PNDM with prediction 'sample', which diffusers refuses,
    averages eps. Raises `UserError` for settings that are not supported, by name.
    """
    others = (
        '; or let another sampler take its noise: defense.vary.sampler=<one of'
        f' {", ".join(sorted(SAMPLERS))}>'
    )
    kind, schedule = _known_class(config, others), schedule_from_diffusers(config)
    for key, allowed in (
        _FIXED[kind] | dict.fromkeys(_OFF, (False, None)) | {'timestep_spacing': tuple(SPACINGS)}
    ).items():
        require(config, key, *allowed)
    name = (
        'sde'
        if kind == 'DPMSolverMultistepScheduler' and _SDE.items() <= config.items()
        else _NAMES[kind]
    )
    if name not in _CLIPPED and not schedule.use_clipped_model_output:
        raise _refuse(
            'use_clipped_model_output',
            False,
            f'true or nothing: {name} has no such choice ({", ".join(_CLIPPED)} have)',
        )
    if name == 'pndm':
        # The class's own default is False.
        require({'skip_prk_steps': False} | dict(config), 'skip_prk_steps', True)
    spacing = config.get(
        'timestep_spacing', 'linspace' if name in ('dpmpp_2m', 'euler', 'sde') else 'leading'
    )
    offset = _whole(config, 'steps_offset', 0)
    timesteps = make_timesteps(
        schedule.steps, steps, spacing=spacing, steps_offset=offset, sampler=name
    )
    skip = steps - _kept(steps, strength)
    if name == 'pndm':  # the cut is made in the list of its calls
        average = 'eps' if schedule.prediction == 'sample' else 'output'
        options = {'average': average, 'stride': schedule.steps // steps, 'skip': skip} | options
    else:
        timesteps = timesteps[skip:]
    if name == 'ddim':
        options = {'stride': schedule.steps // steps} | options
    if name == 'ddpm':
        options = {
            'variance': config.get('variance_type', 'fixed_small').removesuffix('_log'),
            'noise_at_end': True,
        } | options
    sampler = SAMPLERS.make(name, schedule, timesteps, **options)
    # There diffusers starts a hair below N(0, 1): without what is left of an image.
    if name == 'euler' and spacing != 'leading':
        return replace(sampler, start=float(sampler.tables['sigma'][0]))
    return sampler
