"""Prepares images for CLIP as a preprocessor_config.json says, on the device."""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from purify.core.errors import UserError
from purify.models.diffusers.config_checks import MOST, is_count, is_number

CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
# one class of transformers, renamed often
IMAGE_PROCESSOR = re.compile(r'CLIP(FeatureExtractor|ImageProcessor(Fast|Pil)?)')
_FIXED = {  # the only value that is implemented
    **dict.fromkeys(('do_resize', 'do_center_crop', 'do_rescale', 'do_normalize'), True),
    'resample': 3,  # cubic
    'default_to_square': False,
}
_READ = ('size', 'crop_size', 'rescale_factor', 'image_mean', 'image_std')
_TYPES = ('image_processor_type', 'feature_extractor_type')
_NO_MATTER = ('do_convert_rgb', 'data_format', 'input_data_format', 'device', 'return_tensors')
_KNOWN = {*_FIXED, *_READ, *_TYPES, *_NO_MATTER, 'processor_class'}


class Processor(NamedTuple):
    """The settings of a preprocessor_config.json, CLIP's own where it is silent.

    `size` is the shorter edge in px, or (height, width) that the image is squashed to, whatever its
    shape; `crop` the edge in px of the square that is cut out of the middle; `mean` and `std`
    f32[3] normalise the colours.
    """

    size: int | tuple[int, int]
    crop: int
    mean: np.ndarray
    std: np.ndarray

    def resized(self, height: int, width: int) -> tuple[int, int]:
        """The (height, width) of an image before it is cropped, cut to whole pixels."""
        if isinstance(self.size, tuple):
            return self.size
        return self.size * height // min(height, width), self.size * width // min(height, width)


def clip_pixels(images: jax.Array, config: Mapping[str, Any]) -> jax.Array:
    """Turns images f32[b h w 3] in [0, 1] into CLIP's pixel_values f32[b crop crop 3].

    They are resized as Pillow does it (cubic; rows, then columns, each rounded to 8 bits), the
    centre cut out, and normalised, by the settings of a preprocessor_config.json. Raises
    `UserError` for settings that are not supported.
    """
    settings = read_processor(config)
    high, wide = settings.resized(*images.shape[1:3])
    if images.shape[1:3] != (high, wide):
        for shape in ((images.shape[1], wide), (high, wide)):
            images = jax.image.resize(images, (len(images), *shape, 3), 'cubic', antialias=True)
            images = jnp.round(jnp.clip(images, 0, 1) * 255) / 255
    crop = settings.crop
    top, left = ((edge - crop) // 2 for edge in (high, wide))
    mean, std = np.array([settings.mean, settings.std])[:, None, None, None]  # each [1 1 1 3]
    return (images[:, top : top + crop, left : left + crop] - mean) / std


def read_processor(config: Mapping[str, Any]) -> Processor:
    """Reads the settings of a preprocessor_config.json.

    Raises `UserError` by name for those that are unknown or not supported.
    """
    for name, value in _FIXED.items():
        if (config.get(name, value) or False) != value:
            raise _refuse(name, config[name], repr(value))
    for name in _TYPES:
        if not IMAGE_PROCESSOR.fullmatch(str(config.get(name) or 'CLIPImageProcessor')):
            raise _refuse(name, config[name], 'CLIPImageProcessor')
    if strange := {k: v for k, v in config.items() if k not in _KNOWN and k[:1] != '_' and v}:
        raise UserError(
            f'preprocessor_config.json: these settings are not supported: {strange}. Choose a model'
            ' without them.'
        )
    factor = config.get('rescale_factor', 1 / 255)
    if not is_number(factor) or not np.isclose(factor, 1 / 255):
        raise _refuse('rescale_factor', factor, '1/255, of 8-bit images')
    size, crop = _edges(config, 'size', 'shortest_edge'), _edges(config, 'crop_size')
    if isinstance(crop, tuple) and crop[0] == crop[1]:
        crop = crop[0]
    if isinstance(crop, tuple):
        raise _refuse('crop_size', config['crop_size'], 'one number of pixels, of a square')
    if crop > np.min(size):
        raise UserError(f'preprocessor_config.json: crop_size {crop} is larger than size {size}.')
    mean, std = _colours(config, 'image_mean', CLIP_MEAN), _colours(config, 'image_std', CLIP_STD)
    if (std <= 0).any():
        raise _refuse('image_std', config['image_std'], 'positive')
    return Processor(size, crop, mean, std)


def _refuse(name: str, value: Any, allowed: str) -> UserError:
    return UserError(
        f'preprocessor_config.json: {name} = {value!r} is not supported; it must be {allowed}.'
    )


def _edges(config: Mapping[str, Any], name: str, short: str = '') -> int | tuple[int, int]:
    """One edge in pixels, n or {`short`: n}; or (height, width) of {'height': h, 'width': w}."""
    value = config.get(name, 224)
    given = value if isinstance(value, Mapping) else {short: value}
    height, width = given.get('height'), given.get('width')
    if given.keys() == {short} and is_count(given[short]):
        return given[short]
    if given.keys() == {'height', 'width'} and is_count(height) and is_count(width):
        return height, width
    one = f"{{'{short}': n}}, or " if short else ''
    raise _refuse(name, value, f"a number of pixels, {one}{{'height': h, 'width': w}}")


def _colours(config: Mapping[str, Any], name: str, usual: tuple[float, ...]) -> np.ndarray:
    value = config.get(name, usual)
    three = isinstance(value, list | tuple) and len(value) == 3
    if not three or not all(is_number(x) and abs(x) <= MOST for x in value):
        raise _refuse(name, value, f'three numbers, of red, green and blue, from -{MOST} to {MOST}')
    return np.asarray(value, np.float32)
