"""Stable Diffusion as a generator of classes: its conditions are their captions."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from purify.core.types import Tree
from purify.diffusion.run_chain import Predict, normal_for
from purify.diffusion.scheduler_config import schedule_from_diffusers
from purify.diffusion.schedules import Schedule
from purify.generative.image_to_image import ENCODE
from purify.generative.latent_prior import LatentPrior
from purify.generative.pixel_generator import Generator
from purify.models.files.pipelines import Pipeline
from purify.train.objectives.denoise_latents import (
    PICTURES,
    caption_table,
    image_size,
    in_colour,
    read_stable_diffusion,
)
from purify.train.objectives.tasks import resize_to


@dataclass(frozen=True, eq=False)
class _Networks(LatentPrior):
    """The UNet and the VAE, and the way between pixels and latents."""

    model: ClassVar[str] = 'latent'
    needs: ClassVar[tuple[str, ...]] = PICTURES


@dataclass(frozen=True, eq=False)
class LatentGenerator(Generator):
    """Stable Diffusion as a `Generator`; captions are encoded once, when it is opened.

    Attributes:
      networks: the UNet and the VAE, without their weights' place on a device.
      weights: {'networks': theirs, 'captions': f32[classes + 1, tokens, width], of which the last
        is the empty caption}.
      schedule: of its chains.
      size_px: of its images.
      class_names: what it can be asked for.
    """

    networks: LatentPrior
    weights: Tree
    schedule: Schedule
    size_px: int
    class_names: list[str]

    @classmethod
    def from_folder(
        cls,
        folder: Path,
        note: Mapping[str, Any],
        *,
        dtype: str = 'float32',
        vae_slice: int = 0,
        weights: bool = True,
    ) -> 'LatentGenerator':
        """The generator in a StableDiffusionPipeline's folder, whose generator.json is `note`.

        Options are those of `purify.generative.pixel_generator.open_generator`. Raises `UserError`
        for a folder that does not fit.
        """
        pipeline = read_stable_diffusion(folder, dtype, weights=weights)
        return cls.from_pipeline(
            pipeline, note['objective'], note['class_names'], dtype=dtype, vae_slice=vae_slice
        )

    @classmethod
    def from_pipeline(
        cls,
        pipeline: Pipeline,
        objective: Mapping[str, Any],
        class_names: list[str],
        *,
        dtype: str = 'float32',
        vae_slice: int = 0,
    ) -> 'LatentGenerator':
        """The generator with a pipeline's networks, trained by `objective` (caption, size_px)."""
        pictures = Pipeline(pipeline.class_name, {name: pipeline.parts[name] for name in PICTURES})
        networks = _Networks.from_pipeline(pictures, dtype=dtype, vae_slice=vae_slice)
        table = caption_table(pipeline, class_names, objective['caption'])
        weights = {'networks': networks.weights, 'captions': table}
        schedule = schedule_from_diffusers(networks.scheduler)
        size_px = image_size(pipeline, objective['size_px'])
        return cls(networks, weights, schedule, size_px, class_names)

    @property
    def state_shape(self) -> tuple[int, int, int]:
        """The shape of an image's latents."""
        side = self.size_px // self.networks.factor
        return side, side, self.networks.latent_shape[1]

    @property
    def deviation(self) -> float:
        """The deviation of latents, which the VAE's scaling makes 1."""
        return 1.0

    @property
    def channels(self) -> int:
        """The channels of its images."""
        return self.networks.channels

    def predictor(self, weights: Tree, labels: jax.Array, guidance: float) -> Predict:
        """The UNet under the captions of `labels` i32[b], guided from the empty one but for 1."""
        captions = jnp.asarray(weights['captions'])
        networks = self.networks.networks(weights['networks'])
        return self.networks.predictor(networks, (captions[-1:], captions[labels]), guidance)

    def encode(self, weights: Tree, images: jax.Array, keys: jax.Array) -> jax.Array:
        """Latents f32[b *state_shape] of images f32[b h w c] in [-1, 1], drawn by keys key[b]."""
        networks = self.networks.networks(weights['networks'])
        images = in_colour(resize_to(images, self.size_px))
        return self.networks.encode(networks, images, normal_for(keys, ENCODE, self.state_shape))

    def decode(self, weights: Tree, states: jax.Array) -> jax.Array:
        """Decodes latents f32[b *state_shape] to images f32[b size size 3], clipped to [-1, 1]."""
        return 2 * self.networks.decode(self.networks.networks(weights['networks']), states) - 1
