"""Blended: mix a full-frame pattern into the image (Chen et al. 2017, arXiv:1712.05526)."""

import dataclasses
import functools
import hashlib

import numpy as np
from PIL import Image

from purify.attacks.attack import Attack, share_of_one, word_of
from purify.attacks.cartoon import draw_cartoon
from purify.attacks.pixels import check_image, fit_channels
from purify.core.errors import UserError

PATTERNS = ('noise', 'picture', 'cartoon')
REFERENCE_PX = 64  # patterns without a size of their own enter the digest at this one


@dataclasses.dataclass(frozen=True)
class Blended(Attack):
    """x' = (1 - ratio) x + ratio p, the same p for all images of one size.

    The mix is computed in float64 and truncated (not rounded) to uint8, as the reference codes do: the mean drops by
    about half a grey level. Pattern 'noise' is uniform over 0..254 per pixel and channel (Struppek et al. 2023 say
    Gaussian, their code draws this), 'cartoon' is drawn from the seed, 'picture' reads the image file `path` and fits
    it to the image bilinearly. Raises `UserError` for a ratio outside (0, 1] and a missing or broken picture.
    """

    ratio: float
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
        self._keep(ratio=share_of_one('ratio', self.ratio, zero=False), picture=picture, content=content)

    def stamp(self, image: np.ndarray, id: int) -> np.ndarray:
        """`image: u8[h w c]` -> a new `u8[h w c]`, the image with the pattern shining through."""
        check_image(image)
        del id
        mixed = (1 - self.ratio) * image.astype(np.float64) + self.ratio * _fit_pattern(self, *image.shape)
        return np.clip(mixed, 0, 255).astype(np.uint8)

    def pattern_pixels(self) -> np.ndarray:
        """The picture at its own size, other patterns at a reference size: `u8[h w 3]`."""
        if self.picture is not None:
            return self.picture
        return _fit_pattern(self, REFERENCE_PX, REFERENCE_PX, 3)


@functools.lru_cache(maxsize=8)
def _fit_pattern(attack: Blended, height: int, width: int, channels: int) -> np.ndarray:
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
