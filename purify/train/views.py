"""Random views of images, made on the device: each row's is a function of its own key alone.

Images are f32[b h w c] in [0, 1] with 1 channel (grey) or 3 (RGB) and keep their shape.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from purify.core.errors import UserError

GREY = (0.299, 0.587, 0.114)  # ITU-R BT.601
RATIOS = (3 / 4, 4 / 3)  # width to height of a crop


@dataclass(frozen=True)
class Views:
    """The views of SimCLR (Chen et al. 2020, appendix A), without the blur, as there for small images.

    Light changes in a fixed order (brightness, contrast, saturation, hue), where torchvision draws one. Saturation, hue and
    grey leave images of one channel as they are.

    Attributes:
      crop: (low, high), between which the share lies of the image's area that is cut out and brought to full size, bilinear;
        its width to height lies between 3/4 and 4/3, and no side is longer than the image's.
      flip: chance of being mirrored left to right.
      jitter: chance of other light.
      strength: s; brightness, contrast and saturation change by factors from [1 - s, 1 + s], the hue by up to s/4 of a turn.
        SimCLR's strength 1/2 on CIFAR-10, and DBD's jitter, is s = .4.
      grey: chance of losing the colour.
    """

    crop: tuple[float, float]
    flip: float
    jitter: float
    strength: float
    grey: float

    def __post_init__(self) -> None:
        if len(self.crop) != 2 or not 0 < self.crop[0] <= self.crop[1] <= 1:
            raise UserError(f'views: crop={self.crop} is no range of shares. Set it to (low, high), 0 < low <= high <= 1.')
        for name in ('flip', 'jitter', 'grey'):
            _check_share(f'views: {name}', getattr(self, name))
        if not 0 <= self.strength <= 1:
            raise UserError(f'views: strength={self.strength} must be from 0 to 1.')

    def __call__(self, images: jax.Array, keys: jax.Array) -> jax.Array:
        """Images, key[b] -> one view of each."""
        return jax.vmap(self._one)(images, keys)

    def _one(self, image: jax.Array, key: jax.Array) -> jax.Array:
        place, side, chance, light, colour = jax.random.split(key, 5)
        image = crop_resize(image, *draw_box(place, image.shape[:2], self.crop))
        image = _sometimes(side, self.flip, image[:, ::-1], image)
        image = _sometimes(chance, self.jitter, self._relight(image, light), image)
        if image.shape[-1] == 1:
            return image
        return _sometimes(colour, self.grey, jnp.broadcast_to(to_grey(image), image.shape), image)

    def _relight(self, image: jax.Array, key: jax.Array) -> jax.Array:
        factors_key, hue_key = jax.random.split(key)
        bright, contrast, saturation = jax.random.uniform(factors_key, (3,), minval=1 - self.strength, maxval=1 + self.strength)
        image = blend(image, jnp.float32(0), bright)
        image = blend(image, to_grey(image).mean(), contrast)
        if image.shape[-1] == 1:
            return image
        image = blend(image, to_grey(image), saturation)
        return turn_hue(image, jax.random.uniform(hue_key, minval=-self.strength / 4, maxval=self.strength / 4))


@dataclass(frozen=True)
class Shifts:
    """The weak views of small images: moved by up to `pad_px` pixels each way, black coming in, and mirrored with chance `flip`."""

    pad_px: int
    flip: float

    def __post_init__(self) -> None:
        if self.pad_px != int(self.pad_px) or self.pad_px < 0:
            raise UserError(f'pad_px={self.pad_px} must be a whole number of pixels, 0 or more.')
        _check_share('flip', self.flip)

    def __call__(self, images: jax.Array, keys: jax.Array) -> jax.Array:
        """Images, key[b] -> one view of each."""
        return jax.vmap(self._one)(images, keys)

    def _one(self, image: jax.Array, key: jax.Array) -> jax.Array:
        place, side = jax.random.split(key)
        pad = int(self.pad_px)
        row, column = jax.random.randint(place, (2,), 0, 2 * pad + 1)
        padded = jnp.pad(image, ((pad, pad), (pad, pad), (0, 0)))
        image = jax.lax.dynamic_slice(padded, (row, column, 0), image.shape)
        return _sometimes(side, self.flip, image[:, ::-1], image)


def draw_box(key: jax.Array, size: Sequence[int], areas: tuple[float, float]) -> tuple[jax.Array, jax.Array]:
    """(corner, sides), each f32[2] as (down, right) in pixels of an image of `size` (height, width): where a random crop lies."""
    area_key, ratio_key, place_key = jax.random.split(key, 3)
    whole = jnp.array(size, jnp.float32)
    area = jax.random.uniform(area_key, minval=areas[0], maxval=areas[1]) * whole.prod()
    low, high = jnp.log(jnp.array(RATIOS))
    ratio = jnp.exp(jax.random.uniform(ratio_key, minval=low, maxval=high))
    sides = jnp.minimum(jnp.sqrt(jnp.stack([area / ratio, area * ratio])), whole)
    return jax.random.uniform(place_key, (2,)) * (whole - sides), sides


def crop_resize(image: jax.Array, corner: jax.Array, sides: jax.Array) -> jax.Array:
    """What lies in the box at `corner` with `sides` (pixels, fractions too), brought to the image's own size; bilinear."""
    scale = jnp.array(image.shape[:2]) / sides
    return jax.image.scale_and_translate(image, image.shape, (0, 1), scale, -corner * scale, 'linear', antialias=True)


def to_grey(image: jax.Array) -> jax.Array:
    """f32[h w c] -> luminance f32[h w 1]."""
    return image if image.shape[-1] == 1 else (image * jnp.array(GREY)).sum(-1, keepdims=True)


def blend(image: jax.Array, other: jax.Array, share: jax.Array) -> jax.Array:
    """`share` of the image and the rest of `other`; beyond 1 it leads away from it. Cut to [0, 1]."""
    return jnp.clip(share * image + (1 - share) * other, 0, 1)


def turn_hue(image: jax.Array, turn: jax.Array) -> jax.Array:
    """f32[h w 3] with its hues moved by `turn` of a full circle, its saturation and value kept (HSV; Smith 1978)."""
    red, green, blue = jnp.moveaxis(image, -1, 0)
    value, low = image.max(-1), image.min(-1)
    chroma = value - low
    spread = jnp.where(chroma > 0, chroma, 1)
    sixths = jnp.where(
        value == red,
        (green - blue) / spread,
        jnp.where(value == green, 2 + (blue - red) / spread, 4 + (red - green) / spread),
    )
    # Of channel n: full chroma down from the value where the turned hue lies a third of the circle or more away from it.
    away = (jnp.array([5.0, 3.0, 1.0]) + sixths[..., None] + 6 * turn) % 6
    return value[..., None] - chroma[..., None] * jnp.clip(jnp.minimum(away, 4 - away), 0, 1)


def _sometimes(key: jax.Array, chance: float, changed: jax.Array, image: jax.Array) -> jax.Array:
    return jnp.where(jax.random.bernoulli(key, chance), changed, image)


def _check_share(what: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise UserError(f'{what}={value} must be a chance from 0 to 1.')
