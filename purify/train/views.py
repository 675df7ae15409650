"""Random views of images, made on the device: each row's is a function of its own key alone.

Images are f32[b h w c] in [0, 1] with 1 channel (grey) or 3 (RGB) and keep their shape.
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated

import jax
import jax.numpy as jnp

from purify.core.errors import UserError
from purify.core.limits import Chance, Limited, Natural, number
from purify.core.randomness import stream_number

GREY = (0.299, 0.587, 0.114)  # ITU-R BT.601
RATIOS = (3 / 4, 4 / 3)  # width to height of a crop
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
        image = crop_resize(image, *draw_box(place, image.shape[:2], self.crop))
        if self.rotation:
            most = self.rotation
            angle = jax.random.uniform(_own(key, 'rotation'), minval=-most, maxval=most)
            image = rotate(image, jnp.deg2rad(angle))
        image = _sometimes(side, self.flip, mirror, image)
        image = _sometimes(chance, self.jitter, lambda image: self._relight(image, light), image)
        if image.shape[-1] > 1:
            fade = lambda image: jnp.broadcast_to(to_grey(image), image.shape)
            image = _sometimes(colour, self.grey, fade, image)
        if self.blur:
            chance, width = jax.random.split(_own(key, 'blur'))
            sigma = jax.random.uniform(width, minval=SIGMAS[0], maxval=SIGMAS[1])
            image = _sometimes(chance, self.blur, lambda image: soften(image, sigma), image)
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
        image = blend(image, jnp.float32(0), bright)
        image = blend(image, to_grey(image).mean(), contrast)
        if image.shape[-1] == 1:
            return image
        image = blend(image, to_grey(image), saturation)
        most = self.strength / 4
        return turn_hue(image, jax.random.uniform(hue_key, minval=-most, maxval=most))


@dataclass(frozen=True)
class Shifts(Limited):
    """Weak views: images moved by up to `pad_px` pixels each way and mirrored at chance `flip`."""

    pad_px: Natural
    flip: Chance

    def __call__(self, images: jax.Array, keys: jax.Array) -> jax.Array:
        """Makes one view of each of the images, each by its own key[b]."""
        return jax.vmap(self._one)(images, keys)

    def _one(self, image: jax.Array, key: jax.Array) -> jax.Array:
        place, side = jax.random.split(key)
        pad = int(self.pad_px)
        row, column = jax.random.randint(place, (2,), 0, 2 * pad + 1)
        padded = jnp.pad(image, ((pad, pad), (pad, pad), (0, 0)))
        image = jax.lax.dynamic_slice(padded, (row, column, 0), image.shape)
        return _sometimes(side, self.flip, mirror, image)


def draw_box(
    key: jax.Array, size: Sequence[int], areas: tuple[float, float]
) -> tuple[jax.Array, jax.Array]:
    """Draws the corner and sides, each (down, right) in pixels, of a crop of an image of `size`."""
    area_key, ratio_key, place_key = jax.random.split(key, 3)
    whole = jnp.array(size, jnp.float32)
    area = jax.random.uniform(area_key, minval=areas[0], maxval=areas[1]) * whole.prod()
    low, high = jnp.log(jnp.array(RATIOS))
    ratio = jnp.exp(jax.random.uniform(ratio_key, minval=low, maxval=high))
    sides = jnp.minimum(jnp.sqrt(jnp.stack([area / ratio, area * ratio])), whole)
    return jax.random.uniform(place_key, (2,)) * (whole - sides), sides


def crop_resize(image: jax.Array, corner: jax.Array, sides: jax.Array) -> jax.Array:
    """Resizes the box at `corner` with `sides` (pixels, may be fractions) to the image's size."""
    scale = jnp.array(image.shape[:2]) / sides
    return jax.image.scale_and_translate(
        image, image.shape, (0, 1), scale, -corner * scale, 'linear', antialias=True
    )


def mirror(image: jax.Array) -> jax.Array:
    """Mirrors an image f32[h w c] left to right."""
    return image[:, ::-1]


def rotate(image: jax.Array, angle: jax.Array) -> jax.Array:
    """Turns f32[h w c] about its centre by `angle` (radians, down to right); black comes in."""
    centre = (jnp.array(image.shape[:2], jnp.float32) - 1) / 2
    down, right = (x - c for x, c in zip(jnp.indices(image.shape[:2]), centre, strict=True))
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    # where each pixel comes from
    places = [centre[0] + cos * down + sin * right, centre[1] - sin * down + cos * right]
    read = functools.partial(
        jax.scipy.ndimage.map_coordinates, coordinates=places, order=1, mode='constant'
    )
    return jax.vmap(read, in_axes=-1, out_axes=-1)(image)


def soften(image: jax.Array, sigma: jax.Array) -> jax.Array:
    """Blurs f32[h w c] with a Gaussian of `sigma` pixels, mirrored at the edges.

    It is cut off beyond a twentieth of the shorter side. Even the smallest image is blurred over
    its nearest neighbours, where SimCLR's code leaves sides under 20 pixels alone.
    """
    radius = max(1, min(image.shape[:2]) // 20)
    weights = jax.nn.softmax(-jnp.square(jnp.arange(-radius, radius + 1) / sigma) / 2)
    for axis in (0, 1):
        size = image.shape[axis]
        wide = [(radius, radius) if k == axis else (0, 0) for k in range(3)]
        padded = jnp.pad(image, wide, 'reflect')
        shifted = [
            w * jax.lax.slice_in_dim(padded, k, k + size, axis=axis) for k, w in enumerate(weights)
        ]
        image = functools.reduce(jnp.add, shifted)
    return image


def to_grey(image: jax.Array) -> jax.Array:
    """The luminance f32[h w 1] of an image f32[h w c]."""
    return image if image.shape[-1] == 1 else (image * jnp.array([[GREY]])).sum(-1, keepdims=True)


def blend(image: jax.Array, other: jax.Array, share: jax.Array) -> jax.Array:
    """Mixes `share` of the image with the rest of `other`, cut to [0, 1]; shares may exceed 1."""
    return jnp.clip(share * image + (1 - share) * other, 0, 1)


def turn_hue(image: jax.Array, turn: jax.Array) -> jax.Array:
    """Moves the hues of f32[h w 3] by `turn` of a full circle; saturation and value stay (HSV)."""
    red, green, blue = jnp.moveaxis(image, -1, 0)
    value, low = image.max(-1), image.min(-1)
    chroma = value - low
    spread = jnp.where(chroma > 0, chroma, 1)
    sixths = jnp.where(
        value == red,
        (green - blue) / spread,
        jnp.where(value == green, 2 + (blue - red) / spread, 4 + (red - green) / spread),
    )
    # Of channel n: full chroma down from the value where the turned hue lies a third of the circle
    # or more away from it.
    away = (jnp.array([[[5.0, 3.0, 1.0]]]) + sixths[..., None] + 6 * turn) % 6
    return value[..., None] - chroma[..., None] * jnp.clip(jnp.minimum(away, 4 - away), 0, 1)


def _own(key: jax.Array, name: str) -> jax.Array:
    """A key that differs from those that `split` makes of the same key, as of small numbers."""
    return jax.random.fold_in(key, stream_number(name))


def _sometimes(
    key: jax.Array, chance: float, change: Callable[[jax.Array], jax.Array], image: jax.Array
) -> jax.Array:
    return jnp.where(jax.random.bernoulli(key, chance), change(image), image) if chance else image
