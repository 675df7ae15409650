"""The settings of a diffusers scheduler_config.json: which are known, and what they may be."""

import functools
import math
import sys
from collections.abc import Mapping
from typing import Any

from purify.core.devices import say_once
from purify.core.errors import UserError
from purify.core.types import Facts

MOST_STEPS = 10**6  # of training; published schedules have 1000 to 4000
# (set_alpha_to_one, clip_sample) where the file is silent, and whether the class reads them at all.
CLASSES = {
    'DDPMScheduler': ((True, True), (False, True)),
    'DDIMScheduler': ((True, True), (True, True)),
    'PNDMScheduler': ((False, False), (True, False)),
    'DPMSolverMultistepScheduler': ((True, False), (False, False)),
    'EulerDiscreteScheduler': ((True, False), (False, False)),
}
_SIGMAS = ('karras_sigmas', 'exponential_sigmas', 'beta_sigmas', 'lu_lambdas', 'flow_sigmas')
OFF = tuple(f'use_{name}' for name in _SIGMAS)
_VARIANCES = ('fixed_small', 'fixed_small_log', 'fixed_large')
FIXED = {  # settings that must have the value we implement: {class: {key: allowed}}
    'DDPMScheduler': {'variance_type': (*_VARIANCES, 'learned_range')},
    'DDIMScheduler': {},
    'PNDMScheduler': {'skip_prk_steps': (True,)},
    'DPMSolverMultistepScheduler': {
        'algorithm_type': ('dpmsolver++', 'sde-dpmsolver++'),
        'solver_order': (2,),
        'solver_type': ('midpoint',),
        'final_sigmas_type': ('zero',),
        'lambda_min_clipped': (-math.inf,),
        'variance_type': (None, *_VARIANCES),
    },
    'EulerDiscreteScheduler': {
        'interpolation_type': ('linear',),
        'timestep_type': ('discrete',),
        'final_sigmas_type': ('zero',),
        'sigma_min': (None,),
        'sigma_max': (None,),
    },
}
# What one scheduler class takes over from another's file.
SHARED = (
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
_KNOWN = {*SHARED, *OFF, *_SILENT, *(key for keys in FIXED.values() for key in keys)}


def require(config: Mapping[str, Any], key: str, *allowed: Any) -> None:
    """Raises `UserError` where a scheduler_config.json gives `key` an unsupported value."""
    if key in config and config[key] not in allowed:
        choices = ' or '.join(map(repr, allowed))
        told = f'scheduler_config.json: {key} = {config[key]!r} is not supported'
        raise UserError(f'{told}; it must be {choices}.')


def refuse(key: str, value: Any, kind: str) -> UserError:
    """The error for a setting that is not of the `kind` it must be."""
    return UserError(f'scheduler_config.json: {key} = {value!r} must be {kind}.')


def read_number(config: Mapping[str, Any], key: str, default: float) -> float:
    """The finite number under `key`. Raises `UserError` for anything else."""
    value = config.get(key, default)
    numeric = isinstance(value, int | float) and not isinstance(value, bool)
    if not numeric or not abs(value) <= sys.float_info.max:
        raise refuse(key, value, 'a finite number')
    return value


def read_whole(config: Mapping[str, Any], key: str, default: int) -> int:
    """The whole number under `key`, up to `MOST_STEPS`. Raises `UserError` for anything else."""
    value = read_number(config, key, default)
    if value != int(value) or value > MOST_STEPS:
        raise refuse(key, value, f'a whole number up to {MOST_STEPS}')
    return int(value)


def read_flag(config: Mapping[str, Any], key: str, default: bool) -> bool:
    """The true or false under `key`. Raises `UserError` for anything else."""
    value = config.get(key, default)
    if not isinstance(value, bool):
        raise refuse(key, value, 'true or false')
    return value


def known_class(config: Mapping[str, Any], otherwise: str = '') -> str:
    """The file's scheduler class. Raises `UserError`, ending in `otherwise`, for an unknown one."""
    name = config.get('_class_name')
    if not isinstance(name, str) or name not in CLASSES:
        raise UserError(
            f'scheduler_config.json: unknown _class_name {name!r}. Choose from:'
            f' {", ".join(CLASSES)}{otherwise}.'
        )
    return name


def check_known(config: Mapping[str, Any], kind: str) -> None:
    """Raises `UserError` for settings that no class knows; says which are not of class `kind`."""
    if unread := _unread(config, kind):
        _say_unread(kind, ', '.join(f'{key} = {value!r}' for key, value in unread.items()))
    known = {key for key in config if key in _KNOWN or key[:1] == '_'}
    if strange := {k: v for k, v in config.items() if k not in known and v not in (None, False)}:
        raise UserError(
            f'scheduler_config.json: settings that are not supported: {strange}. Choose'
            ' another scheduler.'
        )


def _unread(config: Mapping[str, Any], kind: str) -> Facts:
    """Settings of other classes in the file of class `kind` that ask for what it does not do."""
    pairs = [pair for fixed in FIXED.values() for pair in fixed.items()]
    foreign = [pair for pair in pairs if pair[0] not in FIXED[kind]]
    plain = {(key, allowed[0]) for key, allowed in foreign}
    names = {key for key, _ in foreign} | (set() if reads_clipping(kind) else {'clip_sample'})
    return {
        key: config[key]
        for key in sorted(names)
        if config.get(key) not in (None, False) and (key, config[key]) not in plain
    }


def reads_clipping(kind: str) -> bool:
    """Whether scheduler class `kind` has a setting `clip_sample`."""
    return CLASSES[kind][1][1]


@functools.cache
def _say_unread(kind: str, told: str) -> None:
    say_once(f'scheduler_config.json: {kind} has no {told}: as in diffusers, it changes nothing.')
