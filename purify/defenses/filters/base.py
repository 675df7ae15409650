"""What filters share: they drop images by a classifier's features, and train on the rest."""

from collections.abc import Iterator, Mapping

import numpy as np

from purify.core.types import Facts, Settings
from purify.data.table import Table
from purify.defenses.measures import Features
from purify.defenses.method import Decision, Method, Outcome, Step
from purify.defenses.steps import student_step


def filter_method(decision: Decision, student: Settings) -> Method:
    """The steps of a filter: features, verdicts by the decision, purified dataset, student."""
    steps = (
        Step(
            'features', 'measure', {'poisoned': 'poisoned', 'classifier': 'teacher'}, by=Features()
        ),
        Step('verdicts', 'decide', {'poisoned': 'poisoned', 'features': 'features'}, by=decision),
        Step('purified', 'rewrite', {'poisoned': 'poisoned', 'edits': 'verdicts'}),
        student_step(student, 'purified'),
    )
    return Method(
        steps,
        Outcome(
            purified='purified', classifier='student', findings='verdicts', features='features'
        ),
    )


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
    """Which of `numbers` [n] are the `count` lowest, bool[n]; equal ones go by `ids`."""
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
    """The table of a filter: what is flagged goes, all else stays under its own label."""
    kept = {'flagged': flagged, 'keep': ~flagged, 'labels': labels.astype(np.int32)}
    return Table(
        {'ids': ids} | kept | {'candidate': np.full(len(ids), -1, np.int32)} | columns, facts
    )
