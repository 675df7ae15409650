"""FID and the inception score: how like and how varied sets of images are."""

from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np

from purify.core.errors import UserError


@dataclass(frozen=True, eq=False)
class Moments:
    """What FID needs of features, added up piece by piece so that they need not be kept.

    Attributes:
      count: how many rows.
      mean: f64[d].
      scatter: f64[d d], sum of outer products of the rows less their mean.
    """

    count: int
    mean: np.ndarray
    scatter: np.ndarray

    @classmethod
    def of(cls, features: np.ndarray) -> 'Moments':
        """The moments of `features: float[n d]`; n may be 0."""
        rows = _rows(features)
        mean = rows.mean(0) if len(rows) else np.zeros(rows.shape[1])
        return cls(len(rows), mean, (rows - mean).T @ (rows - mean))

    def __add__(self, other: 'Moments') -> 'Moments':
        """The moments of both sets together (Chan 1979), without differences of large sums."""
        count = self.count + other.count
        step, share = other.mean - self.mean, other.count / max(count, 1)
        between = np.outer(step, step) * (self.count * share)
        return Moments(count, self.mean + step * share, self.scatter + other.scatter + between)

    @property
    def covariance(self) -> np.ndarray:
        """Sample covariance f64[d d]; needs two rows or more."""
        return self.scatter / (self.count - 1)


@dataclass(frozen=True, eq=False)
class Answers:
    """What the inception score needs of a set of class probabilities.

    Attributes:
      count: how many rows.
      total: f64[k], sum of the probabilities.
      certainty: sum over rows of sum_k p log p, in nats; 0 log 0 = 0.
    """

    count: int
    total: np.ndarray
    certainty: float

    @classmethod
    def of(cls, logits: np.ndarray) -> 'Answers':
        """The sums over a network's `logits: float[n k]`; n may be 0."""
        rows = _rows(logits)
        rows = rows - rows.max(1, keepdims=True) if len(rows) else rows
        log_p = rows - np.log(np.exp(rows).sum(1, keepdims=True))
        p = np.exp(log_p)
        return cls(len(rows), p.sum(0), float((p * log_p).sum()))

    def __add__(self, other: 'Answers') -> 'Answers':
        count, total = self.count + other.count, self.total + other.total
        return Answers(count, total, self.certainty + other.certainty)


def merged(parts: list[Any]) -> Any:
    """The sum of several `Moments` or `Answers` (at least one), in their order."""
    return reduce(lambda a, b: a + b, parts)


def frechet_distance(a: Moments, b: Moments) -> float | None:
    """FID (Heusel 2017, eq. 6): |m_a - m_b|^2 + tr(A + B - 2 (A B)^(1/2)), at least 0.

    None where a set has fewer than two rows, or a number is not finite. The root's trace is that of
    the symmetric matrix A^(1/2) B A^(1/2), which has the same eigenvalues and no imaginary parts.
    Raises `UserError` for features of unlike width.
    """
    if a.mean.shape != b.mean.shape:
        raise UserError(
            f'features of {a.mean.size} and {b.mean.size} numbers cannot be compared: use one'
            ' network.'
        )
    if min(a.count, b.count) < 2:
        return None
    first, second = a.covariance, b.covariance
    if not all(np.isfinite(x).all() for x in (a.mean, b.mean, first, second)):
        return None
    values, vectors = np.linalg.eigh(first)
    root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    middle = root @ second @ root
    cross = np.sqrt(np.maximum(np.linalg.eigvalsh((middle + middle.T) / 2), 0)).sum()
    distance = np.square(a.mean - b.mean).sum() + np.trace(first) + np.trace(second) - 2 * cross
    return max(0.0, float(distance))


def inception_score(answers: Answers) -> float | None:
    """IS (Salimans 2016): exp of the mean KL(p(y|x) || p(y)), from 1 to the number of classes.

    Over the whole set, not over parts. None for no rows or numbers that are not finite.
    """
    if not answers.count or not np.isfinite([answers.certainty, *answers.total]).all():
        return None
    mean = answers.total / answers.count
    used = mean[mean > 0]
    return float(np.exp(answers.certainty / answers.count - (used * np.log(used)).sum()))


def _rows(values: np.ndarray) -> np.ndarray:
    rows = np.asarray(values, np.float64)
    if rows.ndim != 2:
        raise UserError(f'features are [rows numbers], not {list(rows.shape)}. Flatten each row.')
    return rows
