"""Spectral signatures (Tran, Li, Madry 2018, arXiv:1811.00636)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np

from purify.core.limits import Limited, number
from purify.core.types import Settings
from purify.data.table import Table
from purify.defenses.filters.base import class_features, filter_method, verdicts
from purify.defenses.method import Decision, Defense, Method
from purify.defenses.needs import Needs


@dataclass(frozen=True)
class Spectral(Limited, Decision, Defense, place='defense.'):
    """Drops the images of every class that lie farthest along its features' main direction.

    Attributes:
      remove: share of every class that goes. The paper removes 1.5 times an upper bound of the
        poisoned images, which it takes as known; at most half of a class. It bounds what is found:
        where poison is 10 of 19 parts of the target class (10 % of ten classes), .15 finds at most
        28.5 %.
    """

    remove: Annotated[float, number(above=0, most=0.5)] = 0.15

    needs: ClassVar[Needs] = Needs(dataset=True)

    def method(self, student: Settings) -> Method:
        """The steps: features, verdicts, purified dataset, student."""
        return filter_method(self, student)

    def decide(
        self, ids: np.ndarray, labels: np.ndarray, tables: Mapping[str, Table], num_classes: int
    ) -> Table:
        """See `Decision`; reads the table 'features'.

        Column `score` f64[n] is bigger where likelier poisoned. There is no fact `target_labels`:
        every class loses the same share.
        """
        score, flagged, facts = np.zeros(len(ids)), np.zeros(len(ids), np.bool_), []
        for label, rows, features in class_features(ids, labels, tables, num_classes):
            own = spectral_scores(features)
            first = np.lexsort((ids[rows], -own))[: int(self.remove * len(rows) + 1e-9)]
            score[rows], flagged[rows[first]] = own, own[first] > 0
            facts.append({'label': label, 'images': len(rows), 'removed': int(flagged[rows].sum())})
        found = {'classes': facts, 'remove': self.remove}
        return verdicts(ids, labels, flagged, {'score': score}, found)


def spectral_scores(features: np.ndarray) -> np.ndarray:
    """Scores features f64[m d] by how far they lie along their main direction: f64[m] (Alg. 1)."""
    centred = features - features.mean(0)
    return (centred @ np.linalg.svd(centred, full_matrices=False)[2][0]) ** 2
