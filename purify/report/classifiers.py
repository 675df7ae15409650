"""What results.json says of classifiers: shares of test images; None where nothing was counted.

`counts` are the [hits, n] that each share was counted from, by its name, and `intervals` its 95 %
interval.
"""

from msgspec import UNSET, Struct, UnsetType

from purify.report.quantities import Count, Interval, Label, Number, Pair, Share


class TriggerScores(Struct, frozen=True, kw_only=True):
    """Scores of a classifier under one of several triggers."""

    target: Label
    asr: Share | None = None
    ra: Share | None = None
    counts: dict[str, Pair | None] = {}
    intervals: dict[str, Interval | None] = {}


class ClassifierScores(Struct, frozen=True, kw_only=True):
    """Scores of a classifier on clean and on triggered test images.

    Attributes:
      acc: share of clean test images given their true class.
      asr: share of triggered test images given the target class.
      ra: share of the same images given their true class.
      triggers: one by one, where there are several.
      residual_asr: of the student alone, on triggered test images that were purified themselves.
    """

    acc: Share | None = None
    asr: Share | None = None
    ra: Share | None = None
    counts: dict[str, Pair | None] = {}
    intervals: dict[str, Interval | None] = {}
    triggers: list[TriggerScores] | UnsetType = UNSET
    residual_asr: Share | UnsetType | None = UNSET
    residual_counts: Pair | UnsetType | None = UNSET
    residual_interval: Interval | UnsetType | None = UNSET


class Guarded(ClassifierScores, frozen=True, kw_only=True):
    """Scores of the teacher behind `guard`, a rule that changes test inputs."""

    guard: str | UnsetType = UNSET


class Filtered(ClassifierScores, frozen=True, kw_only=True):
    """Scores of a generator as a classifier, with a share `p_filter` of its errors left out."""

    p_filter: Share


class Diffusion(Struct, frozen=True, kw_only=True):
    """How a generator was used as a classifier, and its scores."""

    draws: Count
    weighting: str
    images: Count
    calls_per_image: Number
    p_filter: Share
    filters: list[Filtered]
