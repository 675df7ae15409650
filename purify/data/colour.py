"""Statistical colour transfer between a variation and its source."""

import jax
import jax.numpy as jnp


def colour_transfer(variation: jax.Array, source: jax.Array, epsilon: float = 1e-6) -> jax.Array:
    """Gives each channel of `variation` the mean and deviation (over pixels) it has in `source`.

    `variation: f32[... h w c]`, `source: f32[... h2 w2 c]`, any range, sizes may differ; the
    result, f32[... h w c], is not clipped: stretched values may leave the range, and only the
    caller knows it. A channel with a deviation below `epsilon` counts as constant and takes the
    source's mean. Struppek et al. 2023, eq. (1).
    """
    offsets, deviation, _ = _moments(variation)
    _, wanted, mean = _moments(source)
    return offsets / jnp.maximum(deviation, epsilon) * wanted + mean


def _moments(images: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Offsets from the mean, deviation and mean [... 1 1 c] per channel of f32[... h w c]."""
    images = images.astype(jnp.float32)
    mean = jnp.mean(images, axis=(-3, -2), keepdims=True)
    offsets = images - mean
    # Twice: the rounding error of the mean would otherwise be all there is in a constant channel,
    # and be amplified.
    offsets = offsets - jnp.mean(offsets, axis=(-3, -2), keepdims=True)
    return offsets, jnp.sqrt(jnp.mean(offsets**2, axis=(-3, -2), keepdims=True)), mean
