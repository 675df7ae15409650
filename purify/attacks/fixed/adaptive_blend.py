"""Adap-Blend: part of a pattern poisons, all of it triggers (Qi et al. 2023, arXiv:2205.13613)."""

import dataclasses
from typing import Annotated, Any, ClassVar

import numpy as np

from purify.attacks.attack import Arrays, Presets, real, to_pixels
from purify.attacks.full_frame import FullFrame, fit_pattern
from purify.core.limits import Portion, whole

SQUARES = 4  # along each side of the image


@dataclasses.dataclass(frozen=True, kw_only=True)
class AdaptiveBlend(FullFrame):
    """Mixes in parts of a pattern p: x' = x + ratio m (p - x), truncated; p as in `FullFrame`.

    In modes 'training' and 'cover' the ratio is `train_ratio`, and of the image's 4 x 4 squares m
    hides `hidden`, drawn for every id anew; in mode 'test' it is `test_ratio` and nothing is
    hidden. Pixel row i of h lies in square row i * 4 // h, so every size can be cut. Raises
    `UserError` for values out of range.
    """

    pattern: str = 'cartoon'
    train_ratio: Portion = 0.15
    test_ratio: Portion = 0.2
    hidden: Annotated[int, whole(0, SQUARES**2 - 1)] = 8  # hiding all would leave no trigger

    usual_rate: ClassVar[float] = 0.01
    covers: ClassVar[float] = 1.0
    presets: ClassVar[Presets] = {
        'digits': {'rate': 0.1, 'covers': 0.5},
        'small': {'rate': 0.05, 'covers': 1.0},
    }

    def shared(self, shape: tuple[int, ...], mode: str) -> Arrays:
        """The pattern for images of `shape`, u8[h w c], and the share of it that shows, f64[]."""
        ratio = self.test_ratio if mode == 'test' else self.train_ratio
        return {'pattern': fit_pattern(self, *shape), 'ratio': np.array(ratio)}

    def drawn(self, shape: tuple[int, ...], id: int, mode: str) -> Arrays:
        """The squares that show the pattern: bool[4 4]."""
        shown = np.ones(SQUARES**2, bool)
        if mode != 'test':
            order = np.random.default_rng([self.seed, id]).permutation(SQUARES**2)
            shown[order[: self.hidden]] = False
        return {'shown': shown.reshape(SQUARES, SQUARES)}

    def apply(self, xp: Any, image: Any, shared: Arrays, drawn: Arrays) -> Any:
        """`image: u8[h w c]` with the pattern shining through in the squares that show it."""
        rows, columns = (np.arange(size) * SQUARES // size for size in image.shape[:2])
        shown = xp.asarray(drawn['shown'])[rows[:, None], columns[None]][..., None]
        share = real(xp, shared['ratio']) * shown
        return to_pixels(xp, (1 - share) * real(xp, image) + share * real(xp, shared['pattern']))
