"""Augmentations of training images, made on the device inside the step.

Each is a function of an image f32[h w c] in [0, 1] and a key, so what becomes of an image depends
on (seed, id, step) alone, wherever it comes from. Images have 1 channel (grey) or 3 (RGB).

The strong set of Struppek et al. 2023 (appendix B): `ColourJitter(.4, .4, .4, .1)`, `Rotation(20)`,
`Affine(.1, (.9, 1.1))`, `Flip(.5)`.
"""

import abc
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, ClassVar

import jax
import jax.numpy as jnp

from purify.core.errors import UserError
from purify.core.limits import Chance, Limited, Natural, NotNegative, number, one_of
from purify.core.registry import Registry
from purify.core.types import Settings
from purify.data import changes

PAD_MODES = {'zero': 'constant', 'reflect': 'reflect'}


class Augmentation(Limited, abc.ABC):
    """A random change of an image."""

    by_visit: ClassVar[bool] = False  # whether it needs to know which visit of an image it is

    @abc.abstractmethod
    def __call__(self, image: jax.Array, key: jax.Array) -> jax.Array:
        """Changes one image f32[h w c] in [0, 1]; pure and traceable."""

    def on_visit(self, image: jax.Array, key: jax.Array, visit: jax.Array) -> jax.Array:
        """The same on a visit i32[], which grows by one in every epoch.

        It starts at 0 or 1, by a coin for each image.
        """
        return self(image, key)


@dataclass(frozen=True)
class Flip(Augmentation):
    """Mirrors left and right with probability `p`."""

    p: Chance = 0.5

    def __call__(self, image: jax.Array, key: jax.Array) -> jax.Array:
        """Makes the image or its mirror image."""
        return jnp.where(jax.random.bernoulli(key, self.p), changes.mirror(image), image)


@dataclass(frozen=True)
class AlternatingFlip(Augmentation):
    """Mirrors left and right in every other epoch, half of the images in the first.

    So two epochs show both sides of every image, where a coin shows half of them the same side
    twice (Jordan 2024, arXiv:2404.00498, section 3.6).
    """

    by_visit: ClassVar[bool] = True

    def __call__(self, image: jax.Array, key: jax.Array) -> jax.Array:
        """Makes the image or its mirror image, by a coin."""
        return self.on_visit(image, key, jax.random.bernoulli(key).astype(jnp.int32))

    def on_visit(self, image: jax.Array, key: jax.Array, visit: jax.Array) -> jax.Array:
        """Makes the mirror image on odd visits."""
        return jnp.where(visit % 2 == 1, changes.mirror(image), image)


@dataclass(frozen=True)
class PadCrop(Augmentation):
    """Pads all sides with zeros or the reflected image, and cuts the old size out at random.

    Attributes:
      pad_px: pixels that are added on each side.
      mode: 'zero' or 'reflect'.
    """

    pad_px: Natural
    mode: Annotated[str, one_of(PAD_MODES)] = 'zero'

    def __call__(self, image: jax.Array, key: jax.Array) -> jax.Array:
        """Cuts a window out of the padded image."""
        height, width, _ = image.shape
        if self.mode == 'reflect' and self.pad_px >= min(height, width):
            raise UserError(
                f'pad_px={self.pad_px} cannot be filled by reflecting an image of {height} x'
                f" {width}. Lower pad_px below {min(height, width)} or set mode to 'zero'."
            )
        pad = int(self.pad_px)
        padded = jnp.pad(image, ((pad, pad), (pad, pad), (0, 0)), mode=PAD_MODES[self.mode])
        row, column = jax.random.randint(key, (2,), 0, 2 * pad + 1)
        return jax.lax.dynamic_slice(padded, (row, column, 0), image.shape)


@dataclass(frozen=True)
class ResizedCrop(Augmentation):
    """Cuts out a random box and brings it to the image's size (Szegedy et al. 2015).

    Bilinear and antialiased. The box has a share of the area from `scale`, and a width to height
    from 3/4 to 4/3, evenly on a logarithm; sides longer than the image's are cut to it.
    """

    scale: tuple[float, float]

    def __post_init__(self) -> None:
        if len(self.scale) != 2 or not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise UserError(
                f'scale={self.scale} is no range of shares. Set (low, high), 0 < low <= high <= 1.'
            )

    def __call__(self, image: jax.Array, key: jax.Array) -> jax.Array:
        """Enlarges a cut."""
        return changes.crop_resize(image, *changes.draw_box(key, image.shape[:2], self.scale))


@dataclass(frozen=True)
class ColourJitter(Augmentation):
    """Changes brightness, contrast, saturation and hue at random, in random order.

    The first three by factors from [1 - s, 1 + s], hue by a shift from [-s, s], as torchvision's
    ColorJitter; a hue of 1 is a full turn. Grey images have neither saturation nor hue: both leave
    them as they are.
    """

    brightness: NotNegative = 0.0
    contrast: NotNegative = 0.0
    saturation: NotNegative = 0.0
    hue: Annotated[float, number(least=0, most=0.5)] = 0.0

    def __call__(self, image: jax.Array, key: jax.Array) -> jax.Array:
        """Puts the scene in other light."""
        order_key, factor_key, hue_key = jax.random.split(key, 3)
        strengths = jnp.array([self.brightness, self.contrast, self.saturation])
        low = jnp.maximum(0, 1 - strengths)
        factors = jax.random.uniform(factor_key, (3,), minval=low, maxval=1 + strengths)
        turn = jax.random.uniform(hue_key, minval=-self.hue, maxval=self.hue)
        parts = [(changes.brighten, factors[0], self.brightness)]
        parts += [(changes.contrast, factors[1], self.contrast)]
        parts += [(changes.saturate, factors[2], self.saturation)]
        parts += [(changes.turn_hue, turn, self.hue)]
        used = [partial(_second, change, value) for change, value, size in parts if size]
        for which in jax.random.permutation(order_key, len(used)):
            image = jax.lax.switch(which, used, image)
        return image


def _second(change: Callable[..., jax.Array], value: jax.Array, image: jax.Array) -> jax.Array:
    return change(image, value)


@dataclass(frozen=True)
class Rotation(Augmentation):
    """Turns about the centre by an angle in [-degrees, degrees], bilinear; gaps are black."""

    degrees: Annotated[float, number(least=0, most=180)]

    def __call__(self, image: jax.Array, key: jax.Array) -> jax.Array:
        """Turns the image."""
        angle = jax.random.uniform(key, minval=-self.degrees, maxval=self.degrees)
        return changes.rotate(image, jnp.deg2rad(angle)) if self.degrees else image


@dataclass(frozen=True)
class Affine(Augmentation):
    """Scales about the centre by a factor from `scale`, then shifts; bilinear, gaps are black.

    The shift is drawn in whole pixels from [-translate, translate] times the width, and the height.
    """

    translate: Chance = 0.0
    scale: tuple[float, float] = (1.0, 1.0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.scale) != 2 or not 0 < self.scale[0] <= self.scale[1] < math.inf:
            raise UserError(
                f'scale={self.scale} is not a range of factors. Set (low, high), 0 < low <= high.'
            )

    def __call__(self, image: jax.Array, key: jax.Array) -> jax.Array:
        """Scales and shifts the image."""
        shift_key, scale_key = jax.random.split(key)
        reach = self.translate * jnp.array(image.shape[:2], jnp.float32)
        shift = jnp.rint(jax.random.uniform(shift_key, (2,), minval=-reach, maxval=reach))
        factor = jax.random.uniform(scale_key, minval=self.scale[0], maxval=self.scale[1])
        return changes.read_from(image, jnp.eye(2) / factor, shift)


AUGMENTATIONS: Registry[Callable[..., Augmentation]] = Registry(
    'augmentation',
    flip=Flip,
    alternating_flip=AlternatingFlip,
    pad_crop=PadCrop,
    resized_crop=ResizedCrop,
    colour_jitter=ColourJitter,
    rotation=Rotation,
    affine=Affine,
)


def make_augmentations(settings: Settings) -> tuple[Augmentation, ...]:
    """Makes the augmentations of the part `augment` of a config, in the order written there."""
    listed = lambda value: tuple(value) if isinstance(value, list) else value
    return tuple(
        AUGMENTATIONS.make(name, **{key: listed(value) for key, value in options.items()})
        for name, options in settings.items()
    )


def change_all(
    augmentations: Sequence[Augmentation],
    images: jax.Array,
    keys: jax.Array,
    visits: jax.Array | None = None,
) -> jax.Array:
    """Changes images f32[b h w c] in [0, 1], each by its own key[b], by one after the other.

    `visits` i32[b] tells which visit of each image it is (`Augmentation.on_visit`); without, all
    are made as if nobody knew.
    """

    def change(image: jax.Array, key: jax.Array, *visit: jax.Array) -> jax.Array:
        for place, augmentation in enumerate(augmentations):
            own = jax.random.fold_in(key, place)
            make = augmentation.on_visit if visit else augmentation
            image = make(image, own, *visit)
        return image

    return jax.vmap(change)(images, keys, *() if visits is None else (visits,))


def augment(
    augmentations: Sequence[Augmentation],
    images: jax.Array,
    keys: jax.Array,
    visits: jax.Array | None = None,
) -> jax.Array:
    """Changes 8-bit images u8[b h w c], each by its own key[b]; back to 8 bits at the end.

    See `change_all`. Raises `UserError` for images of another type or number of channels.
    """
    if not augmentations:
        return images
    if images.ndim != 4 or images.shape[-1] not in (1, 3) or images.dtype != jnp.uint8:
        raise UserError(
            f'cannot augment images of shape {images.shape[1:]} and type {images.dtype}: they must'
            ' be uint8 [height, width, channels] with 1 channel or 3. Convert the dataset first.'
        )
    changed = change_all(augmentations, images.astype(jnp.float32) / 255, keys, visits)
    return jnp.round(changed * 255).astype(jnp.uint8)
