"""Variations of what CLIP sees in an image, by Stable Diffusion or Versatile Diffusion."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, cast

import jax
import jax.numpy as jnp

from purify.core.types import Tree
from purify.diffusion.chain_step import Sampler
from purify.diffusion.guidance import Guidance
from purify.diffusion.run_chain import sample, start_noise
from purify.generative.latent_prior import Condition, LatentPrior, keys_for
from purify.generative.pixel_prior import Vary
from purify.models.clip.clip_pixels import clip_pixels, read_processor


@dataclass(frozen=True, eq=False)
class ImageVariation(LatentPrior):
    """Denoises pure noise under what CLIP sees (StableDiffusionImageVariationPipeline)."""

    model: ClassVar[str] = 'sd_variation'
    needs: ClassVar[tuple[str, ...]] = ('image_encoder', 'unet', 'vae', 'scheduler')

    def vary(
        self,
        class_names: Sequence[str] = (),
        *,
        steps: int = 50,
        guidance: float = 7.5,
        guidance_interval: Sequence[float] = (),
        sampler: str = 'own',
        size_px: int = 0,
        eta: float | None = None,
    ) -> Vary:
        """Makes a new image with the content that CLIP finds in the old one.

        Args:
          class_names: not looked at.
          steps: timesteps of the chain (50 in the paper).
          guidance: scale of classifier-free guidance (7.5 in the paper); 1 is without, at half the
            work.
          guidance_interval: noise levels sigma/alpha (low, high) between which it guides, such as
            (0.3, 6); elsewhere the network is asked once (Kynkäänniemi 2024). () is everywhere.
          sampler: 'own' (the folder's scheduler) or one of `SAMPLERS`.
          size_px: of the new image, 0 for the model's own (512).
          eta: of sampler 'ddim' alone, 0 to 1: how much noise it draws on the way; None is its own,
            0.
        """
        chain, scales = self.sampler(sampler, steps, eta), Guidance(guidance, guidance_interval)
        side = self.output_size(size_px) // self.factor

        def vary(weights: Tree, images: jax.Array, labels: jax.Array, keys: jax.Array) -> jax.Array:
            latents = start_noise(keys, (side, side, self.latent_shape[1]))
            pixel_values = self.preprocess(images / 2 + 0.5)
            return 2 * self._chain(chain, scales, weights, pixel_values, latents, keys) - 1

        return vary

    def generate(
        self,
        pixel_values: jax.Array,
        latents: jax.Array,
        *,
        steps: int = 50,
        guidance: float = 7.5,
        guidance_interval: Sequence[float] = (),
        sampler: str = 'own',
        keys: jax.Array | None = None,
        eta: float | None = None,
    ) -> jax.Array:
        """Variations f32[b s s 3] in [0, 1] of pixel_values f32[b h w 3] from latents f32[b h w z].

        See `preprocess`. `keys` key[b] are for samplers that draw noise on the way. Settings are
        those of `vary`; each is compiled once.
        """
        chain, scales = self.sampler(sampler, steps, eta), Guidance(guidance, guidance_interval)
        keys = keys_for(chain, keys, len(latents))
        settings = (steps, guidance, *guidance_interval, sampler, eta)
        rows = jnp.asarray(pixel_values), jnp.asarray(latents), keys
        return self.run(settings, partial(self._chain, chain, scales), *rows)

    def _chain(
        self, chain: Sampler, guidance: Guidance, weights: Tree, *rows: jax.Array
    ) -> jax.Array:
        pixel_values, latents, keys = rows
        networks = self.networks(weights)
        condition = self.condition(networks['image_encoder'], pixel_values)
        predict = guidance.stretches(chain, partial(self.predictor, networks, condition))
        made = sample(chain, predict, chain.start * latents, keys)
        return self.decode(networks, cast(jax.Array, made))

    def condition(self, encoder: Any, pixel_values: jax.Array) -> Condition:
        """CLIP's embedding as the only token of the condition, and zeros for none."""
        embedding = encoder(pixel_values)[0][:, None]
        return jnp.zeros_like(embedding[:1]), embedding

    def preprocess(self, images: jax.Array) -> jax.Array:
        """Pixel values f32[b crop crop 3], as CLIP wants them, of images f32[b h w 3] in [0, 1]."""
        return clip_pixels(images, self.processor or {})


@dataclass(frozen=True, eq=False)
class Versatile(ImageVariation):
    """Makes variations with Versatile Diffusion, from all of CLIP's tokens (Xu 2022).

    It is diffusers' VersatileDiffusionImageVariationPipeline.
    """

    model: ClassVar[str] = 'versatile'
    unet: ClassVar[str] = 'image_unet'
    needs: ClassVar[tuple[str, ...]] = ('image_encoder', 'image_unet', 'vae', 'scheduler')

    def condition(self, encoder: Any, pixel_values: jax.Array) -> Condition:
        """CLIP's tokens, projected and divided by the length of the first; a grey image's for none.

        The published pipeline makes that image of floats of 0.5, which its processor takes for
        8-bit values and divides by 255 once more: the image is all but black. The model was
        published with it, so it stays.
        """
        _, crop, mean, std = read_processor(self.processor or {})
        blank = jnp.broadcast_to((127 / 255 / 255 - mean) / std, (1, crop, crop, 3))

        def tokens(pixels: jax.Array) -> jax.Array:
            projected = encoder.project(encoder(pixels)[1])
            return projected / jnp.linalg.norm(projected[:, :1], axis=-1, keepdims=True)

        return tokens(blank), tokens(pixel_values)
