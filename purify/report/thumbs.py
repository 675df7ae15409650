"""Thumbnails of images, which lie inside the page, and rows of them."""

import base64
import io
from dataclasses import dataclass

import numpy as np
from PIL import Image

from purify.core.errors import UserError

THUMB_PX = 96  # longest side on screen
MAX_COLUMNS = 8  # images in a line of a table, as many as a desktop shows without scrolling


@dataclass(frozen=True)
class Thumb:
    """A thumbnail: PNG data URI, size on screen in pixels, and a text that can stand for it."""

    uri: str
    width: int
    height: int
    pixelated: bool
    alt: str


@dataclass(frozen=True)
class GridRow:
    """One line of a grid; None where there is no image."""

    name: str
    thumbs: list[Thumb | None]


def make_thumb(image: np.ndarray, alt: str, limit_px: int = THUMB_PX) -> Thumb:
    """Makes a thumbnail of `image: u8[h w c]` (c 1 or 3); large images are shrunk.

    Small images are shown at a whole multiple of their size, with hard pixels. Raises `UserError`
    for any other array.
    """
    shaped = image.ndim == 3 and image.shape[2] in (1, 3) and 0 not in image.shape
    if image.dtype != np.uint8 or not shaped:
        raise UserError(
            f'a report shows images u8[h w 1] or u8[h w 3], not {image.dtype}{list(image.shape)}.'
        )
    picture = Image.fromarray(image[..., 0] if image.shape[2] == 1 else image)
    side = max(picture.size)
    if side > limit_px:
        width, height = (max(1, round(length * limit_px / side)) for length in picture.size)
        picture, zoom = picture.resize((width, height), Image.Resampling.LANCZOS), 1
    else:
        zoom = limit_px // side
    out = io.BytesIO()
    picture.save(out, format='PNG', optimize=True)
    uri = 'data:image/png;base64,' + base64.b64encode(out.getvalue()).decode('ascii')
    return Thumb(uri, picture.width * zoom, picture.height * zoom, zoom > 1, alt)
