"""Images before the attack, as the defence saw them, and after it: as thumbnails in a table."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from purify.report.markup import Section, fill
from purify.report.run import Finished, Sample
from purify.report.thumbs import MAX_COLUMNS, GridRow, Thumb, make_thumb
from purify.report.words import MISSING

MAX_SAMPLES = 16  # of a kind; keeps the page at a few MB
View = Literal['original', 'poisoned', 'purified']


@dataclass(frozen=True)
class Grid:
    """Samples of one kind in columns: rows of images over their labels, also after the defence.

    `true_labels` is None where nobody knows them.
    """

    rows: list[GridRow]
    true_labels: list[str] | None
    given_labels: list[str]
    labels_after: list[str] | None
    ids: list[int]


def section(run: Finished) -> Section | None:
    """Shows tables of the samples of each kind."""
    kinds = dict.fromkeys(sample['kind'] for sample in run.samples)
    galleries = [(kind, *make_grids(run.samples, kind)) for kind in kinds]
    return fill('images', 'Images', galleries=galleries) if galleries else None


def make_grids(samples: Sequence[Sample], kind: str) -> tuple[list[Grid], int]:
    """Lays samples of one kind out in grids of up to `MAX_COLUMNS`; says how many were left out."""
    chosen = [sample for sample in samples if sample['kind'] == kind]
    shown = chosen[:MAX_SAMPLES]
    starts = range(0, len(shown), MAX_COLUMNS)
    grids = [_make_grid(shown[i : i + MAX_COLUMNS], kind) for i in starts]
    return grids, len(chosen) - len(shown)


def _make_grid(samples: Sequence[Sample], kind: str) -> Grid:
    poisoned = 'poisoned' if kind == 'poisoned' else 'as given'
    views: dict[View, str] = {'original': 'original', 'poisoned': poisoned, 'purified': 'purified'}
    rows = [
        GridRow(name, [_thumb(sample, sample[view], name) for sample in samples])
        for view, name in views.items()
    ]
    rows = [row for row in rows if any(row.thumbs)]
    true = [sample['true_label'] for sample in samples]
    after = [sample.get('label_after') for sample in samples]
    moved = [MISSING if label is None else str(label) for label in after]
    known = None if all(label is None for label in after) else moved
    sure = None if None in true else list(map(str, true))
    given = [str(sample['given_label']) for sample in samples]
    return Grid(rows, sure, given, known, [int(sample['id']) for sample in samples])


def _thumb(sample: Sample, image: np.ndarray | None, name: str) -> Thumb | None:
    if image is None:
        return None
    truth = '' if sample['true_label'] is None else f'{sample["true_label"]} '
    alt = f'{name} image {sample["id"]}, {truth}labelled {sample["given_label"]}'
    return make_thumb(np.asarray(image), alt)
