"""Pictures from files as triggers."""

import hashlib
from pathlib import Path

import numpy as np
from PIL import Image

from purify.core.errors import UserError


def picture_of(pattern: str, path: str) -> np.ndarray | None:
    """The picture u8[h w 3] that pattern 'picture' reads from `path`; None for other patterns.

    Raises `UserError` for a path that no pattern reads, and for a picture that is missing or broken.
    """
    if not isinstance(path, str):
        raise UserError(f'path={path!r} is no path. Set path to an image file, or leave it empty.')
    if pattern == 'picture':
        return read_picture(path)
    if path:
        raise UserError(f"path={path!r} is read for pattern 'picture', not for {pattern!r}. Drop it.")
    return None


def content_of(picture: np.ndarray | None) -> str:
    """SHA-256 of its pixels; nothing where there is none."""
    return '' if picture is None else hashlib.sha256(picture.tobytes()).hexdigest()


def resize_picture(picture: np.ndarray, height: int, width: int) -> np.ndarray:
    """`picture: u8[h w 3]` -> `u8[height width 3]`, bilinear."""
    return np.asarray(Image.fromarray(picture).resize((width, height), Image.Resampling.BILINEAR))


def read_picture(path: str) -> np.ndarray:
    """The image file at `path` -> `u8[h w 3]`. Raises `UserError` when it is missing, broken or absurdly large."""
    if not path:
        raise UserError("pattern 'picture' needs an image file. Set path to one, or choose 'cartoon' or 'noise'.")
    try:
        with Image.open(Path(path).expanduser()) as file:
            return np.asarray(file.convert('RGB'))
    except FileNotFoundError:
        raise UserError(f'the picture path={path!r} does not exist. Set path to an image file.') from None
    except (OSError, RuntimeError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(f'the picture path={path!r} is broken ({error}). Set path to a whole image file.') from error
