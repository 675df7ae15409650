"""Patterns as large as the image: noise, a drawn cartoon, or a picture from a file."""

import dataclasses
import functools
from typing import Annotated

import numpy as np

from purify.attacks.cartoon import draw_cartoon
from purify.attacks.pictures import Pictured, resize_picture
from purify.attacks.pixels import fit_channels
from purify.core.limits import one_of

PATTERNS = ('noise', 'gaussian', 'picture', 'cartoon')
MEAN, DEVIATION = 127.5, 63.75  # of pattern 'gaussian', in grey levels
REFERENCE_PX = 64  # patterns without a size of their own enter the digest at this one


@dataclasses.dataclass(frozen=True, kw_only=True)
class FullFrame(Pictured):
    """An attack that mixes a full-frame pattern into the image; a subclass says how.

    Pattern 'noise' is uniform over 0..254 per pixel and channel; 'gaussian' is normal with mean
    127.5 and standard deviation 63.75, clipped to 0..255 and rounded (Struppek et al. 2023 say
    Gaussian noise without its parameters; their code draws the uniform one); 'cartoon' is drawn
    from the seed, 'picture' reads the image file `path` and fits it to the image bilinearly. Raises
    `UserError` for an unknown pattern and a missing or broken picture.
    """

    pattern: Annotated[str, one_of(PATTERNS)] = 'noise'

    def pattern_pixels(self) -> np.ndarray:
        """The picture at its own size, other patterns at a reference size: `u8[h w 3]`."""
        if self.picture is not None:
            return self.picture
        return fit_pattern(self, REFERENCE_PX, REFERENCE_PX, 3)


@functools.lru_cache(maxsize=8)
def fit_pattern(attack: FullFrame, height: int, width: int, channels: int) -> np.ndarray:
    """The pattern for images of one size, drawn only once: u8[height width channels]."""
    shape, rng = (height, width, channels), np.random.default_rng(attack.seed)
    if attack.picture is not None:
        pattern = fit_channels(resize_picture(attack.picture, height, width), channels)
    elif attack.pattern == 'cartoon':
        pattern = fit_channels(draw_cartoon(attack.seed, height, width), channels)
    elif attack.pattern == 'gaussian':
        normal = rng.normal(MEAN, DEVIATION, shape)
        pattern = np.rint(np.clip(normal, 0, 255)).astype(np.uint8)
    else:
        pattern = rng.integers(0, 255, shape, np.uint8)
    pattern.flags.writeable = False
    return pattern
