"""Variations of an image by noising and denoising its latents, with or without a caption."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, cast

import jax
import jax.numpy as jnp
import numpy as np

from purify.core.errors import UserError
from purify.core.types import Tree
from purify.data.synsets import caption_names
from purify.diffusion.chain_step import Sampler
from purify.diffusion.guidance import Guidance
from purify.diffusion.run_chain import START_STREAM, normal_for, sample, start_noise
from purify.generative.latent_prior import LatentPrior, keys_for
from purify.generative.pixel_prior import Vary
from purify.train.objectives.tasks import resize_to

ENCODE = START_STREAM - 1  # the stream of the noise that draws an image's latents


@dataclass(frozen=True, eq=False)
class ImageToImage(LatentPrior):
    """Noises an image's latents and denoises them again (StableDiffusionImg2ImgPipeline)."""

    model: ClassVar[str] = 'sd_img2img'
    needs: ClassVar[tuple[str, ...]] = ('text_encoder', 'tokenizer', 'unet', 'vae', 'scheduler')

    def vary(
        self,
        class_names: Sequence[str],
        *,
        steps: int = 50,
        guidance: float = 7.5,
        guidance_interval: Sequence[float] = (),
        strength: float,
        caption: str = '',
        sampler: str = 'own',
        size_px: int = 0,
        eta: float | None = None,
    ) -> Vary:
        """Makes the variation of an image: it is noised by `strength` and denoised.

        Args:
          class_names: what label i is called in the caption.
          steps: timesteps of a whole chain, of which `int(steps * strength)` are taken.
          guidance: scale of classifier-free guidance towards the caption; 1 is without, at half the
            work.
          guidance_interval: noise levels sigma/alpha (low, high) between which it guides, such as
            (0.3, 6); elsewhere the network is asked once (Kynkäänniemi 2024). () is everywhere.
          strength: how much of the image is given up, 0 (excluded) to 1.
          caption: '{}' in it stands for the name of the image's label, as given (and of a poisoned
            image, wrong): 'A photo of a {}'. ImageNet's ids are written out
            (`purify.data.synsets`). '' gives no caption and needs guidance 1.
          sampler: 'own' (the folder's scheduler) or one of `SAMPLERS`.
          size_px: the image is resized to it first; 0 for the model's own (512).
          eta: of sampler 'ddim' alone, 0 to 1: how much noise it draws on the way; None is its own,
            0.
        """
        if not caption and guidance != 1:
            raise UserError(
                f'vary.guidance={guidance}: without a caption there is nothing to guide to; say 1,'
                ' or a caption.'
            )
        chain = self.sampler(sampler, steps, eta, strength)
        scales = Guidance(guidance, guidance_interval)
        size_px, named = self.output_size(size_px), '{}' in caption
        names = caption_names(class_names) if named else ['']
        ids = self.tokens([caption.replace('{}', name) for name in names])
        nothing = self.tokens([''])

        def vary(weights: Tree, images: jax.Array, labels: jax.Array, keys: jax.Array) -> jax.Array:
            noise = start_noise(keys, self._latents(size_px))
            drawn = normal_for(keys, ENCODE, self._latents(size_px))
            said = jnp.asarray(ids)[labels if named else jnp.zeros_like(labels)]
            rows = (resize_to(images, size_px), noise, drawn, said, jnp.asarray(nothing), keys)
            return 2 * self._chain(chain, scales, weights, *rows) - 1

        return vary

    def generate(
        self,
        images: jax.Array,
        latents: jax.Array,
        *,
        input_ids: jax.Array,
        negative_input_ids: jax.Array,
        strength: float = 0.8,
        steps: int = 50,
        guidance: float = 7.5,
        guidance_interval: Sequence[float] = (),
        encode_noise: jax.Array | float = 0.0,
        sampler: str = 'own',
        keys: jax.Array | None = None,
        eta: float | None = None,
    ) -> jax.Array:
        """Variations of images, both f32[b s s 3] in [0, 1], with noise latents f32[b h w z].

        input_ids i32[b n] and negative_input_ids i32[1 or b, n] are the captions with and without
        condition (see `tokens`), `encode_noise` like latents draws the images' latents (0: their
        mean), `keys` key[b] are for samplers that draw noise on the way. Other settings are those
        of `vary`; each is compiled once.
        """
        chain = self.sampler(sampler, steps, eta, strength)
        scales = Guidance(guidance, guidance_interval)
        keys = keys_for(chain, keys, len(images))
        settings = (steps, guidance, *guidance_interval, strength, sampler, eta)
        drawn = jnp.broadcast_to(jnp.asarray(encode_noise, jnp.float32), jnp.shape(latents))
        rows = 2 * jnp.asarray(images) - 1, jnp.asarray(latents), drawn
        ids = jnp.asarray(input_ids), jnp.asarray(negative_input_ids)
        return self.run(settings, partial(self._chain, chain, scales), *rows, *ids, keys)

    def _chain(
        self, chain: Sampler, guidance: Guidance, weights: Tree, *rows: jax.Array
    ) -> jax.Array:
        images, noise, drawn, input_ids, nothing, keys = rows
        networks = self.networks(weights)
        encoder = networks['text_encoder']
        condition = encoder(nothing)[0], encoder(input_ids)[0]
        latents = self.encode(networks, images, drawn)
        noised = chain.at('alpha', 0) * latents + chain.at('sigma', 0) * noise
        predict = guidance.stretches(chain, partial(self.predictor, networks, condition))
        return self.decode(networks, cast(jax.Array, sample(chain, predict, noised, keys)))

    def tokens(self, captions: Sequence[str]) -> np.ndarray:
        """The tokens i32[captions n] of captions."""
        assert self.tokenizer is not None  # from_pipeline has seen it
        return self.tokenizer(list(captions))

    def _latents(self, size_px: int) -> tuple[int, int, int]:
        return size_px // self.factor, size_px // self.factor, self.latent_shape[1]
