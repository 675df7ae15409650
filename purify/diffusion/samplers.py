"""From noise to image: one interface for every sampler, on any descending list of timesteps.

A sampler is a table of numbers. It is built once, in float64, for the timesteps at hand (respaced chains and the tails of
chains that editing needs are just other lists) and used from inside `lax.scan`:

    carry = sampler.init(x)                                  # x ~ q(x_t | x_0), t = sampler.timesteps[0], or N(0, 1)
    for i in range(sampler.steps):                           # i may be traced
        x, t = sampler.network_input(carry, i)
        carry = sampler.step(carry, i, network(x, t), noise)
    x = sampler.final(carry)

The state of every sampler is variance preserving, x_t = alpha_t x_0 + sigma_t eps, Euler's too, so that all of them start
from the same noised image. Each call moves it by

    x' = on_x x + on_x0 x_0 + on_eps eps + on_last (x_0 of the call before) + on_noise N(0, 1).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from purify.core.errors import UserError
from purify.core.registry import Registry
from purify.diffusion.predictions import split_variance, x0_and_eps
from purify.diffusion.schedules import Schedule
from purify.diffusion.timesteps import check_timesteps

Carry = dict[str, jax.Array]
VARIANCES = ('fixed_small', 'fixed_large', 'learned', 'learned_range')
AVERAGES = ('eps', 'output')
_DDIM_TABLES: tuple[str, ...] = ('alpha', 'sigma', 'on_x0', 'on_eps')  # of a step without noise, in the order of `_levels`


@dataclass(frozen=True, eq=False)
class Sampler:
    """The numbers of a chain of k network calls; see the top of this file for their meaning.

    `timesteps`: what the network is told at each call, i32[k] (f32[k] where there are fractions). `tables`: f32[k] each.
    `stochastic`: whether `step` needs noise. `clip`: predictions of x_0 are clipped to [-clip, clip], None for never.
    `start`: what N(0, 1) is multiplied by to stand for pure noise at `timesteps[0]`.
    """

    prediction: str
    clip: float | None
    timesteps: np.ndarray
    stochastic: bool
    tables: Mapping[str, np.ndarray]
    start: float = 1.0

    keeps: ClassVar[tuple[str, ...]] = ()  # what the carry holds besides x

    @property
    def steps(self) -> int:
        """k, the number of network calls."""
        return len(self.timesteps)

    def at(self, name: str, i: Any) -> jax.Array:
        """Entry i (may be traced) of a table, f32."""
        return jnp.asarray(self.tables[name], jnp.float32)[i]

    def init(self, x: jax.Array) -> Carry:
        """The carry for images noised to `timesteps[0]`, x f32[b h w c] = alpha x_0 + sigma eps; pure noise is N(0, 1)."""
        x = x.astype(jnp.float32)
        return {'x': x} | {name: jnp.zeros_like(x) for name in self.keeps}

    def network_input(self, carry: Carry, i: Any) -> tuple[jax.Array, jax.Array]:
        """(x f32[b h w c], t [b]) to call the network with at call i."""
        return carry['x'], jnp.full(carry['x'].shape[:1], jnp.asarray(self.timesteps)[i])

    def step(self, carry: Carry, i: Any, output: jax.Array, noise: jax.Array | None) -> Carry:
        """The carry after call i; `output` is the network's answer, `noise` N(0, 1) like x (None if not `stochastic`)."""
        output, variance = split_variance(output, carry['x'].shape[-1])
        x, x0 = self._move(carry, carry['x'], i, output, self.prediction)
        if self.stochastic:
            assert noise is not None, 'this sampler needs noise'
            x = x + self._deviation(i, variance) * noise
        return {'x': x} | dict.fromkeys(self.keeps, x0)

    def final(self, carry: Carry) -> jax.Array:
        """The images of a carry, f32[b h w c]; after the last call, the result."""
        return carry['x']

    def _move(self, carry: Carry, start: jax.Array, i: Any, output: jax.Array, prediction: str) -> tuple[jax.Array, jax.Array]:
        x0, eps = x0_and_eps(prediction, output, start, self.at('alpha', i), self.at('sigma', i))
        if self.clip is not None:
            x0 = jnp.clip(x0, -self.clip, self.clip)
        parts = {'on_x': start, 'on_x0': x0, 'on_eps': eps, 'on_last': carry.get('x0')}
        moved = sum((self.at(name, i) * part for name, part in parts.items() if name in self.tables), jnp.float32(0))
        return jnp.asarray(moved), x0

    def _deviation(self, i: Any, variance: jax.Array | None) -> jax.Array:
        del variance  # only LearnedVariance listens to it
        return self.at('on_noise', i)


@dataclass(frozen=True, eq=False)
class LearnedVariance(Sampler):
    """DDPM whose network gives the noise of each pixel too (Nichol & Dhariwal 2021, eq. 15)."""

    is_range: bool = True

    def _deviation(self, i: Any, variance: jax.Array | None) -> jax.Array:
        if variance is None:
            raise UserError(
                "variance 'learned' and 'learned_range' need a network with twice the channels at its output; "
                "this one has none to spare. Choose variance 'fixed_small' or 'fixed_large'."
            )
        log_variance = variance.astype(jnp.float32)
        if self.is_range:
            share = (log_variance + 1) / 2
            log_variance = share * self.at('log_large', i) + (1 - share) * self.at('log_small', i)
        return self.at('on_noise', i) * jnp.exp(0.5 * log_variance)


@dataclass(frozen=True, eq=False)
class SecondOrder(Sampler):
    """DPM-Solver++(2M): also looks at the x_0 of the call before."""

    keeps: ClassVar[tuple[str, ...]] = ('x0',)


@dataclass(frozen=True, eq=False)
class LinearMultistep(Sampler):
    """PNDM without Runge-Kutta calls: eps, or the `output` itself, is averaged with up to three before it, `weights` f32[k 4]."""

    average: str = 'eps'

    keeps: ClassVar[tuple[str, ...]] = ('base', 'last_1', 'last_2', 'last_3')

    def init(self, x: jax.Array) -> Carry:
        """As in `Sampler`; the start is kept, because the second call starts over from it."""
        carry = super().init(x)
        return carry | {'base': carry['x']}

    def step(self, carry: Carry, i: Any, output: jax.Array, noise: jax.Array | None) -> Carry:
        """As in `Sampler`, without noise."""
        del noise
        output, _ = split_variance(output, carry['x'].shape[-1])
        now, kind = output.astype(jnp.float32), self.prediction
        if self.average == 'eps':
            level = (self.at('told_alpha', i), self.at('told_sigma', i))
            now, kind = x0_and_eps(self.prediction, output, carry['x'], *level)[1], 'epsilon'
        recent = (now, *(carry[f'last_{n}'] for n in (1, 2, 3)))
        mean = sum((w * part for w, part in zip(self.at('weights', i), recent, strict=True)), jnp.float32(0))
        again = jnp.asarray(i) == 1  # the second call repairs the first step: it starts over and leaves no trace
        x, _ = self._move(carry, jnp.where(again, carry['base'], carry['x']), i, jnp.asarray(mean), kind)
        history = {f'last_{n}': jnp.where(again, recent[n], recent[n - 1]) for n in (1, 2, 3)}
        return {'x': x, 'base': carry['base']} | history


def _checked(schedule: Schedule, timesteps: Any) -> np.ndarray:
    t = check_timesteps(timesteps, schedule.steps)
    if (t != np.round(t)).any():
        raise UserError(f"only sampler 'euler' takes timesteps between integers, got {t.tolist()}.")
    return t.astype(np.int64)


def _levels(schedule: Schedule, t: np.ndarray, final_alpha_cumprod: float, stride: int | None = None) -> list[np.ndarray]:
    """Of timesteps t: alpha and sigma, f64[k], of each and of where its step goes: the next one, or `stride` lower."""
    alpha, sigma = schedule.alpha_sigma(t)
    end = np.sqrt([final_alpha_cumprod, 1 - final_alpha_cumprod])
    if stride is None:
        return [alpha, sigma, np.append(alpha[1:], end[0]), np.append(sigma[1:], end[1])]
    if not 1 <= stride <= schedule.steps or t.max() > schedule.steps - 1:
        raise UserError(f'stride={stride} leads out of the {schedule.steps} timesteps of the schedule: choose a smaller one.')
    goal = schedule.alpha_sigma(np.maximum(t - stride, 0))
    return [alpha, sigma, *(np.where(t < stride, last, level) for last, level in zip(end, goal, strict=True))]


def _common(schedule: Schedule, t: np.ndarray, clip_sample: bool | None) -> dict[str, Any]:
    clip = schedule.clip_sample if clip_sample is None else clip_sample
    whole = t.dtype.kind in 'iu' or bool((t == np.round(t)).all())
    return {
        'prediction': schedule.prediction,
        'clip': schedule.clip_range if clip else None,
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
    """Ancestral sampling (Ho et al. 2020, eq. 6 and 7), the posterior taken between neighbours in `timesteps`.

    `variance`: 'fixed_small' (posterior), 'fixed_large' (beta), 'learned' (the network gives the log variance) or
    'learned_range' (it gives the place between the two, -1 ... 1). No noise enters at the last call, which ends at x_0;
    with `noise_at_end` it does unless that call is at timestep 0, as in diffusers' DDPMScheduler.
    """
    if variance not in VARIANCES:
        raise UserError(f'unknown variance {variance!r}. Choose from: {", ".join(VARIANCES)}.')
    t = _checked(schedule, timesteps)
    a, s, a2, s2 = _levels(schedule, t, 1.0)
    large = 1 - (a / a2) ** 2
    small = np.maximum((s2 / s) ** 2 * large, 1e-20)
    noisy = np.append(np.ones(len(a) - 1), float(noise_at_end and t[-1] > 0))
    tables = {'alpha': a, 'sigma': s, 'on_x': a / a2 * (s2 / s) ** 2, 'on_x0': a2 * large / s**2}
    common = _common(schedule, t, clip_sample)
    if variance.startswith('learned'):
        tables |= {'on_noise': noisy, 'log_small': np.log(small), 'log_large': np.log(large)}
        return LearnedVariance(**common, stochastic=True, tables=tables, is_range=variance == 'learned_range')
    tables |= {'on_noise': noisy * np.sqrt(large if variance == 'fixed_large' else small)}
    return Sampler(**common, stochastic=True, tables=tables)


def ddim(
    schedule: Schedule, timesteps: Any, *, eta: float = 0.0, clip_sample: bool | None = None, stride: int | None = None
) -> Sampler:
    """DDIM (Song et al. 2021, eq. 12 and 16): `eta` 0 draws no noise, 1 draws as much as 'ddpm' with 'fixed_small'.

    Each step goes to the next timestep; with `stride` from t to t - stride, and where that is below 0 to
    `final_alpha_cumprod`, as in diffusers' DDIMScheduler (stride = T // number of timesteps).
    """
    if not 0 <= eta <= 1:
        raise UserError(f'eta must lie between 0 and 1, got {eta}.')
    t = _checked(schedule, timesteps)
    a, s, a2, s2 = _levels(schedule, t, schedule.final_alpha_cumprod, stride)
    std = eta * s2 / s * np.sqrt(np.maximum(1 - (a / a2) ** 2, 0))
    tables = {'alpha': a, 'sigma': s, 'on_x0': a2, 'on_eps': np.sqrt(np.maximum(s2**2 - std**2, 0)), 'on_noise': std}
    return Sampler(**_common(schedule, t, clip_sample), stochastic=eta > 0, tables=tables)


def euler(schedule: Schedule, timesteps: Any, *, clip_sample: bool | None = None) -> Sampler:
    """Euler's method on the probability-flow ODE (Karras et al. 2022, algorithm 1 without churn), down to sigma = 0.

    In x/alpha and sigma/alpha, dx = eps dsigma; written back to the variance-preserving x_t a step is DDIM's. Timesteps may
    lie between integers; the state of diffusers' EulerDiscreteScheduler is this state over alpha (`tables['alpha']`).
    """
    t = check_timesteps(timesteps, schedule.steps)
    tables = dict(zip(_DDIM_TABLES, _levels(schedule, t, 1.0), strict=True))
    return Sampler(**_common(schedule, t, clip_sample), stochastic=False, tables=tables)


def dpmpp_2m(schedule: Schedule, timesteps: Any, *, clip_sample: bool | None = None) -> Sampler:
    """DPM-Solver++(2M), midpoint (Lu et al. 2022, algorithm 2), down to sigma = 0 with a last step of first order."""
    t = _checked(schedule, timesteps)
    a, s, a2, s2 = _levels(schedule, t, 1.0)
    lam = np.log(a / s)
    h = np.diff(lam)
    on_x0 = np.append(a2[:-1] * -np.expm1(-h), 1.0)  # at the end h is infinite: x_0 itself
    on_last = np.zeros_like(on_x0)
    if len(h) > 1:
        on_last[1:-1] = -on_x0[1:-1] * 0.5 * h[1:] / h[:-1]
    tables = {'alpha': a, 'sigma': s, 'on_x': s2 / s, 'on_x0': on_x0 - on_last, 'on_last': on_last}
    return SecondOrder(**_common(schedule, t, clip_sample), stochastic=False, tables=tables)


def pndm(
    schedule: Schedule,
    timesteps: Any,
    *,
    clip_sample: bool | None = None,
    average: str = 'eps',
    stride: int | None = None,
    skip: int = 0,
) -> Sampler:
    """Pseudo linear multistep (Liu et al. 2022, eq. 9 and 12) without Runge-Kutta, as Stable Diffusion uses it.

    The second timestep is visited twice, to repair the first step, so k timesteps take k + 1 calls (1 takes 1). Averaged is
    eps, whatever the network predicts, and each step goes to the next timestep. For the arithmetic of diffusers' PNDMScheduler:
    `average` 'output' averages the network's answers (for v of first order only); `stride` as in 'ddim'; `skip` leaves out the
    first of the k + 1 calls, after which the first of the rest is the one repaired, by the second.
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
    warm_up = np.array([[1, 0, 0, 0], [1 / 2, 1 / 2, 0, 0], [3 / 2, -1 / 2, 0, 0], [23 / 12, -16 / 12, 5 / 12, 0]])
    weights[:4] = warm_up[: len(told)]
    if stride is None:
        levels = [level[told - again] for level in _levels(schedule, t, final)]
    else:
        levels = _levels(schedule, t[told] + stride * again, final, stride)
    alpha, sigma = schedule.alpha_sigma(t[told])
    tables = dict(zip(_DDIM_TABLES, levels, strict=True)) | {'weights': weights, 'told_alpha': alpha, 'told_sigma': sigma}
    return LinearMultistep(**_common(schedule, t[told], clip_sample), stochastic=False, tables=tables, average=average)


SAMPLERS = Registry('sampler', ddpm=ddpm, ddim=ddim, dpmpp_2m=dpmpp_2m, euler=euler, pndm=pndm)
