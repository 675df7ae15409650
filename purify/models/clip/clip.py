"""The two encoders of CLIP (Radford et al. 2021), named and configured as in transformers.

Transformers with norms before each block: `CLIPVisionModelWithProjection` over the patches of an
image, `CLIPTextModel` over the tokens of a text.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from purify.core.errors import UserError
from purify.models.clip.clip_config import CLIPConfig, CLIPTextConfig, CLIPVisionConfig
from purify.models.diffusers import blocks
from purify.models.diffusers.attention import attend
from purify.models.diffusers.model_config import ConfiguredModule


def _quick_gelu(x: jax.Array) -> jax.Array:
    return x * jax.nn.sigmoid(1.702 * x)


_ACTIVATIONS = {'quick_gelu': _quick_gelu, 'gelu': partial(jax.nn.gelu, approximate=False)}
_LEGACY_EOS = 2  # configs written before transformers 4.31 hold this wrong id


def _layer_norm(c: CLIPConfig, rngs: nnx.Rngs) -> nnx.LayerNorm:
    return blocks.layer_norm(c.hidden_size, c.layer_norm_eps, rngs=rngs)


def _embed(count: int, width: int, rngs: nnx.Rngs) -> nnx.Embed:
    return nnx.Embed(count, width, embedding_init=nnx.initializers.normal(0.02), rngs=rngs)


class CLIPAttention(nnx.Module):
    """Self-attention over tokens [b n width]; `causal`: each sees itself and those before it."""

    def __init__(self, c: CLIPConfig, *, causal: bool, dtype: Any, rngs: nnx.Rngs):
        self.heads, self.causal = c.num_attention_heads, causal
        project = partial(blocks.linear, c.hidden_size, c.hidden_size, dtype=dtype, rngs=rngs)
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = (project() for _ in range(4))

    def __call__(self, x: jax.Array) -> jax.Array:
        """Attends within each row: [b n width] -> the same."""
        heads = (*x.shape[:2], self.heads, x.shape[2] // self.heads)
        q, k, v = (project(x).reshape(heads) for project in (self.q_proj, self.k_proj, self.v_proj))
        return self.out_proj(attend(q, k, v, causal=self.causal).reshape(x.shape))


class CLIPMLP(nnx.Module):
    """Two projections of each token with an activation between."""

    def __init__(self, c: CLIPConfig, *, dtype: Any, rngs: nnx.Rngs):
        self.activation = c.hidden_act
        self.fc1 = blocks.linear(c.hidden_size, c.intermediate_size, dtype=dtype, rngs=rngs)
        self.fc2 = blocks.linear(c.intermediate_size, c.hidden_size, dtype=dtype, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Changes each token: [b n width] -> the same."""
        return self.fc2(_ACTIVATIONS[self.activation](self.fc1(x)))


class CLIPEncoderLayer(nnx.Module):
    """Attention and MLP, each with a norm before it and a residual (in float32) round it."""

    def __init__(self, c: CLIPConfig, *, causal: bool, dtype: Any, rngs: nnx.Rngs):
        self.self_attn = CLIPAttention(c, causal=causal, dtype=dtype, rngs=rngs)
        self.layer_norm1 = _layer_norm(c, rngs)
        self.mlp = CLIPMLP(c, dtype=dtype, rngs=rngs)
        self.layer_norm2 = _layer_norm(c, rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Applies the layer: f32[b n width] -> the same."""
        x = x + self.self_attn(self.layer_norm1(x))
        return x + self.mlp(self.layer_norm2(x))


class CLIPEncoder(nnx.Module):
    """A stack of `CLIPEncoderLayer`."""

    def __init__(self, c: CLIPConfig, *, causal: bool, dtype: Any, rngs: nnx.Rngs):
        shared = {'causal': causal, 'dtype': dtype, 'rngs': rngs}
        self.layers = nnx.List([CLIPEncoderLayer(c, **shared) for _ in range(c.num_hidden_layers)])

    def __call__(self, x: jax.Array) -> jax.Array:
        """Applies all layers: f32[b n width] -> the same."""
        for layer in self.layers:
            x = layer(x)
        return x


class CLIPVisionEmbeddings(nnx.Module):
    """One token for the image and one for each patch, row by row, with their positions."""

    def __init__(self, c: CLIPVisionConfig, *, dtype: Any, rngs: nnx.Rngs):
        width, patch = c.hidden_size, c.patch_size
        draw = nnx.initializers.normal(width**-0.5)
        self.class_embedding = nnx.Param(draw(rngs.params(), (width,)))
        cut = {'strides': patch, 'padding': 'VALID', 'use_bias': False}
        self.patch_embedding = blocks.conv(
            c.num_channels, width, patch, **cut, dtype=dtype, rngs=rngs
        )
        self.position_embedding = _embed(1 + (c.image_size // patch) ** 2, width, rngs)

    def __call__(self, pixel_values: jax.Array) -> jax.Array:
        """Embeds images: [b h w c] -> f32[b 1+patches width]."""
        patches = self.patch_embedding(pixel_values)
        b, rows, columns, width = patches.shape
        patches = patches.reshape(b, rows * columns, width).astype(jnp.float32)
        image = self.class_embedding.get_value().astype(jnp.float32)
        image = jnp.broadcast_to(image, (b, 1, width))
        places = self.position_embedding(jnp.arange(1 + rows * columns)[None])
        return jnp.concatenate([image, patches], axis=1) + places


class CLIPVisionTransformer(nnx.Module):
    """The image encoder without its projection."""

    def __init__(self, c: CLIPVisionConfig, *, dtype: Any, rngs: nnx.Rngs):
        self.embeddings = CLIPVisionEmbeddings(c, dtype=dtype, rngs=rngs)
        self.pre_layrnorm = _layer_norm(c, rngs)  # the name is spelt so in the files
        self.encoder = CLIPEncoder(c, causal=False, dtype=dtype, rngs=rngs)
        self.post_layernorm = _layer_norm(c, rngs)

    def __call__(self, pixel_values: jax.Array) -> jax.Array:
        """Encodes images: [b h w c] -> f32[b 1+patches width], before the last norm."""
        return self.encoder(self.pre_layrnorm(self.embeddings(pixel_values)))


class CLIPVisionModelWithProjection(ConfiguredModule):
    """The image encoder; its arguments are the fields of `CLIPVisionConfig`.

    `dtype` is what it computes in (parameters, norms, softmax, residuals and the answers stay
    float32), e.g. `jnp.bfloat16`. Raises `UserError` naming the field for what is not supported.
    """

    CONFIG = CLIPVisionConfig
    _config: CLIPVisionConfig

    def __init__(self, *, rngs: nnx.Rngs, dtype: Any = None, **config: Any):
        c = self._config = CLIPVisionConfig(**config)
        self.vision_model = CLIPVisionTransformer(c, dtype=dtype, rngs=rngs)
        self.visual_projection = blocks.linear(
            c.hidden_size, c.projection_dim, use_bias=False, dtype=dtype, rngs=rngs
        )

    def __call__(self, pixel_values: jax.Array) -> tuple[jax.Array, jax.Array]:
        """The embeddings and the last states of pixel_values f32[b h w c].

        Returns (image_embeds f32[b projection_dim], last_hidden_state f32[b 1+patches
        hidden_size]). The pixels are those that the model's preprocessor makes (resized, mean and
        deviation of CLIP). The last state is the one before `post_layernorm`. Raises `UserError`
        for images of another size than `image_size`.
        """
        c = self._config
        shape = (c.image_size, c.image_size, c.num_channels)
        if pixel_values.ndim != 4 or pixel_values.shape[1:] != shape:
            raise UserError(
                f'this {c.OWNER} needs images [b {c.image_size} {c.image_size} {c.num_channels}],'
                f' got an array of shape {pixel_values.shape}. Resize the images to image_size ='
                f' {c.image_size} pixels.'
            )
        states = self.vision_model(pixel_values)
        return self.project(states[:, 0]), states

    def project(self, last_hidden_state: jax.Array) -> jax.Array:
        """Norms and projects tokens [... hidden_size] to f32[... projection_dim].

        `image_embeds` is this of the first token; Versatile Diffusion (Xu et al. 2023) guides by
        all of them.
        """
        normed = self.vision_model.post_layernorm(last_hidden_state)
        return self.visual_projection(normed).astype(jnp.float32)


class CLIPTextEmbeddings(nnx.Module):
    """Embeds tokens and their positions."""

    def __init__(self, c: CLIPTextConfig, *, rngs: nnx.Rngs):
        self.token_embedding = _embed(c.vocab_size, c.hidden_size, rngs)
        self.position_embedding = _embed(c.max_position_embeddings, c.hidden_size, rngs)

    def __call__(self, input_ids: jax.Array) -> jax.Array:
        """Embeds token ids: i32[b s] -> f32[b s width]."""
        places = self.position_embedding(jnp.arange(input_ids.shape[1])[None])
        return self.token_embedding(input_ids).astype(jnp.float32) + places


class CLIPTextTransformer(nnx.Module):
    """The text encoder."""

    def __init__(self, c: CLIPTextConfig, *, dtype: Any, rngs: nnx.Rngs):
        self.embeddings = CLIPTextEmbeddings(c, rngs=rngs)
        self.encoder = CLIPEncoder(c, causal=True, dtype=dtype, rngs=rngs)
        self.final_layer_norm = _layer_norm(c, rngs)

    def __call__(self, input_ids: jax.Array) -> jax.Array:
        """Encodes token ids: i32[b s] -> f32[b s width]."""
        return self.final_layer_norm(self.encoder(self.embeddings(input_ids)))


class CLIPTextModel(ConfiguredModule):
    """The text encoder; its arguments are the fields of `CLIPTextConfig`.

    `dtype` is as in the image encoder. Raises `UserError` naming the field for what is not
    supported.
    """

    CONFIG = CLIPTextConfig
    _config: CLIPTextConfig

    def __init__(self, *, rngs: nnx.Rngs, dtype: Any = None, **config: Any):
        c = self._config = CLIPTextConfig(**config)
        self.text_model = CLIPTextTransformer(c, dtype=dtype, rngs=rngs)

    def __call__(self, input_ids: jax.Array) -> tuple[jax.Array, jax.Array]:
        """The last states of all tokens input_ids i32[b s], and that of each text.

        Returns (last_hidden_state f32[b s hidden_size], pooled f32[b hidden_size]). `pooled` is the
        state at the first end-of-text token (at the first token where there is none); where the
        config holds the id 2 of old files, at the largest id, which is the end of text in CLIP's
        own vocabulary. Ids must be below `vocab_size`: larger ones give NaN. Raises `UserError` for
        more tokens than `max_position_embeddings`.
        """
        c = self._config
        whole = jnp.issubdtype(input_ids.dtype, jnp.integer)
        if input_ids.ndim != 2 or not whole or input_ids.shape[1] < 1:
            raise UserError(
                f'{c.OWNER} needs token ids i32[b s], got {input_ids.dtype} of shape'
                f' {input_ids.shape}.'
            )
        if input_ids.shape[1] > c.max_position_embeddings:
            raise UserError(
                f'{input_ids.shape[1]} tokens are more than the max_position_embeddings ='
                f' {c.max_position_embeddings} of this {c.OWNER}. Truncate the text to'
                f' {c.max_position_embeddings} tokens.'
            )
        states = self.text_model(input_ids)
        marks = input_ids if c.eos_token_id == _LEGACY_EOS else input_ids == c.eos_token_id
        place = marks.argmax(axis=1)[:, None, None]
        return states, jnp.take_along_axis(states, place, axis=1)[:, 0]
