"""Noise schedules and samplers as diffusers keeps them, in a file scheduler_config.json."""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from purify.core.errors import UserError
from purify.core.types import Facts, Settings
from purify.diffusion.chain_step import Sampler
from purify.diffusion.samplers import SAMPLERS
from purify.diffusion.scheduler_settings import (
    CLASSES,
    FIXED,
    OFF,
    SHARED,
    check_known,
    known_class,
    read_flag,
    read_number,
    read_whole,
    reads_clipping,
    refuse,
    require,
)
from purify.diffusion.schedules import PREDICTIONS, SCHEDULES, Schedule, cosine_betas
from purify.diffusion.timesteps import SPACINGS, make_timesteps

OF_FILES = sorted({*SAMPLERS} - {'consistency'})  # samplers that a file may name
_CLIPPED = ('ddim', 'euler', 'pndm')  # samplers that reckon with eps beside a clipped x_0
# Diffusers' names and ours.
_BETAS_OF = {'linear': 'linear', 'scaled_linear': 'scaled_linear', 'squaredcos_cap_v2': 'cosine'}


def _betas(config: Mapping[str, Any]) -> np.ndarray:
    steps, given = read_whole(config, 'num_train_timesteps', 1000), config.get('trained_betas')
    if given is not None:
        listed = isinstance(given, list | tuple)
        if not listed or not all(type(beta) in (int, float) and 0 < beta < 1 for beta in given):
            raise refuse('trained_betas', given, 'a list of numbers between 0 and 1 (excluded)')
        if 'num_train_timesteps' in config and len(given) != steps:
            raise refuse('num_train_timesteps', steps, f'{len(given)}, the number of trained_betas')
        return np.asarray(given, np.float64)
    require(config, 'beta_schedule', *_BETAS_OF)
    shape = config.get('beta_schedule', 'linear')
    usual = {'beta_start': 1e-4, 'beta_end': 0.02}
    ends = {key: read_number(config, key, default) for key, default in usual.items()}
    if steps < 1:
        raise refuse('num_train_timesteps', steps, 'at least 1')
    return SCHEDULES.make(_BETAS_OF[shape], steps, **({} if shape == 'squaredcos_cap_v2' else ends))


def _prediction(config: Mapping[str, Any]) -> str:
    """What the network predicts; old files say it by `predict_epsilon`, where false is 'sample'."""
    require(config, 'prediction_type', *PREDICTIONS)
    old = config.get('predict_epsilon')
    if old is None:
        return config.get('prediction_type', 'epsilon')
    meant = 'epsilon' if read_flag(config, 'predict_epsilon', True) else 'sample'
    if config.get('prediction_type', meant) != meant:
        raise UserError(
            f'scheduler_config.json: prediction_type = {config["prediction_type"]!r}, but'
            f' predict_epsilon = {old!r} means {meant!r}. Take out the one that is not meant.'
        )
    return meant


def schedule_from_diffusers(config: Mapping[str, Any]) -> Schedule:
    """The schedule that a scheduler_config.json describes, by its class's defaults where silent.

    Raises `UserError` for other scheduler classes, for settings that are not supported and for
    values of the wrong type, by name.
    """
    name = known_class(config)
    check_known(config, name)
    require(config, 'thresholding', False)
    require(config, 'rescale_betas_zero_snr', False)
    keys = ('set_alpha_to_one', 'clip_sample')
    set_alpha_to_one, clip_sample = (
        read_flag(config, key, default) if read else default
        for key, default, read in zip(keys, *CLASSES[name], strict=True)
    )
    clip_range = read_number(config, 'clip_sample_range', 1.0)
    if clip_range <= 0:
        raise refuse('clip_sample_range', clip_range, 'above 0')
    return Schedule(
        _betas(config),
        prediction=_prediction(config),
        set_alpha_to_one=set_alpha_to_one,
        clip_sample=clip_sample,
        clip_range=clip_range,
        use_clipped_model_output=config.get('use_clipped_model_output') is None
        or read_flag(config, 'use_clipped_model_output', True),
    )


def schedule_to_diffusers(schedule: Schedule) -> Facts:
    """A scheduler_config.json for `schedule`: a DDPMScheduler, or where needed a DDIMScheduler.

    Betas of a known shape are written by name, others one by one (`trained_betas`).
    """
    betas = schedule.betas
    ends = {'beta_start': float(betas[0]), 'beta_end': float(betas[-1])}
    plain = schedule.set_alpha_to_one and schedule.use_clipped_model_output
    config: Settings = {
        '_class_name': 'DDPMScheduler' if plain else 'DDIMScheduler',
        'num_train_timesteps': schedule.steps,
        **ends,
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
        same = cosine_betas(schedule.steps) if ours == 'cosine' else None
        if same is None and betas[0] <= betas[-1]:
            same = SCHEDULES.make(ours, schedule.steps, **ends)
        if same is not None and np.allclose(same, betas, rtol=1e-9, atol=0):
            return config | {'beta_schedule': theirs}
    return config | {'trained_betas': betas.tolist()}


_NAMES = dict(zip(FIXED, ('ddpm', 'ddim', 'pndm', 'dpmpp_2m', 'euler'), strict=True))
_SDE = {'algorithm_type': 'sde-dpmsolver++'}  # 'dpmpp_2m' with this is 'sde'


def with_sampler(config: Mapping[str, Any], name: str) -> Facts:
    """Gives a config another of the `SAMPLERS`, as diffusers' `from_config` does.

    Where the file does not say whether x_0 is clipped, it is not. Raises `UserError` for unknown
    names, for the file of another scheduler class that holds no betas (flow matching), and for
    settings that change the noise in a way that is not supported.
    """
    SAMPLERS[name]  # raises for an unknown one, with the choices
    if name not in OF_FILES:
        raise UserError(
            "sampler 'consistency' is for priors on pixels that were distilled for it"
            ' (configs/prior.py:distill=FOLDER). Choose another.'
        )
    betas = {'beta_schedule', 'beta_start', 'trained_betas'} & {*config}
    if config.get('_class_name') not in [*CLASSES] and not betas:
        raise UserError(
            f'scheduler_config.json: _class_name {config.get("_class_name")!r} without betas holds'
            f' no noise that sampler {name!r} could take. Use a model whose scheduler is one of:'
            f' {", ".join(CLASSES)}.'
        )
    # This and the next change the noise, which no sampler is told.
    require(config, 'use_flow_sigmas', False, None)
    require(config, 'snr_shift_scale', 1, None)
    wanted = 'dpmpp_2m' if name == 'sde' else name
    kind = next(theirs for theirs, ours in _NAMES.items() if ours == wanted)
    extra: Facts = {'pndm': {'skip_prk_steps': True}, 'sde': _SDE}.get(name, {})
    read = [key for key in SHARED if key != 'clip_sample' or reads_clipping(kind)]
    taken = {key: config[key] for key in read if key in config}
    return {'clip_sample': False} | taken | extra | {'_class_name': kind}


def _kept(steps: int, strength: float) -> int:
    """How many of `steps` timesteps `strength` keeps; raises `UserError` where that is none."""
    if 0 < strength <= 1 and int(steps * strength) >= 1:
        return int(steps * strength)
    if steps == 1:
        raise UserError(
            f'strength={strength}: a single step takes strength 1 only; choose it, or more steps.'
        )
    least = math.ceil(1000 / steps) / 1000
    raise UserError(
        f'strength={strength} of {steps} steps leaves none: choose from {least:g} to 1.'
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
    others = f'; or let another sampler take its noise: {", ".join(OF_FILES)}'
    kind, schedule = known_class(config, others), schedule_from_diffusers(config)
    off = dict.fromkeys(OFF, (False, None))
    for key, allowed in (FIXED[kind] | off | {'timestep_spacing': tuple(SPACINGS)}).items():
        require(config, key, *allowed)
    is_sde = kind == 'DPMSolverMultistepScheduler' and _SDE.items() <= config.items()
    name = 'sde' if is_sde else _NAMES[kind]
    if name not in _CLIPPED and not schedule.use_clipped_model_output:
        allowed = f'true or nothing: {name} has no such choice ({", ".join(_CLIPPED)} have)'
        raise refuse('use_clipped_model_output', False, allowed)
    if name == 'pndm':
        # The class's own default is False.
        require({'skip_prk_steps': False} | dict(config), 'skip_prk_steps', True)
    usual = 'linspace' if name in ('dpmpp_2m', 'euler', 'sde') else 'leading'
    spacing = config.get('timestep_spacing', usual)
    offset = read_whole(config, 'steps_offset', 0)
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
        variance = config.get('variance_type', 'fixed_small').removesuffix('_log')
        options = {'variance': variance, 'noise_at_end': True} | options
    sampler = SAMPLERS.make(name, schedule, timesteps, **options)
    # There diffusers starts a hair below N(0, 1): without what is left of an image.
    if name == 'euler' and spacing != 'leading':
        return replace(sampler, start=float(sampler.tables['sigma'][0]))
    return sampler
