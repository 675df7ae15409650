"""The transformer in latent diffusion's UNet (Rombach et al. 2022), under diffusers' names.

Pixels are tokens: they attend to each other, then to the context (an embedded image or text), then
pass a feed-forward net.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from purify.core.errors import UserError
from purify.models.diffusers import blocks
from purify.models.diffusers.attention import attend


class Transformer2DModel(nnx.Module):
    """Transformer blocks, `layers` of them, on the pixels of [b h w channels], with their residual.

    `context_width` is the last axis of the context. `linear_projection` makes proj_in and proj_out
    projections instead of 1x1 convolutions, which differ in the layout of their weights alone.
    Raises `UserError` when `heads` does not divide the channels.
    """

    def __init__(
        self,
        channels: int,
        *,
        heads: int,
        layers: int,
        context_width: int,
        only_cross_attention: bool,
        linear_projection: bool,
        groups: int,
        dtype: Any = None,
        rngs: nnx.Rngs,
    ):
        shared = {'dtype': dtype, 'rngs': rngs}
        project = blocks.linear if linear_projection else partial(blocks.conv, size=1)
        self.norm = blocks.group_norm(channels, groups, 1e-6, rngs=rngs)
        self.proj_in = project(channels, channels, **shared)
        block = partial(
            BasicTransformerBlock,
            heads=heads,
            context_width=context_width,
            only_cross_attention=only_cross_attention,
            **shared,
        )
        self.transformer_blocks = nnx.List([block(channels) for _ in range(layers)])
        self.proj_out = project(channels, channels, zero=True, **shared)

    def __call__(self, x: jax.Array, context: jax.Array) -> jax.Array:
        """Applies all blocks: [b h w channels], context [b s context_width] -> [b h w channels]."""
        b, h, w, c = x.shape
        tokens = self.proj_in(self.norm(x)).reshape(b, h * w, c)
        for block in self.transformer_blocks:
            tokens = block(tokens, context)
        return x + self.proj_out(tokens.reshape(x.shape))


class BasicTransformerBlock(nnx.Module):
    """Self-attention, attention to the context, feed-forward; each with a residual.

    With `only_cross_attention` the first attends to the context as well.
    """

    def __init__(
        self,
        channels: int,
        *,
        heads: int,
        context_width: int,
        only_cross_attention: bool,
        dtype: Any = None,
        rngs: nnx.Rngs,
    ):
        attention = partial(TokenAttention, channels, heads=heads, dtype=dtype, rngs=rngs)
        self.only_cross_attention = only_cross_attention
        self.norm1 = blocks.layer_norm(channels, 1e-5, rngs=rngs)
        self.attn1 = attention(context_width if only_cross_attention else channels)
        self.norm2 = blocks.layer_norm(channels, 1e-5, rngs=rngs)
        self.attn2 = attention(context_width)
        self.norm3 = blocks.layer_norm(channels, 1e-5, rngs=rngs)
        self.ff = FeedForward(channels, dtype=dtype, rngs=rngs)

    def __call__(self, x: jax.Array, context: jax.Array) -> jax.Array:
        """Applies the block: [b n channels], context [b s context_width] -> [b n channels]."""
        h = self.norm1(x)
        x = x + self.attn1(h, context if self.only_cross_attention else h)
        x = x + self.attn2(self.norm2(x), context)
        return x + self.ff(self.norm3(x))


class TokenAttention(nnx.Module):
    """Attention of [b n channels] to others [b s context_width]; only the output has a bias."""

    def __init__(
        self, channels: int, context_width: int, *, heads: int, dtype: Any = None, rngs: nnx.Rngs
    ):
        if channels % heads:
            raise UserError(
                f'attention_head_dim = {heads} heads (diffusers names it so) do not divide'
                f' {channels} channels.'
            )
        self.heads = heads
        self.to_q = blocks.linear(channels, channels, use_bias=False, dtype=dtype, rngs=rngs)
        self.to_k = blocks.linear(context_width, channels, use_bias=False, dtype=dtype, rngs=rngs)
        self.to_v = blocks.linear(context_width, channels, use_bias=False, dtype=dtype, rngs=rngs)
        self.to_out = nnx.List([blocks.linear(channels, channels, dtype=dtype, rngs=rngs)])

    def __call__(self, x: jax.Array, context: jax.Array) -> jax.Array:
        """Attends: [b n channels] to the context [b s context_width] -> [b n channels]."""
        q, k, v = (
            projected.reshape(*projected.shape[:2], self.heads, -1)
            for projected in (self.to_q(x), self.to_k(context), self.to_v(context))
        )
        return self.to_out[0](attend(q, k, v).reshape(x.shape))


class FeedForward(nnx.Module):
    """Two projections with a GEGLU (Shazeer 2020) between, four times as wide inside."""

    def __init__(self, channels: int, *, dtype: Any = None, rngs: nnx.Rngs):
        inside = GEGLU(channels, 4 * channels, dtype=dtype, rngs=rngs)
        out = blocks.linear(4 * channels, channels, dtype=dtype, rngs=rngs)
        # Diffusers has a dropout in the middle.
        self.net: nnx.List[Any] = nnx.List([inside, None, out])

    def __call__(self, x: jax.Array) -> jax.Array:
        """Changes each token: [b n channels] -> the same."""
        return self.net[2](self.net[0](x))


class GEGLU(nnx.Module):
    """One half of a projection times the exact GELU of the other."""

    def __init__(self, inputs: int, outputs: int, *, dtype: Any = None, rngs: nnx.Rngs):
        self.proj = blocks.linear(inputs, 2 * outputs, dtype=dtype, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Projects and gates: [b n inputs] -> [b n outputs]."""
        value, gate = jnp.split(self.proj(x), 2, axis=-1)
        return value * jax.nn.gelu(gate, approximate=False)
