"""Classifier-free guidance (Ho & Salimans 2022): away from the answer without a condition."""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from purify.core.errors import UserError
from purify.diffusion.chain_step import Sampler
from purify.diffusion.predictions import split_variance
from purify.diffusion.run_chain import Predict, Stretch


@dataclass(frozen=True)
class Guidance:
    """How strongly a chain is guided, and at which noise levels.

    Attributes:
      scale: s of e_u + s (e_c - e_u); 1 is the network under its condition, at half the work.
      interval: noise levels sigma/alpha (low, high) between which the chain is guided; elsewhere
        the network is asked once, under its condition. () guides it everywhere. At high levels
        guidance narrows what is made, at low ones it changes nothing (Kynkäänniemi et al. 2024,
        section 3).
    """

    scale: float
    interval: Sequence[float] = ()

    def __post_init__(self) -> None:
        if not math.isfinite(self.scale):
            raise UserError(f'the guidance scale must be a finite number, got {self.scale}.')
        given = self.interval
        ends = tuple(given) if isinstance(given, list | tuple) else (given,)
        numbers = all(isinstance(end, int | float) for end in ends)
        if ends and not (numbers and len(ends) == 2 and 0 <= ends[0] < ends[1]):
            raise UserError(
                f'guidance_interval={given!r} must be two noise levels sigma/alpha, the lower one'
                ' first, such as (0.3, 6), or () for all.'
            )

    def guided(self, chain: Sampler) -> np.ndarray:
        """At which of the chain's calls the network is guided, bool[k].

        Raises `UserError` for an interval that none of them lies in.
        """
        if self.scale == 1:
            return np.zeros(chain.steps, bool)
        if not self.interval:
            return np.ones(chain.steps, bool)
        alpha, sigma = chain.levels()
        (low, high), levels = self.interval, sigma / alpha
        inside = (sigma >= low * alpha) & (sigma <= high * alpha)
        if not inside.any():
            raise UserError(
                f'guidance_interval={list(self.interval)} holds none of the chain, whose noise'
                f' levels are {levels.min():.3g} to {levels.max():.3g}. Choose others.'
            )
        return inside

    def calls(self, chain: Sampler) -> int:
        """Counts evaluations of the network for one image; guided ones are two."""
        return chain.steps + int(self.guided(chain).sum())

    def stretches(self, chain: Sampler, predictor: Callable[[float], Predict]) -> list[Stretch]:
        """The chain's calls in stretches: guided ones ask `predictor(scale)`, others that of 1."""
        runs = [(on, len(list(calls))) for on, calls in itertools.groupby(self.guided(chain))]
        ask = {on: predictor(self.scale if on else 1) for on in {on for on, _ in runs}}
        return [(calls, ask[on]) for on, calls in runs]


def interleave(without: jax.Array, conditioned: jax.Array) -> jax.Array:
    """Interleaves conditions [b ...] of both kinds as [2b ...]: rows 2i without, 2i+1 with.

    `without` may also be one row [1 ...] for all. Neighbouring rows stay on one device when the
    batch is sharded, which two halves one after the other would not.
    """
    both = jnp.stack([jnp.broadcast_to(without, conditioned.shape), conditioned], axis=1)
    return both.reshape(2 * conditioned.shape[0], *conditioned.shape[1:])


def guide(predict_pair: Predict, scale: float) -> Predict:
    """Guides a network: e = e_u + scale (e_c - e_u), both from one call with a doubled batch.

    `predict_pair(x [2b h w c], t [2b])` answers row 2i without condition (e_u) and row 2i+1 with it
    (e_c); make its conditions with `interleave`. scale 0 is e_u, 1 is e_c; Ho & Salimans' w (their
    eq. 6) is scale - 1. A learned variance is not guided: it is taken from the conditioned row.
    """

    def predict(x: jax.Array, t: jax.Array) -> jax.Array:
        output = predict_pair(jnp.repeat(x, 2, axis=0), jnp.repeat(t, 2, axis=0))
        output = output.astype(jnp.float32).reshape(x.shape[0], 2, *output.shape[1:])
        without, _ = split_variance(output[:, 0], x.shape[-1])
        conditioned, variance = split_variance(output[:, 1], x.shape[-1])
        guided = without + scale * (conditioned - without)
        return guided if variance is None else jnp.concatenate([guided, variance], axis=-1)

    return predict
