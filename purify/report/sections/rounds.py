"""How labels change along the rounds of a purification."""

from collections.abc import Sequence

from purify.report.markup import Section, fill
from purify.report.run import Arrays, Finished
from purify.report.strips import Cell, SampleSheet, make_cell, make_sample_sheets, tell


def section(run: Finished) -> Section | None:
    """Shows the last candidate of each round, with its label."""
    sheets = make_rounds(run.pictures, run.results.classes)
    return fill('rounds', 'Rounds', strips=sheets) if sheets else None


def make_rounds(pictures: Arrays | None, classes: Sequence[str]) -> list[SampleSheet]:
    """Makes sheets of the given image, the last candidate of each round, and the purified image.

    `pictures` is what the stage `illustrate` wrote, without 'poisoned' and 'true' where nobody
    knows them.
    """
    if pictures is None:
        return []
    rounds = pictures['rounds'].shape[1]
    head = ['as given', *(f'round {number}' for number in range(1, rounds + 1)), 'purified']

    def cells(row: int) -> list[Cell]:
        images = [pictures['given'][row], *pictures['rounds'][row], pictures['purified'][row]]
        labels = [pictures['raw_labels'][row], *pictures['round_labels'][row]]
        shown = zip(head, images, [*labels, pictures['heat_labels'][row, 2]], strict=True)
        found = [
            make_cell(pictures, row, image, int(label), name, classes)
            for name, image, label in shown
        ]
        return found if pictures['has_purified'][row] else [*found[:-1], Cell(None, '', False)]

    return make_sample_sheets(pictures, head, cells, lambda row: tell(pictures, row, classes))
