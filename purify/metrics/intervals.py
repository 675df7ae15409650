"""Shares and means with their uncertainty."""

import dataclasses
import math
import statistics
from collections.abc import Sequence

import numpy as np
from scipy import stats

from purify.core.errors import UserError

LEVEL = 0.95  # of confidence, of all intervals


def wilson_interval(hits: int, count: int) -> tuple[float, float]:
    """Wilson's score interval (low, high) of a share, in [0, 1] and around hits / count.

    Wilson 1927; (0, 1) for no samples. Raises `UserError` unless 0 <= hits <= count.
    """
    if not 0 <= hits <= count:
        raise UserError(f'{hits} hits of {count} samples is not a share. Give 0 <= hits <= count.')
    if count == 0:
        return 0.0, 1.0
    z = statistics.NormalDist().inv_cdf((1 + LEVEL) / 2)
    share = hits / count
    centre = (share + z**2 / (2 * count)) / (1 + z**2 / count)
    reach = z / (1 + z**2 / count) * math.sqrt(share * (1 - share) / count + z**2 / (4 * count**2))
    # Exact arithmetic keeps the share inside and the bounds in [0, 1]; rounding may miss by a bit.
    return max(0.0, min(share, centre - reach)), min(1.0, max(share, centre + reach))


@dataclasses.dataclass(frozen=True)
class Rate:
    """A share with its counts: `hits` of `count` samples."""

    hits: int
    count: int

    @property
    def value(self) -> float | None:
        """The share in [0, 1]; None where there is no sample."""
        return self.hits / self.count if self.count else None

    def interval(self) -> tuple[float, float]:
        """Wilson's interval (low, high)."""
        return wilson_interval(self.hits, self.count)


def rate_of(hits: np.ndarray) -> Rate:
    """The share of `hits: bool[n]` that are true."""
    return Rate(int(np.count_nonzero(hits)), int(hits.size))


def pooled(shares: Sequence[Rate]) -> Rate:
    """The share over all samples; if images repeat in `shares`, its interval is too narrow."""
    return Rate(sum(share.hits for share in shares), sum(share.count for share in shares))


@dataclasses.dataclass(frozen=True)
class SeedSpread:
    """Mean, confidence interval (None for one run), smallest and largest of `n` runs."""

    mean: float
    low: float | None
    high: float | None
    min: float
    max: float
    n: int


def over_seeds(values: Sequence[float] | np.ndarray) -> SeedSpread:
    """Mean of `values: f[n]`, one per seed, with Student's t interval and range.

    The interval is not cut to [0, 1] where the values are shares. Raises `UserError` for no values,
    or any not finite.
    """
    runs = np.asarray(values, np.float64)
    if runs.ndim != 1 or not runs.size or not np.isfinite(runs).all():
        raise UserError(f'{values!r} has no mean. Give one finite number per seed, at least one.')
    mean, low, high = float(runs.mean()), None, None
    if runs.size > 1:
        t = stats.t.ppf((1 + LEVEL) / 2, runs.size - 1)
        reach = float(t * runs.std(ddof=1) / math.sqrt(runs.size))
        low, high = mean - reach, mean + reach
    return SeedSpread(mean, low, high, float(runs.min()), float(runs.max()), int(runs.size))
