"""Patterns as large as the image: noise, a drawn cartoon, or a picture from a file."""

import dataclasses
import functools
import hashlib

import numpy as np
from PIL import Image

from purify.attacks.attack import Attack, word_of
from purify.attacks.cartoon import draw_cartoon
from purify.attacks.pixels import fit_channels
from purify.core.errors import UserError

PATTERNS = ('noise', 'picture', 'cartoon')
REFERENCE_PX = 64  # patterns without a size of their own enter the digest at this one


@dataclasses.dataclass(frozen=True, kw_only=True)
class FullFrame(Attack):
    """An attack that mixes a full-frame pattern into the image; a subclass says how.

    Pattern 'noise' is uniform over 0..254 per pixel and channel (Struppek et al. 2023 say Gaussian, their code draws
    this), 'cartoon' is drawn from the seed, 'picture' reads the image file `path` and fits it to the image bilinearly.
    Raises `UserError` for an unknown pattern and a missing or broken picture.
    """

    pattern: str = 'noise'
    path: str = ''
    content: str = dataclasses.field(init=False, repr=False)  # so that equal paths with other pixels differ
    picture: np.ndarray | None = dataclasses.field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        word_of('pattern', self.pattern, PATTERNS)
        if self.path and self.pattern != 'picture':
            raise UserError(f"path={self.path!r} is read for pattern 'picture', not for {self.pattern!r}. Drop it.")
        picture = read_picture(self.path) if self.pattern == 'picture' else None
        content = '' if picture is None else hashlib.sha256(picture.tobytes()).hexdigest()
        self._keep(picture=picture, content=content)

    def pattern_pixels(self) -> np.ndarray:
        """The picture at its own size, other patterns at a reference size: `u8[h w 3]`."""
        if self.picture is not None:
            return self.picture
        return fit_pattern(self, REFERENCE_PX, REFERENCE_PX, 3)


@functools.lru_cache(maxsize=8)
def fit_pattern(attack: FullFrame, height: int, width: int, channels: int) -> np.ndarray:
    """The pattern for images of one size, `u8[height width channels]`; drawn once, not once per image."""
    if attack.picture is not None:
        resized = Image.fromarray(attack.picture).resize((width, height), Image.Resampling.BILINEAR)
        pattern = fit_channels(np.asarray(resized), channels)
    elif attack.pattern == 'cartoon':
        pattern = fit_channels(draw_cartoon(attack.seed, height, width), channels)
    else:
        pattern = np.random.default_rng(attack.seed).integers(0, 255, (height, width, channels), np.uint8)
    pattern.flags.writeable = False
    return pattern


def read_picture(path: str) -> np.ndarray:
    """The image file at `path` -> `u8[h w 3]`. Raises `UserError` when it is missing, broken or absurdly large."""
    if not path:
        raise UserError("pattern 'picture' needs an image file. Set path to one, or choose 'cartoon' or 'noise'.")
    try:
        with Image.open(path) as file:
            return np.asarray(file.convert('RGB'))
    except FileNotFoundError:
        raise UserError(f'the picture path={path!r} does not exist. Set path to an image file.') from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(f'the picture path={path!r} is broken ({error}). Set path to a whole image file.') from error
