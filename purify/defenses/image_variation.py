"""Variations of what CLIP sees in an image: Stable Diffusion Image Variations and Versatile Diffusion."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, cast

import jax
import jax.numpy as jnp
import numpy as np

from purify.core.errors import UserError
from purify.defenses.latent import Condition, LatentPrior, keys_for
from purify.defenses.priors import Vary
from purify.diffusion.samplers import Sampler
from purify.diffusion.sampling import sample, start_noise

CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True, eq=False)
class ImageVariation(LatentPrior):
    """Pure noise, denoised under what CLIP sees in the image (StableDiffusionImageVariationPipeline)."""

    model: ClassVar[str] = 'sd_variation'
    needs: ClassVar[tuple[str, ...]] = ('image_encoder', 'unet', 'vae', 'scheduler')

    def vary(
        self,
        class_names: Sequence[str] = (),
        *,
        steps: int,
        guidance: float,
        sampler: str = 'own',
        size_px: int = 0,
        eta: float | None = None,
    ) -> Vary:
        """A new image with the content that CLIP finds in the old one.

        Args:
          class_names: not looked at.
          steps: timesteps of the chain (50 in the paper).
          guidance: scale of classifier-free guidance (7.5 in the paper); 1 is without, at half the work.
          sampler: 'own' (the folder's scheduler) or one of `SAMPLERS`.
          size_px: of the new image, 0 for the model's own (512).
          eta: of sampler 'ddim' alone, 0 to 1: how much noise it draws on the way; None is its own, 0.
        """
        del class_names
        chain, side = self.sampler(sampler, steps, eta), self.output_size(size_px) // self.factor

        def vary(weights: Any, images: jax.Array, labels: jax.Array, keys: jax.Array) -> jax.Array:
            del labels
            latents = start_noise(keys, (side, side, self.latent_shape[1]))
            out = self._chain(chain, guidance, weights, self.preprocess(images / 2 + 0.5), latents, keys)
            return 2 * out - 1

        return vary

    def generate(
        self,
        pixel_values: jax.Array,
        latents: jax.Array,
        *,
        steps: int = 50,
        guidance: float = 7.5,
        sampler: str = 'own',
        keys: jax.Array | None = None,
        eta: float | None = None,
    ) -> jax.Array:
        """Variations f32[b s s 3] in [0, 1] of pixel_values f32[b h w 3] (see `preprocess`), from noise latents f32[b h w z].

        `keys` key[b] are for samplers that draw noise on the way. Settings are those of `vary`; each is compiled once.
        """
        chain = self.sampler(sampler, steps, eta)
        keys = keys_for(chain, keys, len(latents))
        settings = (steps, guidance, sampler, eta)
        return self.run(settings, partial(self._chain, chain, guidance), jnp.asarray(pixel_values), jnp.asarray(latents), keys)

    def _chain(
        self, chain: Sampler, guidance: float, weights: Any, pixel_values: jax.Array, latents: jax.Array, keys: jax.Array
    ) -> jax.Array:
        networks = self.networks(weights)
        predict = self.predictor(networks, self.condition(networks['image_encoder'], pixel_values), guidance)
        return self.decode(networks, cast(jax.Array, sample(chain, predict, chain.start * latents, keys)))

    def condition(self, encoder: Any, pixel_values: jax.Array) -> Condition:
        """CLIP's embedding as the only token; zeros where there is none."""
        embedding = encoder(pixel_values)[0][:, None]
        return jnp.zeros_like(embedding[:1]), embedding

    def preprocess(self, images: jax.Array) -> jax.Array:
        """Images f32[b h w 3] in [0, 1] -> pixel_values f32[b crop crop 3], as preprocessor_config.json says.

        The shorter edge is resized as Pillow does it (cubic; rows, then columns, each rounded to 8 bits), the centre cut out,
        and normalised.
        """
        size, crop, mean, std = _processor(self.processor or {})
        height, width = images.shape[1:3]
        if min(height, width) != size:
            high, wide = (size * edge // min(height, width) for edge in (height, width))
            for shape in ((height, wide), (high, wide)):
                images = jax.image.resize(images, (len(images), *shape, 3), 'cubic', antialias=True)
                images = jnp.round(jnp.clip(images, 0, 1) * 255) / 255
        top, left = ((edge - crop) // 2 for edge in images.shape[1:3])
        return (images[:, top : top + crop, left : left + crop] - mean) / std


@dataclass(frozen=True, eq=False)
class Versatile(ImageVariation):
    """The same under all of CLIP's tokens (Xu 2022; VersatileDiffusionImageVariationPipeline)."""

    model: ClassVar[str] = 'versatile'
    unet: ClassVar[str] = 'image_unet'
    needs: ClassVar[tuple[str, ...]] = ('image_encoder', 'image_unet', 'vae', 'scheduler')

    def condition(self, encoder: Any, pixel_values: jax.Array) -> Condition:
        """Every token projected and divided by the length of the first; a grey image's where there is none.

        The published pipeline makes that image of floats of 0.5, which its processor takes for 8-bit values and divides by
        255 once more: the image is all but black. The model was published with it, so it stays.
        """
        _, crop, mean, std = _processor(self.processor or {})
        blank = jnp.broadcast_to((127 / 255 / 255 - mean) / std, (1, crop, crop, 3))

        def tokens(pixels: jax.Array) -> jax.Array:
            projected = encoder.project(encoder(pixels)[1])
            return projected / jnp.linalg.norm(projected[:, :1], axis=-1, keepdims=True)

        return tokens(blank), tokens(pixel_values)


def _processor(config: Mapping[str, Any]) -> tuple[int, int, np.ndarray, np.ndarray]:
    """(shorter edge, crop, mean f32[3], deviation f32[3]) of a preprocessor_config.json, CLIP's own where it is silent."""
    fixed = {'do_resize': True, 'do_center_crop': True, 'do_rescale': True, 'do_normalize': True, 'resample': 3}
    for name, value in fixed.items():
        if config.get(name, value) != value:
            raise UserError(f'preprocessor_config.json: {name} = {config[name]!r} is not supported; it must be {value!r}.')
    if not np.isclose(_number(config, 'rescale_factor', 1 / 255), 1 / 255):
        raise UserError(f'preprocessor_config.json: rescale_factor = {config["rescale_factor"]!r} must be 1/255, of 8-bit images.')
    size, crop = (_pixels(config, name) for name in ('size', 'crop_size'))
    if crop > size:
        raise UserError(f'preprocessor_config.json: crop_size {crop} is larger than size {size}.')
    mean, std = _colours(config, 'image_mean', CLIP_MEAN), _colours(config, 'image_std', CLIP_STD)
    if (std <= 0).any():
        raise UserError(f'preprocessor_config.json: image_std = {config["image_std"]!r} must be positive.')
    return size, crop, mean, std


def _number(config: Mapping[str, Any], name: str, usual: float) -> float:
    value = config.get(name, usual)
    if not isinstance(value, int | float):
        raise UserError(f'preprocessor_config.json: {name} = {value!r} must be a number.')
    return value


def _pixels(config: Mapping[str, Any], name: str) -> int:
    """The edge of a square: a number, {'shortest_edge': n}, or {'height': n, 'width': n}."""
    value = config.get(name, 224)
    edges = set(value.values()) if isinstance(value, Mapping) else {value}
    edge = edges.pop() if len(edges) == 1 else None
    if not isinstance(edge, int) or edge < 1:
        raise UserError(f'preprocessor_config.json: {name} = {value!r} must be one number of pixels, of a square.')
    return edge


def _colours(config: Mapping[str, Any], name: str, usual: tuple[float, ...]) -> np.ndarray:
    value = config.get(name, usual)
    if not isinstance(value, list | tuple) or len(value) != 3 or not all(isinstance(x, int | float) for x in value):
        raise UserError(f'preprocessor_config.json: {name} = {value!r} must be three numbers, of red, green and blue.')
    return np.asarray(value, np.float32)
