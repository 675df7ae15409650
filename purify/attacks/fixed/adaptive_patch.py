"""Adap-Patch: a faint mark poisons, two strong ones trigger (Qi et al. 2023, arXiv:2205.13613)."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Annotated, Any, ClassVar

import numpy as np

from purify.attacks.attack import Arrays, Attack, Presets, real, to_pixels
from purify.attacks.pixels import fit_channels, parse_colour
from purify.core.limits import one_of

FRAME_PX = 32  # regions are given on an image of this size
TEST_MARKS = ('toolbox', 'backdoorbox')
# how much of the image stays, f64[h w 1], and what is added, f64[h w c]
Layer = tuple[np.ndarray, np.ndarray]


@dataclasses.dataclass(frozen=True, kw_only=True)
class AdaptivePatch(Attack):
    """Four marks at the places and opacities of Qi et al., drawn here, as some of theirs are logos.

    On a 32 px image: a flame, 5 x 5 in the bottom right corner, opacity .5; 'corners', 3 x 3 in all
    four, .5; a disc, 13 x 13 near the top right corner, .2; tiles, 8 x 8 at row and column 21, .3.
    Other sizes scale all this. In modes 'training' and 'cover' an image carries one of the four,
    drawn uniformly from (seed, id). In mode 'test' it carries two: by `test_marks` 'toolbox' (the
    authors' code) the flame in both bottom corners and 'corners' above it, opaque; by 'backdoorbox'
    the flame and 'corners' as in training. Values are truncated. Raises `UserError` for unknown
    `test_marks`.
    """

    test_marks: Annotated[str, one_of(TEST_MARKS)] = 'toolbox'

    usual_rate: ClassVar[float] = 0.01
    covers: ClassVar[float] = 2.0
    presets: ClassVar[Presets] = {
        'digits': {'rate': 0.1, 'covers': 0.2},
        'small': {'rate': 0.1, 'covers': 0.2},
    }

    def shared(self, shape: tuple[int, ...], mode: str) -> Arrays:
        """The layers to choose from: the image's share f64[n h w 1] and an addend f64[n h w c]."""
        stays, added = _layers(self.test_marks if mode == 'test' else 'training', *shape)
        return {'stays': stays, 'added': added}

    def drawn(self, shape: tuple[int, ...], id: int, mode: str) -> Arrays:
        """The number of the layer that the image gets: i64[]."""
        which = 0 if mode == 'test' else np.random.default_rng([self.seed, id]).integers(len(MARKS))
        return {'which': np.array(which)}

    def apply(self, xp: Any, image: Any, shared: Arrays, drawn: Arrays) -> Any:
        """`image: u8[h w c]` under its layer."""
        stays, added = (xp.asarray(shared[name])[drawn['which']] for name in ('stays', 'added'))
        return to_pixels(xp, real(xp, image) * real(xp, stays) + real(xp, added))

    def pattern_pixels(self) -> np.ndarray:
        """What all layers add to a 32 px image, those of the test first: `f64[5 32 32 3]`."""
        kinds = (self.test_marks, 'training')
        return np.concatenate([_layers(kind, FRAME_PX, FRAME_PX, 3)[1] for kind in kinds])


def _flame(y: np.ndarray, x: np.ndarray) -> np.ndarray:
    distance = np.hypot(y - 0.6, x - 0.5)
    return _paint(['#ffe040', '#e02020', '#2a0a4a'], np.digitize(distance, (0.25, 0.5)))


def _corners(y: np.ndarray, x: np.ndarray) -> np.ndarray:
    rows = np.array([[1, 0, 0], [0, 1, 0], [1, 0, 1]])
    return _paint(['#000000', '#ffffff'], rows[(3 * y).astype(int), (3 * x).astype(int)])


def _disc(y: np.ndarray, x: np.ndarray) -> np.ndarray:
    distance = np.hypot(y - 0.5, x - 0.5)
    return _paint(['#1840c0', '#ff7010', '#ffffff'], np.digitize(distance, (0.28, 0.5)))


def _tiles(y: np.ndarray, x: np.ndarray) -> np.ndarray:
    i, j = (8 * y).astype(int), (8 * x).astype(int)
    return 255 * np.stack([(i + j) % 2, (i // 2 + j) % 2, (i + j // 2) % 2], -1).astype(np.uint8)


def _paint(colours: list[str], which: np.ndarray) -> np.ndarray:
    palette = np.array([parse_colour(colour) for colour in colours], np.uint8)
    return palette[which]


# the design, its regions (first row, first column, side) on 32 x 32 pixels, opacity in training
Region = tuple[int, int, int]
Design = Callable[[np.ndarray, np.ndarray], np.ndarray]
FLAME_LEFT, FLAME_RIGHT = (27, 0, 5), (27, 27, 5)
CORNERS = ((0, 0, 3), (0, 29, 3), (29, 0, 3), (29, 29, 3))
MARKS: tuple[tuple[Design, tuple[Region, ...], float], ...] = (
    (_flame, (FLAME_RIGHT,), 0.5),
    (_corners, CORNERS, 0.5),
    (_disc, ((1, 18, 13),), 0.2),
    (_tiles, ((21, 21, 8),), 0.3),
)


@functools.lru_cache(maxsize=8)
def _layers(kind: str, height: int, width: int, channels: int) -> Layer:
    """The layers of 'training' (four) or of a word of `TEST_MARKS` (one), stacked."""
    draw = functools.partial(_draw_layer, (height, width, channels))
    if kind == 'training':
        layers = [draw(*mark) for mark in MARKS]
    elif kind == 'toolbox':
        layers = [_lay_over(draw(_flame, (FLAME_LEFT, FLAME_RIGHT), 1), draw(_corners, CORNERS, 1))]
    else:
        layers = [_lay_over(draw(*MARKS[0]), draw(*MARKS[1]))]
    return np.stack([stays for stays, _ in layers]), np.stack([added for _, added in layers])


def _draw_layer(
    shape: tuple[int, int, int], design: Design, regions: tuple[Region, ...], opacity: float
) -> Layer:
    height, width, channels = shape
    stays, added = np.ones((height, width, 1)), np.zeros(shape)
    for row, column, side in regions:
        rows, columns = _scale(row, side, height), _scale(column, side, width)
        y, x = ((np.arange(part.size) + 0.5) / part.size for part in (rows, columns))
        where = rows[:, None], columns[None]
        stays[where] = 1 - opacity
        drawn = fit_channels(design(*np.broadcast_arrays(y[:, None], x[None])), channels)
        added[where] = opacity * drawn.astype(np.float64)
    return stays, added


def _lay_over(below: Layer, above: Layer) -> Layer:
    """Two layers as one: the image under `below`, then under `above`."""
    return below[0] * above[0], below[1] * above[0] + above[1]


def _scale(first: int, side: int, size: int) -> np.ndarray:
    """Pixels `first` to `first + side` of 32 -> those of `size`, at least one."""
    start = min(round(first * size / FRAME_PX), size - 1)
    return np.arange(start, max(round((first + side) * size / FRAME_PX), start + 1))
