"""Pictures from files as triggers."""

import dataclasses
import functools
from pathlib import Path

import numpy as np
from PIL import Image

from purify.attacks.attack import Attack, digest_content
from purify.core.errors import UserError
from purify.core.files import user_path
from purify.data import images
from purify.data.notes import Notes


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pictured(Attack):
    """An attack whose `pattern` is drawn, or 'picture': the image file `path`.

    Raises `UserError` for a path that no pattern reads, and for a picture that is missing or
    broken.

    Attributes:
      pattern: what is stamped or mixed in: a drawn pattern by name, or 'picture'.
      path: of the image file, for pattern 'picture' alone.
      content: SHA-256 of the picture's pixels, so that equal paths with other pixels differ; '' for
        other patterns.
      picture: u8[h w 3]; None for other patterns.
    """

    pattern: str
    path: str = ''
    content: str = dataclasses.field(init=False, repr=False)
    picture: np.ndarray | None = dataclasses.field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        picture = _picture_of(self.pattern, self.path)
        self._keep(picture=picture, content=digest_content(picture))


def _picture_of(pattern: str, path: str) -> np.ndarray | None:
    if not isinstance(path, str):
        raise UserError(f'path={path!r} is no path. Set path to an image file, or leave it empty.')
    if pattern == 'picture':
        return read_picture(path)
    if path:
        raise UserError(
            f"path={path!r} is read for pattern 'picture', not for {pattern!r}. Drop it."
        )
    return None


def resize_picture(picture: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resizes a picture u8[h w 3], or a plane [h w] of u8 or f32, bilinearly to height x width."""
    return np.asarray(Image.fromarray(picture).resize((width, height), Image.Resampling.BILINEAR))


def read_picture(path: str) -> np.ndarray:
    """Reads the image file at `path`, upright, and on white where it is transparent: u8[h w 3].

    Raises `UserError` when it is missing, broken or absurdly large.
    """
    if not path:
        raise UserError(
            "pattern 'picture' needs an image file. Set path to one, or choose 'cartoon'"
            " or 'noise'."
        )
    file = user_path(path)
    if not file.exists():
        raise UserError(f'the picture path={path!r} does not exist. Set path to an image file.')
    return images.read(file, 3, _notes(file))


# what is peculiar to a picture is said once, however often it is read
@functools.cache
def _notes(file: Path) -> Notes:
    return Notes()
