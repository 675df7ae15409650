"""How CLIP wants its images: a preprocessor_config.json read and obeyed, on the device."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from purify.core.errors import UserError

CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


def clip_pixels(images: jax.Array, config: Mapping[str, Any]) -> jax.Array:
    """Images f32[b h w 3] in [0, 1] -> pixel_values f32[b crop crop 3], as a preprocessor_config.json says.

    The shorter edge is resized as Pillow does it (cubic; rows, then columns, each rounded to 8 bits), the centre cut out, and
    normalised.
    """
    size, crop, mean, std = read_processor(config)
    height, width = images.shape[1:3]
    if min(height, width) != size:
        high, wide = (size * edge // min(height, width) for edge in (height, width))
        for shape in ((height, wide), (high, wide)):
            images = jax.image.resize(images, (len(images), *shape, 3), 'cubic', antialias=True)
            images = jnp.round(jnp.clip(images, 0, 1) * 255) / 255
    top, left = ((edge - crop) // 2 for edge in images.shape[1:3])
    return (images[:, top : top + crop, left : left + crop] - mean) / std


def read_processor(config: Mapping[str, Any]) -> tuple[int, int, np.ndarray, np.ndarray]:
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
