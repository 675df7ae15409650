"""Group normalisation from the moments of each channel, which every backend sums fast."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx


class GroupNorm(nnx.GroupNorm):
    """Group norm (Wu & He 2018, arXiv:1803.08494), computed in float32.

    flax sums over the pixels and the channels of a group at once, with a stride that keeps a CPU
    from using its vectors. Here each channel's mean and variance come first; a group's variance is
    the mean of its channels' variances and of the squared distances of their means (the law of
    total variance). Both moments come from one pass over the image, around the mean of a few of
    its pixels, so that little that is large is subtracted from something large.
    """

    def __init__(self, channels: int, groups: int, *, epsilon: float, rngs: nnx.Rngs):
        super().__init__(channels, groups, epsilon=epsilon, dtype=jnp.float32, rngs=rngs)

    def __call__(self, x: jax.Array, **_: Any) -> jax.Array:
        """Normalises x [b ... c] over all but the first axis, in groups of channels: f32."""
        x = x.astype(jnp.float32)
        pixels = tuple(range(1, x.ndim - 1))
        few = (slice(None), *(slice(None, None, max(1, x.shape[axis] // 4)) for axis in pixels))
        # Moments around it do not depend on it, so neither do gradients.
        near = jax.lax.stop_gradient(x[few].mean(pixels, keepdims=True))
        offset = (x - near).mean(pixels, keepdims=True)
        square = jnp.square(x - near).mean(pixels, keepdims=True)
        # Rounding must not make it negative; `jnp.maximum` could lose the gradient (see `fast`).
        mean, variance = near + offset, jax.nn.relu(square - jnp.square(offset))
        in_groups = lambda value: value.reshape(len(x), self.num_groups, self.group_size)
        means, variances = in_groups(mean), in_groups(variance)
        middle = means.mean(-1, keepdims=True)
        spread = (variances + jnp.square(means - middle)).mean(-1, keepdims=True)
        of_channels = lambda value: jnp.broadcast_to(value, means.shape).reshape(mean.shape)
        assert self.scale is not None
        assert self.bias is not None
        scale, bias = (jnp.expand_dims(p[...], (0, *pixels)) for p in (self.scale, self.bias))
        factor = scale * of_channels(jax.lax.rsqrt(spread + self.epsilon))
        return (x - of_channels(middle)) * factor + bias
