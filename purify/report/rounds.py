"""Purification explained in pictures: how labels change along the rounds, and where the victim looks before and after."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import matplotlib as mpl
import numpy as np

from purify.report.grids import Thumb, make_thumb
from purify.report.words import say_class

MAX_ROWS = 4  # samples of a kind in a table
SMALL_PX = 64  # tables of many columns
_ORDER = 'No random choice: shown first are {}, then those it doubts, then others.'
_NOTES = {
    'clean': _ORDER.format('clean images that the defence accuses wrongly'),
    'some': _ORDER.format('images that the defence accuses'),
}
_VIEWS = ('original', 'given', 'purified')
Pictures = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Cell:
    """A picture and the label that the victim gives it; `wrong` where that is known not to be true. None: there is none."""

    thumb: Thumb | None
    label: str
    wrong: bool


@dataclass(frozen=True)
class Strip:
    """One sample: what is known of it, and its pictures."""

    title: str
    lines: list[str]
    cells: list[Cell]


@dataclass(frozen=True)
class Sheet:
    """Samples of one kind below each other; `note` says how they were picked, where that is not as they come."""

    kind: str
    note: str
    head: list[str]
    strips: list[Strip]


def make_rounds(pictures: Pictures | None, classes: Sequence[str]) -> list[Sheet]:
    """The given image, the last candidate of every round and the purified image, with the victim's labels.

    `pictures` is what the stage `illustrate` wrote, without 'poisoned' and 'true' where nobody knows them.
    """
    if pictures is None:
        return []
    rounds = pictures['rounds'].shape[1]
    head = ['as given', *(f'round {number}' for number in range(1, rounds + 1)), 'purified']

    def cells(row: int) -> list[Cell]:
        images = [pictures['given'][row], *pictures['rounds'][row], pictures['purified'][row]]
        labels = [pictures['raw_labels'][row], *pictures['round_labels'][row], pictures['heat_labels'][row, 2]]
        there = [True] * (1 + rounds) + [bool(pictures['has_purified'][row])]
        return [
            _cell(pictures, row, image, int(label), name, classes) if present else Cell(None, '', False)
            for name, image, label, present in zip(head, images, labels, there, strict=True)
        ]

    return _sheets(pictures, head, cells, lambda row: _tell(pictures, row, classes))


def make_heats(pictures: Pictures | None, classes: Sequence[str]) -> list[Sheet]:
    """The victim's gaze laid over the original, the given and the purified image."""
    if pictures is None:
        return []
    head = ['original', 'gaze', 'as given', 'gaze', 'purified', 'gaze']

    def cells(row: int) -> list[Cell]:
        found = []
        for number, view in enumerate(_VIEWS):
            if view == 'purified' and not pictures['has_purified'][row]:
                found += [Cell(None, '', False)] * 2
                continue
            image, heat, label = pictures[view][row], pictures['heat'][row, number], int(pictures['heat_labels'][row, number])
            found.append(_cell(pictures, row, image, label, view, classes))
            found.append(_cell(pictures, row, lay_over(image, heat), label, f'gaze ({say_place(heat)}) on the {view}', classes))
        return found

    return _sheets(pictures, head, cells, lambda row: _tell(pictures, row, classes)[:2])


def lay_over(image: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """`heat: u8[h w]` in colour over `image: u8[h w c]` in grey -> u8[h w 3]; where there is no heat the image shows."""
    share = heat[..., None].astype(np.float64) / 255
    grey = image.astype(np.float64).mean(-1, keepdims=True)
    colours = 255 * mpl.colormaps['inferno'](heat)[..., :3]
    return np.round(grey * (1 - 0.65 * share) + colours * 0.65 * share).astype(np.uint8)


def say_place(heat: np.ndarray) -> str:
    """Where a map `u8[h w]` is hottest, in words: 'lower right', 'centre', or 'nowhere' for an empty one."""
    if not heat.any():
        return 'nowhere'
    rows, columns = (3 * axis / side for axis, side in zip(np.nonzero(heat == heat.max()), heat.shape, strict=True))
    down, across = (('upper', '', 'lower')[int(rows.mean())], ('left', '', 'right')[int(columns.mean())])
    return f'{down} {across}'.strip() or 'centre'


def _sheets(
    pictures: Pictures, head: list[str], cells: Callable[[int], list[Cell]], tell: Callable[[int], list[str]]
) -> list[Sheet]:
    sheets = []
    poisoned = pictures.get('poisoned')
    everyone = {'some': np.ones(len(pictures['ids']), np.bool_)}
    for kind, own in (everyone if poisoned is None else {'poisoned': poisoned, 'clean': ~poisoned}).items():
        rows = np.flatnonzero(own)[:MAX_ROWS].tolist()
        strips = [Strip(str(int(pictures['ids'][row])), tell(row), cells(row)) for row in rows]
        sheets += [Sheet(kind, _NOTES.get(kind, ''), head, strips)] if strips else []
    return sheets


def _tell(pictures: Pictures, row: int, classes: Sequence[str]) -> list[str]:
    """Classes of a sample, a line each: what it is and was given first."""
    said = {'true': 'true', 'given': 'label', 'now': 'new', 'benign model:': 'answer_benign', 'student:': 'answer_student'}
    return [f'{what} {say_class(int(pictures[name][row]), classes)}' for what, name in said.items() if name in pictures]


def _cell(pictures: Pictures, row: int, image: np.ndarray, label: int, name: str, classes: Sequence[str]) -> Cell:
    said = say_class(label, classes)
    alt = f'{name}, image {int(pictures["ids"][row])}, seen as {said}'
    return Cell(make_thumb(image, alt, SMALL_PX), said, 'true' in pictures and label != int(pictures['true'][row]))
