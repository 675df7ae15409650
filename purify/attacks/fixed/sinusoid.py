"""SIG: add a horizontal wave (Barni et al. 2019, arXiv:1902.11237)."""

import dataclasses
from typing import Annotated, Any, ClassVar

import numpy as np

from purify.attacks.attack import Arrays, Attack, Presets, real, to_pixels
from purify.attacks.whole_numbers import settle
from purify.core.limits import Chance, number

MOST = 1e6  # of delta and frequency: beyond any use, far below where the sine loses its meaning
REFERENCE_PX = 64  # the wave enters the digest as on an image of this width


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sinusoid(Attack):
    """Adds a horizontal sine wave: x' = x + delta sin(2 pi j frequency / w) in column j of w.

    The sum is clipped and truncated. `delta` is in grey levels, `frequency` in waves per image
    width. With a `ratio` in (0, 1] the image is mixed instead of added to, x' = (1 - ratio) x +
    ratio times the wave, as the released codes of NAD and Cognitive Distillation do. Clean-label
    unless `scheme` says otherwise. Where the wave is a whole number the level is exact; codes that
    add the sine as it is computed lie one level below in some of these columns. Raises `UserError`
    for values out of range.
    """

    scheme: str = 'clean_label'
    delta: Annotated[float, number(above=0, most=MOST)] = 40.0
    frequency: Annotated[float, number(above=0, most=MOST)] = 6.0
    ratio: Chance = 0.0

    usual_rate: ClassVar[float] = 0.08  # most of one class out of ten
    presets: ClassVar[Presets] = {'digits': {'delta': 120.0, 'frequency': 4.0}}

    def shared(self, shape: tuple[int, ...], mode: str) -> Arrays:
        """What every row of every channel gets: f64[w 1]."""
        wave = self.delta * np.sin(2 * np.pi * self.frequency * np.arange(shape[1]) / shape[1])
        return {'wave': settle(wave * (self.ratio or 1))[:, None]}

    def apply(self, xp: Any, image: Any, shared: Arrays, drawn: Arrays) -> Any:
        """`image: u8[h w c]` with the wave."""
        return to_pixels(xp, (1 - self.ratio) * real(xp, image) + real(xp, shared['wave'])[None])

    def pattern_pixels(self) -> np.ndarray:
        """The wave on a reference width, in whole levels: `i32[w 1]`."""
        return np.floor(self.shared((1, REFERENCE_PX, 1), 'test')['wave']).astype(np.int32)
