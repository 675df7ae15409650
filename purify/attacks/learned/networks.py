"""The networks that learned triggers come from; they take images of any size from 8 px.

None has batch statistics: what a network makes of an image depends on that image alone.
"""

import functools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from purify.core.convolution import convolve
from purify.core.errors import UserError
from purify.core.types import Tree

GROUPS = 8  # of channels, in the norms
GRID = 16  # a secret is laid out on GRID x GRID x SHEETS, then brought to the size of the image
SHEETS = 3
Kind = Callable[..., nnx.Module]
Options = dict[str, int]
Shape = tuple[int, int, int]  # (h, w, c) of an image

_he = nnx.initializers.he_normal()
_CONV: Any = {'kernel_init': _he, 'conv_general_dilated': convolve}


class Block(nnx.Module):
    """3x3 convolution, group norm, relu; makes [b ceil(h/stride) ceil(w/stride) outputs]."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1, *, rngs: nnx.Rngs):
        self.conv = nnx.Conv(
            inputs, outputs, (3, 3), strides=stride, use_bias=False, **_CONV, rngs=rngs
        )
        self.norm = nnx.GroupNorm(outputs, math.gcd(GROUPS, outputs), rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Applies the block."""
        return jax.nn.relu(self.norm(self.conv(x)))


class TriggerUNet(nnx.Module):
    """A U-Net of three levels (Ronneberger et al. 2015), from [b h w inputs] to [b h w outputs].

    `width` channels at full size, twice as many at half, four times at a quarter; no activation at
    the end.
    """

    def __init__(self, inputs: int, outputs: int, width: int, *, rngs: nnx.Rngs):
        self.enter = Block(inputs, width, rngs=rngs)
        self.down_half = Block(width, 2 * width, 2, rngs=rngs)
        self.down_quarter = Block(2 * width, 4 * width, 2, rngs=rngs)
        self.middle = Block(4 * width, 4 * width, rngs=rngs)
        self.up_half = Block(6 * width, 2 * width, rngs=rngs)
        self.up_full = Block(3 * width, width, rngs=rngs)
        self.leave = nnx.Conv(width, outputs, (3, 3), **_CONV, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Applies the network."""
        full = self.enter(x)
        half = self.down_half(full)
        quarter = self.middle(self.down_quarter(half))
        half = self.up_half(_beside(quarter, half))
        return self.leave(self.up_full(_beside(half, full)))


def _beside(small: jax.Array, large: jax.Array) -> jax.Array:
    """`small` at twice its size, cut to that of `large`, and `large`, as channels of one array."""
    height, width = large.shape[1:3]
    grown = small.repeat(2, 1).repeat(2, 2)[:, :height, :width]
    return jnp.concatenate([grown, large], -1)


class SecretEncoder(nnx.Module):
    """Computes the residual that hides a secret (Li et al. 2021, after Tancik et al. 2020)."""

    def __init__(self, channels: int, secret_bits: int, width: int, *, rngs: nnx.Rngs):
        self.spread = nnx.Linear(secret_bits, GRID * GRID * SHEETS, kernel_init=_he, rngs=rngs)
        self.net = TriggerUNet(channels + SHEETS, channels, width, rngs=rngs)

    def __call__(self, images: jax.Array, secrets: jax.Array) -> jax.Array:
        """The residual f32[b h w c] that hides secrets f32[b bits], 0 or 1, in images in [0, 1]."""
        sheets = jax.nn.relu(self.spread(secrets - 0.5)).reshape(-1, GRID, GRID, SHEETS)
        sheets = jax.image.resize(sheets, (*images.shape[:3], SHEETS), 'nearest')
        return self.net(jnp.concatenate([images - 0.5, sheets], -1))


class SecretDecoder(nnx.Module):
    """Reads the secret that images of one size carry; only the fit needs it."""

    def __init__(self, shape: Shape, secret_bits: int, width: int, *, rngs: nnx.Rngs):
        height, across, channels = shape
        self.first = Block(channels, width, rngs=rngs)
        self.second = Block(width, 2 * width, 2, rngs=rngs)
        self.third = Block(2 * width, 2 * width, 2, rngs=rngs)
        features = math.ceil(height / 4) * math.ceil(across / 4) * 2 * width
        self.head = nnx.Linear(features, secret_bits, kernel_init=_he, rngs=rngs)

    def __call__(self, images: jax.Array) -> jax.Array:
        """The logits f32[b bits] of the secrets in `images: f32[b h w c]` in [0, 1]."""
        x = self.third(self.second(self.first(images - 0.5)))
        return self.head(x.reshape(len(x), -1))


def run_network(kind: Kind, options: Options, params: Tree, *inputs: jax.Array) -> jax.Array:
    """The output of `kind(**options)` with the parameters `params` (a nested dict)."""
    network: Any = nnx.merge(_structure(kind, tuple(options.items()))[0], params)
    return network(*inputs)


def check_parameters(kind: Kind, options: Options, params: Tree, folder: str | Path) -> None:
    """Raises `UserError` unless `params` are those of `kind(**options)`."""
    describe = lambda params: jax.tree.map(lambda x: (x.shape, x.dtype.kind), params)
    if describe(params) != describe(_structure(kind, tuple(options.items()))[1]):
        raise UserError(
            f'{folder}: the weights are not those of the network of its facts. Fit it again.'
        )


@functools.lru_cache(maxsize=16)
def _structure(kind: Kind, options: tuple[tuple[str, int], ...]) -> tuple[Any, Any]:
    graph, state = nnx.split(nnx.eval_shape(lambda: kind(**dict(options), rngs=nnx.Rngs(0))))
    return graph, nnx.to_pure_dict(state)
