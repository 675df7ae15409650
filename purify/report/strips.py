"""Sheets of samples: a row of pictures each, with the classes that the teacher sees in them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from purify.report.run import Arrays
from purify.report.thumbs import Thumb, make_thumb
from purify.report.words import say_class

MAX_ROWS = 4  # samples of a kind in a table
SMALL_PX = 64  # tables of many columns
_ORDER = 'No random choice: shown first are {}, then those it doubts, then others.'
_NOTES = {
    'clean': _ORDER.format('clean images that the defence accuses wrongly'),
    'some': _ORDER.format('images that the defence accuses'),
}


@dataclass(frozen=True)
class Cell:
    """A picture and the class that the teacher sees in it; `wrong` if that is known to be false.

    `thumb` is None where the sample has no such picture.
    """

    thumb: Thumb | None
    label: str
    wrong: bool


@dataclass(frozen=True)
class PictureStrip:
    """One sample: what is known of it, and its pictures."""

    title: str
    lines: list[str]
    cells: list[Cell]


@dataclass(frozen=True)
class SampleSheet:
    """Rows of pictures, one for each sample of a kind; `note` says how the samples were picked."""

    kind: str
    note: str
    head: list[str]
    strips: list[PictureStrip]


def make_sample_sheets(
    pictures: Arrays,
    head: list[str],
    cells: Callable[[int], list[Cell]],
    tell: Callable[[int], list[str]],
) -> list[SampleSheet]:
    """Makes a sheet for each kind of sample; `cells` and `tell` fill the row of a sample."""
    sheets, ids, poisoned = [], pictures['ids'].tolist(), pictures.get('poisoned')
    kinds = {'some': np.ones(len(ids), np.bool_)}
    if poisoned is not None:
        kinds = {'poisoned': poisoned, 'clean': ~poisoned}
    for kind, own in kinds.items():
        rows = np.flatnonzero(own)[:MAX_ROWS].tolist()
        strips = [PictureStrip(str(ids[row]), tell(row), cells(row)) for row in rows]
        sheets += [SampleSheet(kind, _NOTES.get(kind, ''), head, strips)] if strips else []
    return sheets


def tell(pictures: Arrays, row: int, classes: Sequence[str]) -> list[str]:
    """Lists the classes of a sample, one line each: what it is and what it was taken for."""
    said = {'true': 'true', 'given': 'label', 'now': 'new'}
    said |= {'benign model:': 'answer_benign', 'student:': 'answer_student'}
    return [
        f'{what} {say_class(int(pictures[name][row]), classes)}'
        for what, name in said.items()
        if name in pictures
    ]


def make_cell(
    pictures: Arrays, row: int, image: np.ndarray, label: int, name: str, classes: Sequence[str]
) -> Cell:
    """Makes the cell of one of a sample's pictures, with a text for those who cannot see it."""
    said = say_class(label, classes)
    alt = f'{name}, image {int(pictures["ids"][row])}, seen as {said}'
    wrong = 'true' in pictures and label != int(pictures['true'][row])
    return Cell(make_thumb(image, alt, SMALL_PX), said, wrong)
