"""A filter in a file of its own: it drops what lies far from its class."""

from dataclasses import dataclass

import numpy as np

from purify.defenses.filters.base import class_features, filter_method, verdicts
from purify.defenses.method import Decision, Defense


@dataclass(frozen=True)
class Distant(Decision, Defense):
    """Of every class the `share` of images farthest from its mean goes."""

    share: float = 0.1

    def method(self, student):
        return filter_method(self, student)

    def decide(self, ids, labels, tables, num_classes):
        far = np.zeros(len(ids), np.bool_)
        for _, rows, features in class_features(ids, labels, tables, num_classes):
            distance = np.linalg.norm(features - features.mean(0), axis=1)
            far[rows[np.argsort(-distance)[: int(self.share * len(rows))]]] = True
        return verdicts(ids, labels, far, {}, {'share': self.share})
