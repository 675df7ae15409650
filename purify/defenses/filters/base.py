"""What filters share: they drop images by a classifier's features, and train on the rest."""

from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np

from purify.core.types import Facts, Settings
from purify.data.table import Table
from purify.defenses.measures import Features
from purify.defenses.method import Decision, Method, Step
from purify.defenses.steps import PURIFIED, purified_steps


def filter_method(decision: Decision, student: Settings) -> Method:
    """Lists the steps of a filter: features, its verdicts, purified dataset, student."""
    data = {'poisoned': 'poisoned'}
    steps = (
        Step('features', 'measure', data | {'classifier': 'teacher'}, by=Features()),
        Step('verdicts', 'decide', data | {'features': 'features'}, by=decision),
        *purified_steps(student),
    )
    return Method(steps, replace(PURIFIED, features='features'))


def class_features(
    ids: np.ndarray, labels: np.ndarray, tables: Mapping[str, Table], num_classes: int
) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Yields (class, positions i64[m] in `ids`, features f64[m d]) of every class with images."""
    whole = tables['features'].of(ids, 'features').astype(np.float64)
    for label in range(num_classes):
        rows = np.flatnonzero(labels == label)
        if len(rows):
            yield label, rows, whole[rows]


def lowest(numbers: np.ndarray, ids: np.ndarray, count: int) -> np.ndarray:
    """Marks the `count` lowest of `numbers` [n], bool[n]; equal ones go by `ids`."""
    found = np.zeros(len(ids), np.bool_)
    found[np.lexsort((ids, numbers))[:count]] = True
    return found


def verdicts(
    ids: np.ndarray,
    labels: np.ndarray,
    flagged: np.ndarray,
    columns: dict[str, np.ndarray],
    facts: Facts,
) -> Table:
    """Makes the table of a filter: what is flagged goes, all else stays under its own label."""
    return decided(ids, labels, ~flagged, facts, flagged=flagged, **columns)


def decided(
    ids: np.ndarray, labels: np.ndarray, keep: np.ndarray, facts: Facts, **columns: np.ndarray
) -> Table:
    """Makes the table of a decision by which no image changes: who stays, under which label."""
    kept = {'ids': ids, 'keep': keep, 'labels': labels.astype(np.int32)}
    return Table(kept | {'candidate': np.full(len(ids), -1, np.int32)} | columns, facts)
