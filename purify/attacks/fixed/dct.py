"""FTrojan: raise a few frequencies of the chrominance (Wang et al. 2022, arXiv:2111.10991)."""

import dataclasses
import functools
from collections.abc import Sized
from typing import Annotated, Any, ClassVar

import numpy as np
import scipy.fft

from purify.attacks.attack import Arrays, Attack, Presets, real
from purify.attacks.whole_numbers import settle
from purify.attacks.ycrcb import rgb_to_ycrcb, ycrcb_to_rgb
from purify.core.errors import UserError
from purify.core.limits import Flag, number, whole

MOST_PX = 1024  # of a window
MOST_LEVELS = 1e6  # of `magnitude`: what it adds stays a whole number of 32 bits


@dataclasses.dataclass(frozen=True, kw_only=True)
class Dct(Attack):
    """Adds `magnitude` to the DCT coefficients at `positions` of each window, in YCrCb `channels`.

    The orthonormal DCT-II of a window of `window_px` x `window_px` pixels is linear, so raising a
    coefficient is adding a fixed wave; the sum is truncated, then clipped to 0..255, or kept modulo
    256 where `wrap`, as the released code does by its cast. YCrCb is OpenCV's 8-bit form, whose way
    there and back may alter a pixel by a level or two. `positions` are pairs of row and column,
    nested or as one flat list; `channels` 0 is Y, 1 Cr, 2 Cb (the paper says YUV, the code takes
    this). A grey image has the wave in its only channel. What lies right of or below the last full
    window stays as it is. On an image smaller than a window, the window is its shorter side and the
    positions shrink in proportion. Raises `UserError` for values out of range.
    """

    window_px: Annotated[int, whole(1, MOST_PX)] = 32
    channels: tuple[int, ...] = (1, 2)
    positions: tuple[tuple[int, int], ...] = ((15, 15), (31, 31))
    magnitude: Annotated[float, number(above=0, most=MOST_LEVELS)] = 30.0
    wrap: Flag = False

    presets: ClassVar[Presets] = {
        'digits': {'window_px': 16, 'positions': ((7, 7), (15, 15)), 'magnitude': 200.0},
        'small': {'magnitude': 100.0},
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        flat = _whole_numbers('positions', self.positions, self.window_px)
        nested = [len(pair) for pair in self.positions if isinstance(pair, Sized)]
        if len(flat) % 2 or (nested and nested != [2] * len(self.positions)):
            raise UserError(
                f'positions={self.positions!r}: give pairs of row and column, as (15, 15, 31, 31).'
            )
        positions = tuple(zip(flat[::2], flat[1::2], strict=True))
        self._keep(channels=_whole_numbers('channels', self.channels, 3), positions=positions)

    def shared(self, shape: tuple[int, ...], mode: str) -> Arrays:
        """The wave f64[h w 1], 0 outside the full windows, and where these are, bool[h w 1]."""
        wave, inside = _tile(self, shape[0], shape[1])
        return {'wave': wave, 'inside': inside}

    def apply(self, xp: Any, image: Any, shared: Arrays, drawn: Arrays) -> Any:
        """`image: u8[h w c]` with the wave."""
        grey = image.shape[-1] == 1
        planes = image if grey else rgb_to_ycrcb(xp, image)
        raised = np.array([True]) if grey else np.isin(range(3), self.channels)
        levels = xp.trunc(real(xp, planes) + real(xp, shared['wave']) * raised[None, None])
        # clipped as floats: a level beyond 32 bits would turn its sign
        levels = (levels if self.wrap else xp.clip(levels, 0, 255)).astype(xp.int32) & 255
        stamped = levels.astype(xp.uint8) if grey else ycrcb_to_rgb(xp, levels)
        return xp.where(xp.asarray(shared['inside']), stamped, image)

    def pattern_pixels(self) -> np.ndarray:
        """The wave on one window, in whole levels: `i32[s s 1]`."""
        return np.floor(_tile(self, self.window_px, self.window_px)[0]).astype(np.int32)


@functools.lru_cache(maxsize=8)
def _tile(attack: Dct, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """The wave f64[height width 1], and where the full windows are, bool[height width 1]."""
    side = min(attack.window_px, height, width)
    coefficients = np.zeros((side, side))
    for position in attack.positions:
        row, column = (place * side // attack.window_px for place in position)
        coefficients[row, column] += attack.magnitude
    wave = settle(np.asarray(scipy.fft.idctn(coefficients, norm='ortho')))
    inside = np.zeros((height, width, 1), bool)
    inside[: height - height % side, : width - width % side] = True
    tiled = wave[np.arange(height)[:, None] % side, np.arange(width)[None] % side][..., None]
    return np.where(inside, tiled, 0), inside


def _whole_numbers(name: str, values: Any, count: int) -> tuple[int, ...]:
    """Flattens whole numbers; raises `UserError` unless all are below `count`, and for none."""
    try:
        parts = [value if np.iterable(value) else (value,) for value in values]
        numbers = tuple(whole(0).check(name, number) for part in parts for number in part)
    except (TypeError, UserError):
        numbers = ()
    if not numbers or max(numbers) >= count:
        raise UserError(f'{name}={values!r}: give one or more whole numbers in 0..{count - 1}.')
    return numbers
