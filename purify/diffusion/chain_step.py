"""From noise to image: what every sampler is, on any descending list of timesteps.

A sampler is a table of numbers. It is built once, in float64, for the timesteps at hand (respaced
chains and the tails of chains that editing needs are just other lists) and used in `lax.scan`:

    carry = sampler.init(x)                  # x ~ q(x_t | x_0), t = timesteps[0], or N(0, 1)
    for i in range(sampler.steps):           # i may be traced
        x, t = sampler.network_input(carry, i)
        carry = sampler.step(carry, i, network(x, t), noise)
    x = sampler.final(carry)

The state of every sampler is variance preserving, x_t = alpha_t x_0 + sigma_t eps, Euler's too, so
that all of them start from the same noised image. Each call moves it by

    x' = on_x x + on_x0 x_0 + on_eps eps + on_last (x_0 of the call before) + on_noise N(0, 1).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from purify.core.errors import UserError
from purify.diffusion.predictions import split_variance, x0_and_eps

Carry = dict[str, jax.Array]


@dataclass(frozen=True, eq=False)
class Sampler:
    """The numbers of a chain of k network calls; see the top of this file for their meaning.

    `timesteps`: what the network is told at each call, i32[k] (f32[k] where there are fractions).
    `tables`: f32[k] each. `stochastic`: whether `step` needs noise. `clip`: predictions of x_0 are
    clipped to [-clip, clip], None for never. `use_clipped_model_output`: whether eps is then
    derived again from the clipped x_0, as it should be (Dhariwal & Nichol 2021's code does); False
    is diffusers' default, which under guidance drives a chain away from what it is guided to.
    `start`: what N(0, 1) is multiplied by to stand for pure noise at `timesteps[0]`.
    """

    prediction: str
    clip: float | None
    timesteps: np.ndarray
    stochastic: bool
    tables: Mapping[str, np.ndarray]
    start: float = 1.0
    use_clipped_model_output: bool = True

    keeps: ClassVar[tuple[str, ...]] = ()  # what the carry holds besides x

    @property
    def steps(self) -> int:
        """The number k of network calls."""
        return len(self.timesteps)

    def at(self, name: str, i: Any) -> jax.Array:
        """Entry i (may be traced) of a table, f32."""
        return jnp.asarray(self.tables[name], jnp.float32)[i]

    def levels(self) -> tuple[np.ndarray, np.ndarray]:
        """The levels alpha and sigma f[k] of what the network is told at each call."""
        # PNDM repairs its first step.
        told = 'told_' if 'told_alpha' in self.tables else ''
        return self.tables[f'{told}alpha'], self.tables[f'{told}sigma']

    def init(self, x: jax.Array) -> Carry:
        """The carry for images x f32[b h w c] noised to `timesteps[0]`; pure noise is N(0, 1)."""
        x = x.astype(jnp.float32)
        return {'x': x} | {name: jnp.zeros_like(x) for name in self.keeps}

    def network_input(self, carry: Carry, i: Any) -> tuple[jax.Array, jax.Array]:
        """What the network is called with at call i: (x f32[b h w c], t [b])."""
        return carry['x'], jnp.full(carry['x'].shape[:1], jnp.asarray(self.timesteps)[i])

    def step(self, carry: Carry, i: Any, output: jax.Array, noise: jax.Array | None) -> Carry:
        """The carry after call i; `output` is the network's, `noise` N(0, 1) or None if unused."""
        output, variance = split_variance(output, carry['x'].shape[-1])
        x, x0 = self._move(carry, carry['x'], i, output, self.prediction)
        if self.stochastic:
            assert noise is not None, 'this sampler needs noise'
            x = x + self._deviation(i, variance) * noise
        return {'x': x} | dict.fromkeys(self.keeps, x0)

    def final(self, carry: Carry) -> jax.Array:
        """The images of a carry, f32[b h w c]; after the last call, the result."""
        return carry['x']

    def _move(
        self, carry: Carry, start: jax.Array, i: Any, output: jax.Array, prediction: str
    ) -> tuple[jax.Array, jax.Array]:
        x0, eps = x0_and_eps(prediction, output, start, self.at('alpha', i), self.at('sigma', i))
        if self.clip is not None:
            x0 = jnp.clip(x0, -self.clip, self.clip)
            # What lies between x and the clipped x_0; the network's would lead past it.
            if self.use_clipped_model_output:
                eps = (start - self.at('alpha', i) * x0) / self.at('sigma', i)
        parts = {'on_x': start, 'on_x0': x0, 'on_eps': eps, 'on_last': carry.get('x0')}
        terms = (self.at(name, i) * part for name, part in parts.items() if name in self.tables)
        return jnp.asarray(sum(terms, jnp.float32(0))), x0

    def _deviation(self, i: Any, variance: jax.Array | None) -> jax.Array:
        return self.at('on_noise', i)


@dataclass(frozen=True, eq=False)
class LearnedVariance(Sampler):
    """DDPM whose network gives the noise of each pixel too (Nichol & Dhariwal 2021, eq. 15)."""

    is_range: bool = True

    def _deviation(self, i: Any, variance: jax.Array | None) -> jax.Array:
        if variance is None:
            raise UserError(
                "variance 'learned' and 'learned_range' need a network with twice the channels at"
                " its output. Choose 'fixed_small' or 'fixed_large'."
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
    """PNDM without Runge-Kutta calls: averages eps or `output` with up to three before it."""

    average: str = 'eps'

    keeps: ClassVar[tuple[str, ...]] = ('base', 'last_1', 'last_2', 'last_3')

    def init(self, x: jax.Array) -> Carry:
        """Makes the carry; the start is kept, because the second call starts over from it."""
        carry = super().init(x)
        return carry | {'base': carry['x']}

    def step(self, carry: Carry, i: Any, output: jax.Array, noise: jax.Array | None) -> Carry:
        """Makes the carry after call i, without noise."""
        output, _ = split_variance(output, carry['x'].shape[-1])
        now, kind = output.astype(jnp.float32), self.prediction
        if self.average == 'eps':
            level = (self.at('told_alpha', i), self.at('told_sigma', i))
            now, kind = x0_and_eps(self.prediction, output, carry['x'], *level)[1], 'epsilon'
        recent = (now, *(carry[f'last_{n}'] for n in (1, 2, 3)))
        terms = (w * part for w, part in zip(self.at('weights', i), recent, strict=True))
        mean = jnp.asarray(sum(terms, jnp.float32(0)))
        # The second call repairs the first step: it starts over and leaves no trace.
        again = jnp.asarray(i) == 1
        start = jnp.where(again, carry['base'], carry['x'])
        x, _ = self._move(carry, start, i, mean, kind)
        history = {f'last_{n}': jnp.where(again, recent[n], recent[n - 1]) for n in (1, 2, 3)}
        return {'x': x, 'base': carry['base']} | history
