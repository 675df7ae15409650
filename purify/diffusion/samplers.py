"""The samplers by name: each turns a noise schedule and timesteps into numbers of a chain."""

from collections.abc import Callable
from typing import Any

import numpy as np

from purify.core.errors import UserError
from purify.core.registry import Registry
from purify.core.types import Facts
from purify.diffusion.chain_step import LearnedVariance, LinearMultistep, Sampler, SecondOrder
from purify.diffusion.schedules import Schedule
from purify.diffusion.timesteps import check_timesteps

VARIANCES = ('fixed_small', 'fixed_large', 'learned', 'learned_range')
AVERAGES = ('eps', 'output')
# Of a step without noise, in the order of `_levels`.
_DDIM_TABLES: tuple[str, ...] = ('alpha', 'sigma', 'on_x0', 'on_eps')


def _checked(schedule: Schedule, timesteps: Any) -> np.ndarray:
    t = check_timesteps(timesteps, schedule.steps)
    if (t != np.round(t)).any():
        raise UserError(f"only sampler 'euler' takes timesteps between integers, got {t.tolist()}.")
    return t.astype(np.int64)


def _levels(
    schedule: Schedule, t: np.ndarray, final_alpha_cumprod: float, stride: int | None = None
) -> list[np.ndarray]:
    """Levels alpha and sigma f64[k] of timesteps t, and of where steps go: on, or `stride` down."""
    alpha, sigma = schedule.alpha_sigma(t)
    end = np.sqrt([final_alpha_cumprod, 1 - final_alpha_cumprod])
    if stride is None:
        return [alpha, sigma, np.append(alpha[1:], end[0]), np.append(sigma[1:], end[1])]
    if not 1 <= stride <= schedule.steps or t.max() > schedule.steps - 1:
        raise UserError(
            f'stride={stride} leads out of the {schedule.steps} timesteps: choose a smaller one.'
        )
    goal = schedule.alpha_sigma(np.maximum(t - stride, 0))
    goals = [np.where(t < stride, last, level) for last, level in zip(end, goal, strict=True)]
    return [alpha, sigma, *goals]


def _common(
    schedule: Schedule, t: np.ndarray, clip_sample: bool | None, rederived: bool | None = None
) -> Facts:
    clip = schedule.clip_sample if clip_sample is None else clip_sample
    whole = t.dtype.kind in 'iu' or bool((t == np.round(t)).all())
    return {
        'prediction': schedule.prediction,
        'clip': schedule.clip_range if clip else None,
        'use_clipped_model_output': (
            schedule.use_clipped_model_output if rederived is None else rederived
        ),
        'timesteps': t.astype(np.int32 if whole else np.float32),
    }


def ddpm(
    schedule: Schedule,
    timesteps: Any,
    *,
    variance: str = 'fixed_small',
    clip_sample: bool | None = None,
    noise_at_end: bool = False,
) -> Sampler:
    """Ancestral sampling (Ho et al. 2020, eq. 6 and 7) between neighbours in `timesteps`.

    `variance`: 'fixed_small' (posterior), 'fixed_large' (beta), 'learned' (the network gives the
    log variance) or 'learned_range' (it gives the place between the two, -1 ... 1). No noise enters
    at the last call, which ends at x_0; with `noise_at_end` it does unless that call is at timestep
    0, as in diffusers' DDPMScheduler. `clip_sample` says whether the predicted image is clipped;
    None is as the schedule says, here and below.
    """
    if variance not in VARIANCES:
        raise UserError(f'unknown variance {variance!r}. Choose from: {", ".join(VARIANCES)}.')
    t = _checked(schedule, timesteps)
    a, s, a2, s2 = _levels(schedule, t, 1.0)
    large = 1 - (a / a2) ** 2
    small = np.maximum((s2 / s) ** 2 * large, 1e-20)
    noisy = np.append(np.ones(len(a) - 1), float(noise_at_end and t[-1] > 0))
    tables = {'alpha': a, 'sigma': s, 'on_x': a / a2 * (s2 / s) ** 2, 'on_x0': a2 * large / s**2}
    common: Facts = _common(schedule, t, clip_sample) | {'stochastic': True}
    if variance.startswith('learned'):
        tables |= {'on_noise': noisy, 'log_small': np.log(small), 'log_large': np.log(large)}
        return LearnedVariance(**common, tables=tables, is_range=variance == 'learned_range')
    tables |= {'on_noise': noisy * np.sqrt(large if variance == 'fixed_large' else small)}
    return Sampler(**common, tables=tables)


def ddim(
    schedule: Schedule,
    timesteps: Any,
    *,
    eta: float = 0.0,
    clip_sample: bool | None = None,
    use_clipped_model_output: bool | None = None,
    stride: int | None = None,
) -> Sampler:
    """DDIM (Song et al. 2021, eq. 12 and 16), from no noise (`eta` 0) to that of 'ddpm' (1).

    Each step goes to the next timestep; with `stride` from t to t - stride, and where that is below
    0 to `final_alpha_cumprod`, as in diffusers' DDIMScheduler (stride = T // number of timesteps).
    Where x_0 is clipped eps follows it (see `Sampler`), unless `use_clipped_model_output` is False,
    the default of diffusers.
    """
    if not 0 <= eta <= 1:
        raise UserError(f'eta must lie between 0 and 1, got {eta}.')
    t = _checked(schedule, timesteps)
    a, s, a2, s2 = _levels(schedule, t, schedule.final_alpha_cumprod, stride)
    std = eta * s2 / s * np.sqrt(np.maximum(1 - (a / a2) ** 2, 0))
    tables = {'alpha': a, 'sigma': s, 'on_x0': a2, 'on_noise': std}
    tables['on_eps'] = np.sqrt(np.maximum(s2**2 - std**2, 0))
    common = _common(schedule, t, clip_sample, use_clipped_model_output)
    return Sampler(**common, stochastic=eta > 0, tables=tables)


def euler(
    schedule: Schedule,
    timesteps: Any,
    *,
    clip_sample: bool | None = None,
    use_clipped_model_output: bool | None = None,
) -> Sampler:
    """Euler's method on the probability-flow ODE (Karras et al. 2022, alg. 1), to sigma = 0.

    Without churn. In x/alpha and sigma/alpha, dx = eps dsigma; written back to the
    variance-preserving x_t a step is DDIM's. Timesteps may lie between integers; the state of
    diffusers' EulerDiscreteScheduler is this state over alpha (`tables['alpha']`).
    `use_clipped_model_output` as in 'ddim'.
    """
    t = check_timesteps(timesteps, schedule.steps)
    tables = dict(zip(_DDIM_TABLES, _levels(schedule, t, 1.0), strict=True))
    common = _common(schedule, t, clip_sample, use_clipped_model_output)
    return Sampler(**common, stochastic=False, tables=tables)


def dpmpp_2m(schedule: Schedule, timesteps: Any, *, clip_sample: bool | None = None) -> Sampler:
    """DPM-Solver++(2M), midpoint (Lu et al. 2022, alg. 2), with a last step of first order."""
    return _second_order(schedule, timesteps, clip_sample, noisy=False)


def sde(schedule: Schedule, timesteps: Any, *, clip_sample: bool | None = None) -> Sampler:
    """SDE-DPM-Solver++(2M), midpoint (Lu et al. 2022, section 5): the reverse SDE, second order.

    Of first order it would be 'ddpm' with 'fixed_small' (Lu et al. 2022, section 6).
    """
    return _second_order(schedule, timesteps, clip_sample, noisy=True)


def _second_order(
    schedule: Schedule, timesteps: Any, clip_sample: bool | None, *, noisy: bool
) -> Sampler:
    """The chain of `dpmpp_2m`, or of `sde` if `noisy`.

    With n = 1 if `noisy`, else 0, h the step in log alpha/sigma, h_1 the last: x' = sigma'/sigma
    e^(-n h) x + alpha' (1 - e^(-(1 + n) h)) (x_0 + h / (2 h_1) (x_0 - last x_0)) + noise.
    """
    t = _checked(schedule, timesteps)
    a, s, a2, s2 = _levels(schedule, t, 1.0)
    lam = np.log(a / s)
    h = np.diff(lam)
    damping, reach = np.append(np.exp(-h), 0.0) ** noisy, (1 + noisy) * h
    on_x0 = np.append(a2[:-1] * -np.expm1(-reach), 1.0)  # at the end h is infinite: x_0 itself
    on_last = np.zeros_like(on_x0)
    if len(h) > 1:
        on_last[1:-1] = -on_x0[1:-1] * 0.5 * h[1:] / h[:-1]
    tables = {'alpha': a, 'sigma': s, 'on_x': s2 / s * damping, 'on_last': on_last}
    tables['on_x0'] = on_x0 - on_last
    if noisy:
        tables['on_noise'] = s2 * np.sqrt(-np.expm1(-2 * np.append(h, np.inf)))
    return SecondOrder(**_common(schedule, t, clip_sample), stochastic=noisy, tables=tables)


def consistency(schedule: Schedule, timesteps: Any, *, clip_sample: bool | None = None) -> Sampler:
    """Multistep consistency sampling (Song et al. 2023, algorithm 1), for distilled networks.

    Each call goes to the clean image at once, and fresh noise brings it to the next timestep's
    level. `configs/prior.py:distill=FOLDER` makes such a network, whose answer a single call is.
    """
    t = _checked(schedule, timesteps)
    a, s, a2, s2 = _levels(schedule, t, 1.0)
    tables = {'alpha': a, 'sigma': s, 'on_x0': a2, 'on_noise': s2}
    return Sampler(**_common(schedule, t, clip_sample), stochastic=len(t) > 1, tables=tables)


def pndm(
    schedule: Schedule,
    timesteps: Any,
    *,
    clip_sample: bool | None = None,
    use_clipped_model_output: bool | None = None,
    average: str = 'eps',
    stride: int | None = None,
    skip: int = 0,
) -> Sampler:
    """Pseudo linear multistep (Liu et al. 2022, eq. 9 and 12) as Stable Diffusion uses it.

    Without Runge-Kutta calls. The second timestep is visited twice, to repair the first step, so k
    timesteps take k + 1 calls (1 takes 1). Averaged is eps, whatever the network predicts, and each
    step goes to the next timestep. For the arithmetic of diffusers' PNDMScheduler: `average`
    'output' averages the network's answers (for v of first order only); `stride` as in 'ddim';
    `skip` leaves out the first of the k + 1 calls, after which the first of the rest is the one
    repaired, by the second. `use_clipped_model_output` as in 'ddim'.
    """
    if average not in AVERAGES:
        raise UserError(f'unknown average {average!r}. Choose from: {", ".join(AVERAGES)}.')
    t = _checked(schedule, timesteps)
    n, final = len(t), schedule.final_alpha_cumprod
    if not 0 <= skip < n:
        raise UserError(f'skip must lie between 0 and {n - 1} for {n} timesteps, got {skip}.')
    told = np.r_[0, 1 : min(n, 2), 1:n][skip:]  # where the network is asked
    again = np.arange(len(told)) == 1
    weights = np.zeros((len(told), 4))
    weights[:] = np.array([55, -59, 37, -9]) / 24
    warm_up = np.array(
        [[1, 0, 0, 0], [1 / 2, 1 / 2, 0, 0], [3 / 2, -1 / 2, 0, 0], [23 / 12, -16 / 12, 5 / 12, 0]]
    )
    weights[:4] = warm_up[: len(told)]
    if stride is None:
        levels = [level[told - again] for level in _levels(schedule, t, final)]
    else:
        levels = _levels(schedule, t[told] + stride * again, final, stride)
    alpha, sigma = schedule.alpha_sigma(t[told])
    tables = dict(zip(_DDIM_TABLES, levels, strict=True)) | {'weights': weights}
    tables |= {'told_alpha': alpha, 'told_sigma': sigma}
    common = _common(schedule, t[told], clip_sample, use_clipped_model_output)
    return LinearMultistep(**common, stochastic=False, tables=tables, average=average)


SAMPLERS: Registry[Callable[..., Sampler]] = Registry(
    'sampler',
    consistency=consistency,
    ddpm=ddpm,
    ddim=ddim,
    dpmpp_2m=dpmpp_2m,
    euler=euler,
    pndm=pndm,
    sde=sde,
)
