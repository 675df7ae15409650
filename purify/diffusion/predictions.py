"""What a network may predict of a noisy image, and how to get from one form to another.

With x_t = alpha_t x_0 + sigma_t eps the network predicts `epsilon` (Ho et al. 2020), `sample` (x_0)
or `v_prediction`, v = alpha_t eps - sigma_t x_0 (Salimans & Ho 2022, appendix D).
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from purify.core.errors import UserError
from purify.diffusion.schedules import PREDICTIONS, Schedule, per_image


def x0_and_eps(
    prediction: str, output: jax.Array, x: jax.Array, alpha: Any, sigma: Any
) -> tuple[jax.Array, jax.Array]:
    """Reads (x_0, eps), f32, off a network's output on x = alpha x_0 + sigma eps.

    Raises `UserError` for an unknown prediction.
    """
    output, x = output.astype(jnp.float32), x.astype(jnp.float32)
    if prediction == 'epsilon':
        return (x - sigma * output) / alpha, output
    if prediction == 'sample':
        return output, (x - alpha * output) / sigma
    if prediction == 'v_prediction':
        return alpha * x - sigma * output, alpha * output + sigma * x
    raise UserError(f'unknown prediction {prediction!r}. Choose from: {", ".join(PREDICTIONS)}.')


def read_output(
    schedule: Schedule, output: jax.Array, x: jax.Array, t: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Reads (x_0, eps), f32, off a network's output on noisy images x at timesteps t i32[b]."""
    alpha = per_image(np.sqrt(schedule.alphas_cumprod), t, x)
    sigma = per_image(np.sqrt(1 - schedule.alphas_cumprod), t, x)
    return x0_and_eps(schedule.prediction, output, x, alpha, sigma)


def target(schedule: Schedule, x0: jax.Array, noise: jax.Array, t: jax.Array) -> jax.Array:
    """What the network should answer to `add_noise(schedule, x0, noise, t)`, f32; t i32[b]."""
    if schedule.prediction == 'epsilon':
        return noise.astype(jnp.float32)
    if schedule.prediction == 'sample':
        return x0.astype(jnp.float32)
    alpha = per_image(np.sqrt(schedule.alphas_cumprod), t, x0)
    sigma = per_image(np.sqrt(1 - schedule.alphas_cumprod), t, x0)
    return alpha * noise - sigma * x0


def split_variance(output: jax.Array, channels: int) -> tuple[jax.Array, jax.Array | None]:
    """Splits an output into prediction and variance, or None (Nichol & Dhariwal 2021)."""
    if output.shape[-1] == channels:
        return output, None
    if output.shape[-1] == 2 * channels:
        return output[..., :channels], output[..., channels:]
    raise UserError(
        f'the network answers {channels} channels with {output.shape[-1]}; it should be {channels},'
        f' or {2 * channels} where it learned the variance too.'
    )
