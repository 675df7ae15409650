"""Losses of single rows, by which samples are ranked, or which climb instead of fall."""

import jax
import jax.numpy as jnp
import optax

from purify.core.errors import UserError

LEAST_PROBABILITY = 1e-7  # of a prediction whose logarithm is taken
LEAST_LABEL = 1e-4  # of a one-hot label whose logarithm is taken


def cross_entropies(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Cross-entropy f32[b] of logits f32[b k] against labels i32[b], in nats."""
    return optax.softmax_cross_entropy_with_integer_labels(logits.astype(jnp.float32), labels)


def symmetric_cross_entropies(
    logits: jax.Array, labels: jax.Array, alpha: float, beta: float
) -> jax.Array:
    """Losses alpha CE(y, p) + beta CE(p, y) f32[b], with y >= 1e-4 (Wang et al. 2019, eq. 7).

    With y = one-hot the second is -ln(1e-4) (1 - p_label): the share of p that lies elsewhere. Its
    gradient does not grow with the loss, so that wrong labels pull less. p is held above 1e-7, as
    in DBD's code (Huang 2022).
    """
    p = jnp.clip(jax.nn.softmax(logits.astype(jnp.float32)), LEAST_PROBABILITY, 1.0)
    known = jax.nn.one_hot(labels, logits.shape[-1])
    forward = -(known * jnp.log(p)).sum(-1)
    backward = -(p * jnp.log(jnp.clip(known, LEAST_LABEL, 1.0))).sum(-1)
    return alpha * forward + beta * backward


def check_symmetric(what: str, alpha: float, beta: float) -> None:
    """Raises `UserError` unless both weights are numbers from 0 on and one of them counts."""
    if not (alpha >= 0 and beta >= 0 and alpha + beta > 0):
        raise UserError(f'{what}: alpha={alpha} and beta={beta} must be 0 or more, and not both 0.')
