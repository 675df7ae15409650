"""Pixels of triggers: colours by name, grey values, checks on an image."""

import re
from typing import Any

import numpy as np

from purify.core.errors import UserError

COLOURS = {
    'white': (255, 255, 255),
    'black': (0, 0, 0),
    'red': (255, 0, 0),
    'yellow': (255, 255, 0),
    'blue': (0, 0, 255),
    'green': (0, 255, 0),
    'magenta': (255, 0, 255),
    'cyan': (0, 255, 255),
}


def parse_colour(colour: str) -> tuple[int, int, int]:
    """The red, green and blue (0..255) of a name in `COLOURS` or of '#rrggbb'.

    Raises `UserError` for anything else.
    """
    if isinstance(colour, str) and colour in COLOURS:
        return COLOURS[colour]
    if isinstance(colour, str) and re.fullmatch('#[0-9a-fA-F]{6}', colour):
        return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)
    raise UserError(
        f'unknown colour {colour!r}. Choose from: {", ".join(sorted(COLOURS))}, or write #rrggbb.'
    )


def check_image(image: Any) -> None:
    """Raises `UserError` unless `image` is u8[h w c] with c = 1 or 3."""
    shape, kind = getattr(image, 'shape', None), getattr(image, 'dtype', type(image).__name__)
    fits = shape is not None and len(shape) == 3 and shape[-1] in (1, 3) and all(shape)
    if not fits or kind != np.uint8:
        raise UserError(
            f'an attack cannot stamp an image of shape {shape} and type {kind}: it takes uint8'
            ' [height, width, channels] with 1 channel (grey) or 3 (RGB) and at least one pixel.'
            ' Convert the dataset first.'
        )


def fit_channels(pattern: np.ndarray, channels: int) -> np.ndarray:
    """The pattern u8[h w 3] for 3 channels, its luminance (ITU-R BT.601) u8[h w 1] for one."""
    if channels == 3:
        return pattern
    luminance = pattern.astype(np.float64) @ np.array([0.299, 0.587, 0.114])
    return np.rint(luminance).astype(np.uint8)[..., None]
