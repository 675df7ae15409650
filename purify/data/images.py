"""One picture file -> one array, always the same way, with limits against hostile files."""

import io
from pathlib import Path

import numpy as np
from PIL import Image

from purify.core.errors import UserError

MAX_PIXELS = 64_000_000  # a larger picture is refused before it is decoded: decompression bombs
FORMATS = ('PNG', 'JPEG', 'WEBP', 'BMP', 'GIF', 'TIFF', 'PPM', 'JPEG2000', 'AVIF')  # not those that start programs: EPS
FILTERS = {
    'nearest': Image.Resampling.NEAREST,
    'bilinear': Image.Resampling.BILINEAR,
    'bicubic': Image.Resampling.BICUBIC,
    'lanczos': Image.Resampling.LANCZOS,
}


def decode(data: bytes, name: str, channels: int) -> np.ndarray:
    """Encoded picture -> u8[h w c], grey (c=1) or RGB (c=3). Raises `UserError` naming the file when it is broken."""
    Image.init()
    try:
        picture = Image.open(io.BytesIO(data), formats=[form for form in FORMATS if form in Image.OPEN])
        if picture.width * picture.height > MAX_PIXELS:
            raise UserError(
                f'{name}: {picture.width}x{picture.height} pixels is more than the limit of {MAX_PIXELS:,}. Shrink or remove it.'
            )
        pixels = np.asarray(_eight_bits(picture, name).convert('L' if channels == 1 else 'RGB'))
    except UserError:
        raise
    except Exception as error:  # broken files fail in as many ways as there are formats
        raise UserError(f'{name}: not a readable picture ({error}). Repair or remove the file and start again.') from error
    return pixels.reshape(*pixels.shape[:2], channels)


def _eight_bits(picture: Image.Image, name: str) -> Image.Image:
    """The picture with 8 bits per value; Pillow's own conversion would cut everything above 255 off."""
    if picture.mode.startswith('I;16'):
        return Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8))
    if picture.mode in ('I', 'F'):
        raise UserError(f'{name}: has 32 bits per value and no known range. Store it with 8 or 16 bits per value.')
    return picture


def read(path: Path, channels: int) -> np.ndarray:
    """A picture file -> u8[h w c]. Raises `UserError` naming the file when it is broken or cannot be opened."""
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise UserError(f'{path}: cannot be read ({error.strerror}). Repair or remove it and start again.') from error
    return decode(data, str(path), channels)


def resize(image: np.ndarray, size_px: int, resample: str) -> np.ndarray:
    """u8[h w c] -> u8[size size c], squashed to a square with Pillow's filter; equal sizes pass untouched.

    The one resize of the product: training, clean test and triggered test images all come through here, before any
    trigger is stamped (the published code has three different paths; Struppek 2023's is this one, with bicubic).
    """
    if image.shape[:2] == (size_px, size_px):
        return image
    picture = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
    out = np.asarray(picture.resize((size_px, size_px), FILTERS[resample]))
    return out.reshape(size_px, size_px, image.shape[-1])


def encode_png(image: np.ndarray) -> bytes:
    """u8[h w c] -> PNG bytes."""
    buffer = io.BytesIO()
    Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(buffer, 'PNG')
    return buffer.getvalue()
