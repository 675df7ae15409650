"""Samples below each other, each a strip of pictures with the labels that the victim gives them."""

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
    """A picture and the label that the victim gives it; `wrong` where that is known not to be true.

    None: there is none.
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
    """Samples of one kind below each other; `note` says how they were picked, where that is not as they come."""

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
    """Samples of each kind: the cells below `head`, and what to tell of a sample, from its row in `pictures`."""
    sheets = []
    poisoned = pictures.get('poisoned')
    everyone = {'some': np.ones(len(pictures['ids']), np.bool_)}
    for kind, own in (
        everyone if poisoned is None else {'poisoned': poisoned, 'clean': ~poisoned}
    ).items():
        rows = np.flatnonzero(own)[:MAX_ROWS].tolist()
        strips = [
            PictureStrip(str(int(pictures['ids'][row])), tell(row), cells(row)) for row in rows
        ]
        sheets += [SampleSheet(kind, _NOTES.get(kind, ''), head, strips)] if strips else []
    return sheets


def tell(pictures: Arrays, row: int, classes: Sequence[str]) -> list[str]:
    """Classes of a sample, a line each: what it is and was given first."""
    said = {
        'true': 'true',
        'given': 'label',
        'now': 'new',
        'benign model:': 'answer_benign',
        'student:': 'answer_student',
    }
    return [
        f'{what} {say_class(int(pictures[name][row]), classes)}'
        for what, name in said.items()
        if name in pictures
    ]


def make_cell(
    pictures: Arrays, row: int, image: np.ndarray, label: int, name: str, classes: Sequence[str]
) -> Cell:
    """A picture of a sample, what it is called, and the label that the victim gives it."""
    said = say_class(label, classes)
    alt = f'{name}, image {int(pictures["ids"][row])}, seen as {said}'
    return Cell(
        make_thumb(image, alt, SMALL_PX),
        said,
        'true' in pictures and label != int(pictures['true'][row]),
    )
