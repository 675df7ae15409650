"""The blocks diffusion networks are made of, under diffusers' names, on NHWC images.

Parameters are float32; `dtype` is what convolutions, projections and attention compute in (None:
float32). Norms and softmax are always float32. Blocks end in zeros when they are new (Ho et al.
2020), so a fresh network starts near the identity.
"""

import itertools
import math
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from purify.core.convolution import convolve
from purify.core.errors import UserError
from purify.models.diffusers.attention import attend
from purify.models.group_norm import GroupNorm

Keys = Iterator[jax.Array | None]
_zeros = nnx.initializers.zeros_init()
_spread = nnx.initializers.variance_scaling(1.0, 'fan_avg', 'uniform')


def conv(
    inputs: int,
    outputs: int,
    size: int,
    *,
    dtype: Any,
    rngs: nnx.Rngs,
    zero: bool = False,
    **kwargs: Any,
) -> nnx.Conv:
    """A size x size convolution that keeps the image's size, by the default `padding`."""
    kwargs = {'padding': ((size // 2, size // 2),) * 2} | kwargs
    kwargs |= {'kernel_init': _zeros if zero else _spread, 'conv_general_dilated': convolve}
    return nnx.Conv(inputs, outputs, (size, size), dtype=dtype, rngs=rngs, **kwargs)


def linear(
    inputs: int,
    outputs: int,
    *,
    dtype: Any,
    rngs: nnx.Rngs,
    zero: bool = False,
    use_bias: bool = True,
) -> nnx.Linear:
    """A projection of the last axis."""
    init = _zeros if zero else _spread
    return nnx.Linear(inputs, outputs, use_bias=use_bias, kernel_init=init, dtype=dtype, rngs=rngs)


def group_norm(channels: int, groups: int, eps: float, *, rngs: nnx.Rngs) -> GroupNorm:
    """Group norm (Wu & He 2018) in float32; `UserError` unless `groups` divides `channels`."""
    if channels % groups:
        raise UserError(
            f'norm_num_groups = {groups} does not divide {channels} channels. Choose a divisor of'
            ' all of them.'
        )
    return GroupNorm(channels, groups, epsilon=eps, rngs=rngs)


def layer_norm(channels: int, eps: float, *, rngs: nnx.Rngs) -> nnx.LayerNorm:
    """Layer normalisation (Ba et al. 2016) in float32."""
    exact = {'dtype': jnp.float32, 'use_fast_variance': False}
    return nnx.LayerNorm(channels, epsilon=eps, rngs=rngs, **exact)


def dropout(x: jax.Array, rate: float, key: jax.Array | None) -> jax.Array:
    """Sets a share `rate` of x to 0 and scales the rest up; the identity when `key` is None."""
    if key is None or rate == 0:
        return x
    kept = jax.random.bernoulli(key, 1 - rate, x.shape)
    return jnp.where(kept, x / (1 - rate), jnp.zeros_like(x))


def dropout_keys(key: jax.Array | None) -> Keys:
    """An endless row of keys, one for each block that drops; of Nones when `key` is None."""
    if key is None:
        return itertools.repeat(None)
    return (jax.random.fold_in(key, block) for block in itertools.count())


def sinusoid(t: jax.Array, channels: int, *, flip_sin_to_cos: bool, freq_shift: float) -> jax.Array:
    """Sines and cosines f32[b channels] of times t [b] (Vaswani et al. 2017, Ho et al. 2020)."""
    half = channels // 2
    places = jnp.arange(half, dtype=jnp.float32)
    frequencies = jnp.exp(-math.log(10000) * places / (half - freq_shift))
    angles = t.astype(jnp.float32)[:, None] * frequencies[None]
    parts = [jnp.sin(angles), jnp.cos(angles)]
    parts = parts[::-1] if flip_sin_to_cos else parts
    return jnp.pad(jnp.concatenate(parts, axis=-1), ((0, 0), (0, channels % 2)))


class TimestepEmbedding(nnx.Module):
    """Two projections with a SiLU between: [b inputs] -> [b outputs]."""

    def __init__(self, inputs: int, outputs: int, *, dtype: Any = None, rngs: nnx.Rngs):
        self.linear_1 = linear(inputs, outputs, dtype=dtype, rngs=rngs)
        self.linear_2 = linear(outputs, outputs, dtype=dtype, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Embeds times: [b inputs] -> [b outputs]."""
        return self.linear_2(jax.nn.silu(self.linear_1(x)))


class ResnetBlock2D(nnx.Module):
    """A residual block [b h w inputs] -> [b h w outputs] that is told the time, if there is any.

    The time is temb [b temb_channels]; `temb_channels` None: there is none. `time_scale_shift`:
    'default' adds the time before the second norm, 'scale_shift' modulates after it (Nichol &
    Dhariwal 2021). The sum is divided by `scale_factor`.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        temb_channels: int | None,
        groups: int,
        eps: float,
        time_scale_shift: str = 'default',
        scale_factor: float = 1.0,
        dropout: float = 0.0,
        dtype: Any = None,
        rngs: nnx.Rngs,
    ):
        self.norm1 = group_norm(inputs, groups, eps, rngs=rngs)
        self.conv1 = conv(inputs, outputs, 3, dtype=dtype, rngs=rngs)
        self.modulates = time_scale_shift == 'scale_shift'
        if temb_channels is not None:
            told = outputs * (1 + self.modulates)
            self.time_emb_proj = linear(temb_channels, told, dtype=dtype, rngs=rngs)
        self.norm2 = group_norm(outputs, groups, eps, rngs=rngs)
        self.conv2 = conv(outputs, outputs, 3, zero=True, dtype=dtype, rngs=rngs)
        if inputs != outputs:
            self.conv_shortcut = conv(inputs, outputs, 1, dtype=dtype, rngs=rngs)
        self.scale_factor = scale_factor
        self.dropout = dropout

    def __call__(
        self, x: jax.Array, temb: jax.Array | None = None, key: jax.Array | None = None
    ) -> jax.Array:
        """Applies the block: [b h w inputs] -> [b h w outputs]; dropout only with a key."""
        h = self.conv1(jax.nn.silu(self.norm1(x)))
        time = None if temb is None else self.time_emb_proj(jax.nn.silu(temb))[:, None, None]
        if time is not None and not self.modulates:
            h = h + time
        h = self.norm2(h)
        if time is not None and self.modulates:
            scale, shift = jnp.split(time.astype(jnp.float32), 2, axis=-1)
            h = h * (1 + scale) + shift
        h = self.conv2(dropout(jax.nn.silu(h), self.dropout, key))
        x = self.conv_shortcut(x) if hasattr(self, 'conv_shortcut') else x
        return (x + h) / self.scale_factor


class Attention(nnx.Module):
    """Self-attention over the pixels of [b h w channels], with its residual.

    `groups` None leaves out the norm; `head_dim` None is a single head. The sum is divided by
    `scale_factor`. Raises `UserError` when `head_dim` does not divide the channels.
    """

    def __init__(
        self,
        channels: int,
        *,
        head_dim: int | None,
        groups: int | None,
        eps: float,
        scale_factor: float = 1.0,
        dtype: Any = None,
        rngs: nnx.Rngs,
    ):
        head_dim = channels if head_dim is None else head_dim
        if channels % head_dim:
            raise UserError(
                f'attention_head_dim = {head_dim} does not divide {channels} channels. Choose a'
                ' divisor.'
            )
        self.heads = channels // head_dim
        if groups is not None:
            self.group_norm = group_norm(channels, groups, eps, rngs=rngs)
        self.to_q, self.to_k, self.to_v = (
            linear(channels, channels, dtype=dtype, rngs=rngs) for _ in range(3)
        )
        self.to_out = nnx.List([linear(channels, channels, zero=True, dtype=dtype, rngs=rngs)])
        self.scale_factor = scale_factor

    def __call__(self, x: jax.Array) -> jax.Array:
        """Attends between pixels: [b h w channels] -> the same."""
        b, h, w, c = x.shape
        pixels = (self.group_norm(x) if hasattr(self, 'group_norm') else x).reshape(b, h * w, c)
        heads = (b, h * w, self.heads, c // self.heads)
        q, k, v = (project(pixels).reshape(heads) for project in (self.to_q, self.to_k, self.to_v))
        out = self.to_out[0](attend(q, k, v).reshape(b, h * w, c))
        return (x + out.reshape(x.shape)) / self.scale_factor


class Downsample2D(nnx.Module):
    """Halves height and width by a convolution, padded by 1 on all sides or (0) only at the end."""

    def __init__(self, channels: int, *, padding: int = 1, dtype: Any = None, rngs: nnx.Rngs):
        pads = ((padding, 1), (padding, 1))
        self.conv = conv(channels, channels, 3, strides=2, padding=pads, dtype=dtype, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Halves images: [b h w channels] -> [b h/2 w/2 channels]."""
        return self.conv(x)


class Upsample2D(nnx.Module):
    """Doubles height and width by repeating pixels, then convolves."""

    def __init__(self, channels: int, *, dtype: Any = None, rngs: nnx.Rngs):
        self.conv = conv(channels, channels, 3, dtype=dtype, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Doubles images: [b h w channels] -> [b 2h 2w channels]."""
        return self.conv(jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2))
