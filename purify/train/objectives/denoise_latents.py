"""Fine-tuning the UNet of Stable Diffusion (Rombach 2022) on captions of labels."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from purify.core.errors import UserError
from purify.core.limits import Limited, ShareOrZero
from purify.core.types import Tree
from purify.data.synsets import caption_names
from purify.diffusion import predictions
from purify.diffusion.schedules import Schedule, add_noise
from purify.models.files.hub import INDEX, read_index
from purify.models.files.pipelines import Pipeline, from_pretrained
from purify.train.objectives.denoise import told_classes
from purify.train.objectives.tasks import Batch, Key, Result, Task, resize_to, signed_images
from purify.train.state import split_network

READABLE = ('StableDiffusionPipeline', 'StableDiffusionImg2ImgPipeline')
WORDS, PICTURES = ('text_encoder', 'tokenizer'), ('unet', 'vae', 'scheduler')
AT_ONCE = 32  # captions the text encoder reads together; those of 1,000 classes would fill a device


@dataclass(frozen=True, eq=False)
class DenoiseLatents(Limited, Task, place='generator.objective.'):
    """Mean squared error of a UNet's prediction on noisy latents, under the caption of the label.

    Latents are drawn from the VAE's posterior for every batch anew and scaled; a caption gives way
    to the empty one with chance `drop` (Ho & Salimans 2022), for guidance. The loss is float32
    whatever the networks compute in.

    Attributes:
      graph: structure of the UNet.
      vae_graph: of the VAE.
      schedule: the noise, and what the UNet answers with.
      size_px: images of another size are resized on the device; grey ones are taken for coloured.
      scaling: what latents are multiplied by.
      drop: chance of the empty caption.
      ema_decay: see `Task`.
      frozen: {'vae': {'params', 'stats'}, 'captions': f32[classes + 1, tokens, width] of
        `caption_table`}.
    """

    graph: nnx.GraphDef
    vae_graph: nnx.GraphDef
    schedule: Schedule
    size_px: int
    scaling: float
    drop: ShareOrZero
    ema_decay: float
    frozen: Tree

    def draw(self, frozen: Tree, batch: Batch, key: Key) -> tuple[jax.Array, ...]:
        """Draws latents f32[b h w z], noise like them, steps i32[b] and context f32[b n d]."""
        latent_key, time_key, noise_key = jax.random.split(key, 3)
        images = in_colour(resize_to(signed_images(batch['image']), self.size_px))
        vae = nnx.merge(self.vae_graph, frozen['vae']['params'], frozen['vae']['stats'])
        mean, logvar = vae.encode(images)
        drawn = jnp.exp(0.5 * logvar) * jax.random.normal(latent_key, mean.shape)
        latents = (mean + drawn) * self.scaling
        t = jax.random.randint(time_key, images.shape[:1], 0, self.schedule.steps)
        noise = jax.random.normal(noise_key, latents.shape)
        (told,) = told_classes(batch, len(frozen['captions']) - 1, self.drop, key)
        return latents, noise, t, frozen['captions'][told]

    def __call__(self, params: Tree, stats: Tree, frozen: Tree, batch: Batch, key: Key) -> Result:
        """See `Task`."""
        draw_key, dropout_key = jax.random.split(key)
        latents, noise, t, context = self.draw(frozen, batch, draw_key)
        network = nnx.merge(self.graph, params, stats)
        output = network(add_noise(self.schedule, latents, noise, t), t, context, key=dropout_key)
        goal = predictions.target(self.schedule, latents, noise, t)
        loss = jnp.square(output.astype(jnp.float32) - goal).mean()
        return loss, (split_network(network)[2], {})


def in_colour(images: jax.Array) -> jax.Array:
    """Makes images [b h w 3] of images [b h w c] by repeating a grey channel."""
    return jnp.repeat(images, 3, axis=-1) if images.shape[-1] == 1 else images


def read_stable_diffusion(folder: Path, dtype: str, *, weights: bool = True) -> Pipeline:
    """Reads the five parts of Stable Diffusion; the UNet and the VAE compute in `dtype`.

    The text encoder computes in float32: it is asked once. Without `weights` networks hold shapes,
    as of `from_pretrained`. Raises `UserError` for folders of other pipelines, and for a UNet that
    does not go with the VAE.
    """
    whole = (folder / INDEX).is_file()
    kind = read_index(folder)['_class_name'] if whole else 'network without a pipeline'
    if kind not in READABLE:
        raise UserError(
            f'{folder}: captions need Stable Diffusion, this holds a {kind}. Choose a folder with a'
            f' {READABLE[0]}.'
        )
    pictures = from_pretrained(folder, dtype=dtype, components=PICTURES, weights=weights)
    words = from_pretrained(folder, components=WORDS, weights=weights)
    pipeline = Pipeline(READABLE[0], words.parts | pictures.parts)
    unet, width = pipeline.parts['unet'].config, pipeline.parts['vae'].config['latent_channels']
    if {unet['in_channels'], unet['out_channels']} != {width}:
        raise UserError(
            f'{folder}: its UNet takes {unet["in_channels"]} channels and answers'
            f' {unet["out_channels"]}, its VAE has {width}. Choose one that makes images of'
            ' captions alone: neither an inpainting nor an upscaling model.'
        )
    return pipeline


def image_size(pipeline: Pipeline, size_px: int) -> int:
    """Checks the size of the images that are learned; 0 is the size the UNet was made for."""
    unet, factor = pipeline.parts['unet'].config, pipeline.parts['vae'].factor
    own = unet['sample_size'] or 64
    own = own if isinstance(own, int) else own[0]
    stride = factor * 2 ** (len(unet['block_out_channels']) - 1)
    size_px = size_px or own * factor
    if size_px < stride or size_px % stride:
        raise UserError(
            f'size_px={size_px}: this model takes multiples of {stride}, or 0 for its own'
            f' {own * factor}.'
        )
    return size_px


def caption_table(pipeline: Pipeline, class_names: Sequence[str], caption: str) -> Any:
    """Encodes the caption of every class, and last the empty one: f32[classes + 1, tokens, width].

    `caption` with '{}' in place of the class, whose name is written out (`purify.data.synsets`).
    NumPy, or a shape where the networks hold shapes. Raises `UserError` where classes have no
    caption of their own or the tokenizer is another model's.
    """
    encoder, tokenizer = pipeline.parts['text_encoder'], pipeline.parts['tokenizer']
    if '{}' not in caption:
        raise UserError(
            f"caption={caption!r} is the same for every class; write '{{}}' where the name of the"
            ' class belongs.'
        )
    ids = tokenizer([*(caption.replace('{}', name) for name in caption_names(class_names)), ''])
    if ids.max() >= encoder.config['vocab_size']:
        raise UserError(
            f'the tokenizer gives token {ids.max()}, the text encoder knows'
            f' {encoder.config["vocab_size"]} (vocab_size). They are of different models; download'
            ' both again.'
        )
    graph, params, stats = split_network(encoder)

    def encode(params: Tree, stats: Tree, ids: jax.Array) -> jax.Array:
        network = nnx.merge(graph, params, stats)
        return jax.lax.map(lambda row: network(row[None])[0][0], ids, batch_size=AT_ONCE)

    if any(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(params)):
        return jax.eval_shape(encode, params, stats, ids)
    return np.asarray(jax.jit(encode)(params, stats, ids))
