"""Activation clustering (Chen et al. 2019, arXiv:1811.03728)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np

from purify.core.limits import Count, Limited, ShareOrZero, number, one_of
from purify.core.randomness import stream_seed
from purify.core.types import Settings
from purify.data.table import Table
from purify.defenses.filters.base import class_features, filter_method, verdicts
from purify.defenses.method import Decision, Defense, Method
from purify.defenses.needs import Needs

REDUCTIONS = ('ica', 'pca')
MOST = 5000  # points of a silhouette, whose distances grow with their square
FEWEST = 10  # images of a class; among fewer, two clusters say nothing


@dataclass(frozen=True)
class ActivationClustering(Limited, Decision, Defense, place='defense.'):
    """Drops the smaller of two clusters of each class's features, where it is small.

    Attributes:
      reduction: 'ica' (the paper's) or 'pca', of the features before they are clustered; see
        `reduce_features`.
      dimensions: how many are left by it.
      size: a cluster below this share of its class is poison (the paper's section on relative size;
        .35 in its code).
      silhouette: two clusters count as two where their mean silhouette coefficient lies above it; 0
        does not ask, and then none is computed (see `clearness`).
    """

    reduction: Annotated[str, one_of(REDUCTIONS)] = 'ica'
    dimensions: Count = 10
    size: Annotated[float, number(above=0, most=0.5)] = 0.35
    silhouette: ShareOrZero = 0.0

    needs: ClassVar[Needs] = Needs(dataset=True)

    def method(self, student: Settings) -> Method:
        """The steps: features, verdicts, purified dataset, student."""
        return filter_method(self, student)

    def decide(
        self, ids: np.ndarray, labels: np.ndarray, tables: Mapping[str, Table], num_classes: int
    ) -> Table:
        """See `Decision`; reads the table 'features'.

        Column `cluster` i32[n]: 1 in the smaller cluster of a class, 0 in the other and where
        nothing was split. Facts: `target_labels`, the classes with a small cluster, and of every
        class its images, the smaller cluster's share, the mean silhouette coefficient (None where
        it is not asked for), and in how many dimensions the clusters were sought.
        """
        cluster, flagged, facts = np.zeros(len(ids), np.int32), np.zeros(len(ids), np.bool_), []
        for label, rows, features in class_features(ids, labels, tables, num_classes):
            dimensions = self.dimensions if len(rows) >= FEWEST else 0
            reduced = reduce_features(features, self.reduction, dimensions)
            smaller = two_clusters(reduced)
            share = float(smaller.mean())
            silhouette = clearness(reduced, smaller) if self.silhouette else None
            small = 0 < share < self.size and (silhouette is None or silhouette > self.silhouette)
            cluster[rows], flagged[rows] = smaller, smaller & small
            facts.append(
                {'label': label, 'images': len(rows), 'share': share, 'silhouette': silhouette}
                | {'dimensions': reduced.shape[1], 'flagged': small}
            )
        targets = [row['label'] for row in facts if row['flagged']]
        limits = {'size': self.size, 'silhouette': self.silhouette}
        found = {'target_labels': targets, 'classes': facts} | limits
        return verdicts(ids, labels, flagged, {'cluster': cluster}, found)


def reduce_features(features: np.ndarray, reduction: str, dimensions: int) -> np.ndarray:
    """Reduces features f64[m d] to their first k principal components f64[m k].

    'ica' brings these to variance 1: independent components are but a rotation of that, and neither
    k-means nor a silhouette sees one. k is `dimensions`, or less where the features have fewer,
    since rounding errors at variance 1 would be features too.
    """
    left, sizes, _ = np.linalg.svd(features - features.mean(0), full_matrices=False)
    count = min(dimensions, int((sizes > 1e-6 * np.linalg.norm(features)).sum()))
    return left[:, :count] * (len(features) ** 0.5 if reduction == 'ica' else sizes[:count])


def two_clusters(points: np.ndarray) -> np.ndarray:
    """Splits points f64[m k] by k-means into two clusters; bool[m], true in the smaller.

    The best of ten starts, the same ten every time, on one thread, since the order of sums is that
    of the threads: the verdicts are a function of the features, however many cores there are.
    Without dimensions there is but one cluster: false everywhere.
    """
    from sklearn.cluster import KMeans
    from threadpoolctl import threadpool_limits

    if not points.shape[1]:
        return np.zeros(len(points), np.bool_)
    with threadpool_limits(1):
        means = KMeans(2, n_init=10, random_state=stream_seed(0, 'clusters'))  # pyright: ignore[reportArgumentType]
        second = means.fit_predict(points) == 1
    return second if second.mean() < 0.5 else ~second


def clearness(points: np.ndarray, smaller: np.ndarray) -> float:
    """Measures how clearly cluster `smaller` bool[m] and the rest are two (Rousseeuw 1987).

    Of `MOST` points f64[m k] at most, drawn from each cluster as its share asks, always the same
    ones; 0 where a cluster is empty.
    """
    from sklearn.metrics import silhouette_score

    if not smaller.any() or smaller.all():
        return 0.0
    if len(points) > MOST:
        order = np.random.default_rng(stream_seed(0, 'silhouette')).permutation(len(points))
        # Of the smaller one: a plain draw might hold none of it.
        taken = max(1, round(MOST * smaller.mean()))
        few, many = order[smaller[order]][:taken], order[~smaller[order]][: MOST - taken]
        kept = np.sort(np.concatenate([few, many]))
        points, smaller = points[kept], smaller[kept]
    return float(silhouette_score(points, smaller))
