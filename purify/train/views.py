"""Random views of images, made on the device: each row's is a function of its own key alone.

Images are f32[b h w c] in [0, 1] with 1 channel (grey) or 3 (RGB) and keep their shape.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

import jax
import jax.numpy as jnp

from purify.core.errors import UserError
from purify.core.limits import Chance, Limited, number
from purify.core.randomness import stream_number
from purify.data import changes

SIGMAS = (0.1, 2.0)  # of a blur, in pixels


@dataclass(frozen=True)
class Views(Limited, place='views: '):
    """The views of SimCLR (Chen et al. 2020, appendix A) with its blur, and rotation and noise.

    Changes come in the order of the attributes, but that an image turns before it is mirrored.
    Light changes in a fixed order (brightness, contrast, saturation, hue), where torchvision draws
    one. Saturation, hue and grey leave images of one channel as they are. What is 0 draws nothing:
    without the last three, views are what they were before there were such.

    Attributes:
      crop: (low, high), between which the share lies of the image's area that is cut out and
        brought to full size, bilinear; its width to height lies between 3/4 and 4/3, and no side is
        longer than the image's.
      flip: chance of being mirrored left to right.
      jitter: chance of other light.
      strength: s; brightness, contrast and saturation change by factors from [1 - s, 1 + s], the
        hue by up to s/4 of a turn. SimCLR's strength 1/2 on CIFAR-10, and DBD's jitter, is s = .4.
      grey: chance of losing the colour.
      rotation: degrees by which an image turns about its centre at most, either way; bilinear,
        black coming in.
      blur: chance of being blurred by a Gaussian of .1 to 2 pixels. SimCLR's .5 is for large
        images; it has none on CIFAR-10.
      noise: highest deviation of Gaussian noise; each image has a share of it, drawn uniformly. Cut
        to [0, 1].
    """

    crop: tuple[float, float] = (0.2, 1.0)
    flip: Chance = 0.5
    jitter: Chance = 0.8
    strength: Chance = 0.4
    grey: Chance = 0.2
    rotation: Annotated[float, number(least=0, most=180)] = 0.0
    blur: Chance = 0.0
    noise: Chance = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.crop) != 2 or not 0 < self.crop[0] <= self.crop[1] <= 1:
            raise UserError(
                f'views: crop={self.crop} is no range of shares. Set it to (low, high),'
                ' 0 < low <= high <= 1.'
            )

    def __call__(self, images: jax.Array, keys: jax.Array) -> jax.Array:
        """Makes one view of each of the images, each by its own key[b]."""
        return jax.vmap(self._one)(images, keys)

    def _one(self, image: jax.Array, key: jax.Array) -> jax.Array:
        place, side, chance, light, colour = jax.random.split(key, 5)
        image = changes.crop_resize(image, *changes.draw_box(place, image.shape[:2], self.crop))
        if self.rotation:
            most = self.rotation
            angle = jax.random.uniform(_own(key, 'rotation'), minval=-most, maxval=most)
            image = changes.rotate(image, jnp.deg2rad(angle))
        image = _sometimes(side, self.flip, changes.mirror, image)
        image = _sometimes(chance, self.jitter, lambda image: self._relight(image, light), image)
        if image.shape[-1] > 1:
            fade = lambda image: jnp.broadcast_to(changes.to_grey(image), image.shape)
            image = _sometimes(colour, self.grey, fade, image)
        if self.blur:
            chance, width = jax.random.split(_own(key, 'blur'))
            sigma = jax.random.uniform(width, minval=SIGMAS[0], maxval=SIGMAS[1])
            image = _sometimes(chance, self.blur, lambda image: changes.soften(image, sigma), image)
        if self.noise:
            size, grain = jax.random.split(_own(key, 'noise'))
            deviation = jax.random.uniform(size, maxval=self.noise)
            image = jnp.clip(image + deviation * jax.random.normal(grain, image.shape), 0, 1)
        return image

    def _relight(self, image: jax.Array, key: jax.Array) -> jax.Array:
        factors_key, hue_key = jax.random.split(key)
        bright, contrast, saturation = jax.random.uniform(
            factors_key, (3,), minval=1 - self.strength, maxval=1 + self.strength
        )
        image = changes.contrast(changes.brighten(image, bright), contrast)
        most = self.strength / 4
        turn = jax.random.uniform(hue_key, minval=-most, maxval=most)
        return changes.turn_hue(changes.saturate(image, saturation), turn)


def _own(key: jax.Array, name: str) -> jax.Array:
    """A key that differs from those that `split` makes of the same key, as of small numbers."""
    return jax.random.fold_in(key, stream_number(name))


def _sometimes(
    key: jax.Array, chance: float, change: Callable[[jax.Array], jax.Array], image: jax.Array
) -> jax.Array:
    return jnp.where(jax.random.bernoulli(key, chance), change(image), image) if chance else image
