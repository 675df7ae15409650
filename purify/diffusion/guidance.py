"""Classifier-free guidance (Ho & Salimans 2022): away from the answer without a condition."""

import math

import jax
import jax.numpy as jnp

from purify.core.errors import UserError
from purify.diffusion.predictions import split_variance
from purify.diffusion.run_chain import Predict


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
    if not math.isfinite(scale):
        raise UserError(f'the guidance scale must be a finite number, got {scale}.')

    def predict(x: jax.Array, t: jax.Array) -> jax.Array:
        output = predict_pair(jnp.repeat(x, 2, axis=0), jnp.repeat(t, 2, axis=0))
        output = output.astype(jnp.float32).reshape(x.shape[0], 2, *output.shape[1:])
        without, _ = split_variance(output[:, 0], x.shape[-1])
        conditioned, variance = split_variance(output[:, 1], x.shape[-1])
        guided = without + scale * (conditioned - without)
        return guided if variance is None else jnp.concatenate([guided, variance], axis=-1)

    return predict
