"""Augmentations of one record, as grain transforms; other keys than 'image' pass through untouched.

All numbers come from the generator grain hands in, so an image is augmented by (seed, place in the
stream) alone. `image: u8[h w c]` with c = 1 (grey) or 3 (RGB) keeps its shape and type; others
raise `UserError`.

The strong set of Struppek et al. 2023 (appendix B): `ColourJitter(.4, .4, .4, .1)`, `Rotation(20)`,
`Affine(.1, (.9, 1.1))`, `Flip(.5)`.
"""

import abc
import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Annotated, Any

import numpy as np
from grain import transforms
from PIL import Image, ImageEnhance

from purify.core.errors import UserError
from purify.core.limits import Chance, Limited, Natural, NotNegative, number, one_of
from purify.core.registry import Registry
from purify.core.types import Facts

BILINEAR = Image.Resampling.BILINEAR
PAD_MODES = {'zero': 'constant', 'reflect': 'reflect'}


class Augmentation(Limited, transforms.RandomMap):
    """A random change of `record['image']`."""

    @abc.abstractmethod
    def change(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """The changed image u8[h w c] of `image: u8[h w c]`."""

    def random_map(self, record: Mapping[str, Any], rng: np.random.Generator) -> Facts:
        """Changes the image of a record; grain calls this."""
        image = record['image']
        if image.ndim != 3 or image.shape[-1] not in (1, 3) or image.dtype != np.uint8:
            raise UserError(
                f'cannot augment an image of shape {image.shape} and type {image.dtype}: it must be'
                ' uint8 [height, width, channels] with 1 channel or 3. Convert the dataset first.'
            )
        return {**record, 'image': self.change(image, rng)}


@dataclasses.dataclass(frozen=True)
class Flip(Augmentation):
    """Mirrors left and right with probability `p`."""

    p: Chance = 0.5

    def change(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """The image u8[h w c] or its mirror image."""
        return image[:, ::-1].copy() if rng.random() < self.p else image.copy()


@dataclasses.dataclass(frozen=True)
class PadCrop(Augmentation):
    """Pads all sides with zeros or the reflected image, and cuts the old size out at random.

    Attributes:
      pad_px: pixels that are added on each side.
      mode: 'zero' or 'reflect'.
    """

    pad_px: Natural
    mode: Annotated[str, one_of(PAD_MODES)] = 'zero'

    def change(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """A window u8[h w c] of the padded image."""
        height, width, _ = image.shape
        if self.mode == 'reflect' and self.pad_px >= min(height, width):
            raise UserError(
                f'pad_px={self.pad_px} cannot be filled by reflecting an image of {height} x'
                f" {width}. Lower pad_px below {min(height, width)} or set mode to 'zero'."
            )
        pad = self.pad_px
        padded = np.pad(image, ((pad, pad), (pad, pad), (0, 0)), mode=PAD_MODES[self.mode])  # pyright: ignore
        row, column = rng.integers(0, 2 * pad, 2, endpoint=True)
        return padded[row : row + height, column : column + width].copy()


@dataclasses.dataclass(frozen=True)
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

    def change(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """The enlarged cut, u8[h w c]."""
        height, width, _ = image.shape
        area = rng.uniform(*self.scale) * height * width
        ratio = math.exp(rng.uniform(math.log(3 / 4), math.log(4 / 3)))
        across, down = min(math.sqrt(area * ratio), width), min(math.sqrt(area / ratio), height)
        left, top = rng.uniform(0, width - across), rng.uniform(0, height - down)
        box = (left, top, left + across, top + down)
        return _to_array(_to_pillow(image).resize((width, height), BILINEAR, box=box))


@dataclasses.dataclass(frozen=True)
class ColourJitter(Augmentation):
    """Changes brightness, contrast, saturation and hue at random, in random order.

    The first three by factors from [1 - s, 1 + s], hue by a shift from [-s, s]. The rules of
    torchvision's ColorJitter on Pillow images; a hue of 1 is a full turn. Grey images have neither
    saturation nor hue: both leave them as they are.
    """

    brightness: NotNegative = 0.0
    contrast: NotNegative = 0.0
    saturation: NotNegative = 0.0
    hue: Annotated[float, number(least=0, most=0.5)] = 0.0

    def change(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """The scene in other light, u8[h w c]."""
        strengths = np.array([self.brightness, self.contrast, self.saturation])
        factors = rng.uniform(np.maximum(0, 1 - strengths), 1 + strengths)
        shift = rng.uniform(-self.hue, self.hue)
        picture = _to_pillow(image)
        enhancers = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)
        for step in rng.permutation(4):
            if step == 3:
                if self.hue and picture.mode == 'RGB':
                    picture = _turn_hue(picture, shift)
            elif strengths[step]:
                picture = enhancers[step](picture).enhance(factors[step])
        return _to_array(picture)


@dataclasses.dataclass(frozen=True)
class Rotation(Augmentation):
    """Turns about the centre by an angle in [-degrees, degrees], bilinear; gaps are black."""

    degrees: Annotated[float, number(least=0, most=180)]

    def change(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """The turned image, u8[h w c]."""
        angle = rng.uniform(-self.degrees, self.degrees)
        return _to_array(_to_pillow(image).rotate(angle, BILINEAR))


@dataclasses.dataclass(frozen=True)
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

    def change(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """The scaled and shifted image, u8[h w c]."""
        height, width, _ = image.shape
        reach = self.translate * np.array([width, height])
        right, down = np.rint(rng.uniform(-reach, reach))
        factor = rng.uniform(*self.scale)
        # Pillow asks where each pixel comes from: undo the shift, then the scaling at the centre.
        x = width / 2 - (width / 2 + right) / factor
        y = height / 2 - (height / 2 + down) / factor
        size, matrix = (width, height), (1 / factor, 0, x, 0, 1 / factor, y)
        picture = _to_pillow(image).transform(size, Image.Transform.AFFINE, matrix, BILINEAR)
        return _to_array(picture)


def _turn_hue(picture: Image.Image, shift: float) -> Image.Image:
    """Turns the colours of an RGB picture by `shift` of a full circle."""
    hue, saturation, value = picture.convert('HSV').split()
    turned = (np.asarray(hue, np.int64) + round(shift * 255)) % 256
    bands = (Image.fromarray(turned.astype(np.uint8)), saturation, value)
    return Image.merge('HSV', bands).convert('RGB')


def _to_pillow(image: np.ndarray) -> Image.Image:
    return Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)


def _to_array(picture: Image.Image) -> np.ndarray:
    array = np.array(picture)
    return array[..., None] if array.ndim == 2 else array


AUGMENTATIONS: Registry[Callable[..., Augmentation]] = Registry(
    'augmentation',
    flip=Flip,
    pad_crop=PadCrop,
    resized_crop=ResizedCrop,
    colour_jitter=ColourJitter,
    rotation=Rotation,
    affine=Affine,
)
