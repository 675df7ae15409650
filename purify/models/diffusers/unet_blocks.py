"""The levels of UNets, under diffusers' names: residual blocks, attention, another size.

A level is made with functions that make its parts, so networks differ in the parts alone.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from purify.models.diffusers import blocks

MakeResnet = Callable[[int, int], blocks.ResnetBlock2D]  # inputs, outputs
# Channels -> attention, called with (x, *context); or a Downsample2D, an Upsample2D.
Make = Callable[[int], Any]


class DownBlock(nnx.Module):
    """Residual blocks, `layers` of them, each with `attention` if any, then `downsample` if any."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        layers: int,
        *,
        resnet: MakeResnet,
        attention: Make | None = None,
        downsample: Make | None = None,
    ):
        widths = [inputs] + [outputs] * (layers - 1)
        self.resnets = nnx.List([resnet(width, outputs) for width in widths])
        if attention is not None:
            self.attentions = nnx.List([attention(outputs) for _ in widths])
        if downsample is not None:
            self.downsamplers = nnx.List([downsample(outputs)])

    def __call__(
        self, x: jax.Array, temb: jax.Array | None, keys: blocks.Keys, *context: jax.Array
    ) -> tuple[jax.Array, list[jax.Array]]:
        """The images a level below, and those kept for the way up, coarsest last."""
        skips = []
        for layer, resnet in enumerate(self.resnets):
            x = resnet(x, temb, next(keys))
            if hasattr(self, 'attentions'):
                x = self.attentions[layer](x, *context)
            skips.append(x)
        if hasattr(self, 'downsamplers'):
            x = self.downsamplers[0](x)
            skips.append(x)
        return x, skips


class MidBlock(nnx.Module):
    """Residual block, attention if there is any, residual block."""

    def __init__(self, channels: int, *, resnet: MakeResnet, attention: Make | None = None):
        self.resnets = nnx.List([resnet(channels, channels) for _ in range(2)])
        if attention is not None:
            self.attentions = nnx.List([attention(channels)])

    def __call__(
        self, x: jax.Array, temb: jax.Array | None, keys: blocks.Keys, *context: jax.Array
    ) -> jax.Array:
        """Applies the blocks: [b h w c] -> the same."""
        x = self.resnets[0](x, temb, next(keys))
        if hasattr(self, 'attentions'):
            x = self.attentions[0](x, *context)
        return self.resnets[1](x, temb, next(keys))


class UpBlock(nnx.Module):
    """As `DownBlock`, but with `upsample`; residual blocks also read what the way down left.

    `skips` are the channels of what was left, in the order it is taken: coarsest first; 0 each
    where nothing was.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        skips: Sequence[int],
        *,
        resnet: MakeResnet,
        attention: Make | None = None,
        upsample: Make | None = None,
    ):
        widths = [inputs] + [outputs] * (len(skips) - 1)
        self.resnets = nnx.List(
            [resnet(width + skip, outputs) for width, skip in zip(widths, skips, strict=True)]
        )
        if attention is not None:
            self.attentions = nnx.List([attention(outputs) for _ in widths])
        if upsample is not None:
            self.upsamplers = nnx.List([upsample(outputs)])

    def __call__(
        self,
        x: jax.Array,
        skips: list[jax.Array],
        temb: jax.Array | None,
        keys: blocks.Keys,
        *context: jax.Array,
    ) -> jax.Array:
        """The images a level above; takes what it needs from the end of `skips`."""
        for layer, resnet in enumerate(self.resnets):
            x = resnet(jnp.concatenate([x, skips.pop()], axis=-1) if skips else x, temb, next(keys))
            if hasattr(self, 'attentions'):
                x = self.attentions[layer](x, *context)
        return self.upsamplers[0](x) if hasattr(self, 'upsamplers') else x
