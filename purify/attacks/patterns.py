"""The small patterns that the papers and their released codes stamp, by name."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from purify.attacks.pixels import parse_colour
from purify.core.errors import UserError

Indices = np.ndarray

_FOUR = ('#ffff00', '#ff00ff', '#00ffff', '#7a7a7a')
_GRID = ((1, 1, 0), (1, 0, 1), (0, 1, 0))
_STAIRS = ((1, 1, 0), (1, 0, 1), (0, 0, 1))


def _checkerboard(size: int, i: Indices, j: Indices) -> Indices:
    return ((i + j) % 2 == 0).astype(int)


def _band(size: int, i: Indices, j: Indices) -> Indices:
    offset = i + j - (size - 1)
    return 1 - ((offset >= -math.ceil(size / 4)) & (offset <= size // 4 - 1))


def _rows(rows: tuple[tuple[int, ...], ...]) -> Callable[[int, Indices, Indices], Indices]:
    return lambda size, i, j: np.array(rows)[i * len(rows) // size, j * len(rows) // size]


# name -> (its colours, which of them lies where, what the size must be a multiple of)
PATTERNS: dict[str, tuple[tuple[str, ...], Callable[[int, Indices, Indices], Indices], int]] = {
    'checkerboard': (('white', 'black'), _checkerboard, 1),
    'solid': (('white',), lambda size, i, j: 0 * i, 1),
    'blocks': (_FOUR, lambda size, i, j: 2 * (2 * i // size) + 2 * j // size, 2),
    'band': (('white', 'black'), _band, 1),
    'antidiagonal': (('white', 'black'), lambda size, i, j: (i + j != size - 1).astype(int), 1),
    'grid': (('white', 'black'), _rows(_GRID), 3),
    'stairs': (('white', 'black'), _rows(_STAIRS), 3),
}


def draw_pattern(name: str, size_px: int, colours: tuple[str, ...]) -> np.ndarray:
    """Draws the pattern `name` of `PATTERNS` in `colours`: u8[size_px size_px 3].

    'checkerboard': the second colour where row and column have the same parity (Struppek et al.
    2023). 'solid': one colour. 'blocks': four quarters, row by row (the 4x4 of DataElixir's code,
    the 2x2 of DBD's). 'band': the first colour along the anti-diagonal, from ceil(size/4) above it
    to floor(size/4) - 1 below (BadNets-1 of Pan et al. 2024). 'antidiagonal': that diagonal alone.
    'grid': white at the anti-diagonal and the bottom right corner (NAD, ABL). 'stairs': rows 001,
    010, 110 (Cognitive Distillation; Pan et al. 2024 on CIFAR-10). Raises `UserError` for an
    unknown name and for a size that the pattern cannot have.
    """
    which, multiple = PATTERNS[name][1:]
    if size_px % multiple:
        raise UserError(
            f'size_px={size_px}: pattern {name!r} is cut in {multiple}; choose a multiple of'
            f' {multiple}.'
        )
    palette = np.array([parse_colour(colour) for colour in colours], np.uint8)
    return palette[which(size_px, *np.indices((size_px, size_px)))]


def check_colours(name: str, colours: Any) -> tuple[str, ...]:
    """The colours of a known pattern, its own where none are given.

    Raises `UserError` for a wrong number and unknown ones.
    """
    if not isinstance(colours, str | list | tuple):
        raise UserError(
            f"colours={colours!r} are no list of colours. Give names as ('white', 'black'), or ()."
        )
    if name == 'picture':
        if colours:
            raise UserError(
                f"colours={colours!r}: pattern 'picture' has its own. Leave them empty."
            )
        return ()
    defaults = PATTERNS[name][0]
    chosen = (colours,) if isinstance(colours, str) else tuple(colours) or defaults
    if len(chosen) != len(defaults):
        raise UserError(
            f'colours={chosen!r}: {name!r} takes {len(defaults)}, for example {defaults!r}.'
        )
    for colour in chosen:
        parse_colour(colour)
    return chosen
