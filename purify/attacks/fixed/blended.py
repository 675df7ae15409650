"""Blended: mix a full-frame pattern into the image (Chen et al. 2017, arXiv:1712.05526)."""

import dataclasses
from typing import Any, ClassVar

from purify.attacks.attack import Arrays, Presets, real, to_pixels
from purify.attacks.full_frame import FullFrame, fit_pattern
from purify.core.limits import Flag, Portion


@dataclasses.dataclass(frozen=True, kw_only=True)
class Blended(FullFrame):
    """Mixes a pattern p into every image: x' = (1 - ratio) x + ratio p; patterns as in `FullFrame`.

    The mix is computed in float64 and truncated (not rounded) to uint8, as the reference codes do:
    the mean drops by about half a grey level. With `additive`, x' = x + ratio p, clipped and
    truncated, instead (the text of Pan et al. 2024 on BadNets-2; their code mixes). Raises
    `UserError` for a ratio outside (0, 1], an `additive` that is no bool, and a missing or broken
    picture.
    """

    ratio: Portion = 0.1
    additive: Flag = False

    presets: ClassVar[Presets] = {
        'digits': {'ratio': 0.15},
        'small': {'pattern': 'cartoon', 'ratio': 0.2},
        'published': {'pattern': 'cartoon', 'ratio': 0.2},
    }

    def shared(self, shape: tuple[int, ...], mode: str) -> Arrays:
        """The pattern for images of `shape`: u8[h w c]."""
        return {'pattern': fit_pattern(self, *shape)}

    def apply(self, xp: Any, image: Any, shared: Arrays, drawn: Arrays) -> Any:
        """`image: u8[h w c]` with the pattern shining through."""
        kept = 1 if self.additive else 1 - self.ratio
        return to_pixels(xp, kept * real(xp, image) + self.ratio * real(xp, shared['pattern']))
