"""Which labels an attacker aims at, by how the labels of candidates change (Zhou 2024, section 3.4).

Arithmetic on the host, in NumPy; sets, counts and votes are those of `purify.defenses.transitions`.
"""

from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
from scipy.special import bdtrc

from purify.core.errors import UserError
from purify.core.registry import Registry
from purify.defenses.transitions import BENIGN, POISONED

NORMAL_MAD, NORMAL_MEAN = 1.4826, 1.253314  # a normal deviation over its median, and over its mean, absolute deviation
EPSILON = 1e-6


@dataclass(frozen=True)
class Evidence:
    """What is known of each label: arrays [c].

    Attributes:
      images: i64, of the dataset with that given label.
      anomalous: i64, those of P or S.
      left: i64, those of P, and those with that label on fewer than half of their candidates.
      divergence: f64, KL of one-hot y from the labels of C_y (eq. 4), -ln of the share that is y itself, in nats.
      scatter: f64, the same with one more image in C_y, all of whose candidates kept y: so that few images say little.
    """

    images: np.ndarray
    anomalous: np.ndarray
    left: np.ndarray
    divergence: np.ndarray
    scatter: np.ndarray


def gather_evidence(
    labels: np.ndarray, counts: np.ndarray, votes: np.ndarray, sets: np.ndarray, raw: np.ndarray | None
) -> Evidence:
    """Evidence from given labels i32[n], counts [n c], votes i32[n] and sets u8[n].

    The candidates of eq. 4 that P passed over are left out; `raw` i32[n], predicted labels of the raw images, count as
    candidates too where given (as in the released code). Where no candidate is y its share is taken for half of one, so that
    the divergence is a number; where no image is anomalous it is 0.
    """
    num_classes = counts.shape[1]
    size = counts.sum(1, dtype=np.int64)
    own, most = (np.take_along_axis(counts, of[:, None], axis=1)[:, 0].astype(np.int64) for of in (labels, votes))
    passed, anomalous = sets == POISONED, sets != BENIGN
    pool = np.where(passed, most, size)  # of each image, how many of its candidates are in C_y, and how many of them are y
    stayed = np.where(passed & (votes != labels), 0, own)
    if raw is not None:
        pool, stayed = pool + 1, stayed + (raw == labels)

    def sum_up(which: np.ndarray, values: np.ndarray | None = None) -> np.ndarray:
        """Of each label, over its images among `which`."""
        weights = None if values is None else values[which]
        return np.bincount(labels[which], weights, num_classes).astype(np.int64)

    whole, same = sum_up(anomalous, pool), sum_up(anomalous, stayed)
    divergence = np.where(whole > 0, -np.log(np.maximum(same, 0.5) / np.maximum(whole, 1)), 0.0) + 0.0  # no -0
    kept = max(1, int(pool.max(initial=0)))
    scatter = -np.log((same + kept) / (whole + kept)) + 0.0
    left = passed | (2 * own < size)
    return Evidence(sum_up(np.ones(len(labels), bool)), sum_up(anomalous), sum_up(left), divergence, scatter)


def outlier_index(scores: np.ndarray, present: np.ndarray) -> np.ndarray:
    """How far each score f64[c] lies above the median of the present ones bool[c], over their deviation; f64[c].

    The deviation is 1.4826 MAD (Leys 2013). Where more than half of the scores are equal that is 0, and the mean absolute
    deviation takes its place (Iglewicz & Hoaglin 1993). 0 for labels that are not present and where all scores are equal.
    """
    if not present.any():
        return np.zeros(len(scores))
    median = np.median(scores[present])
    apart = np.abs(scores[present] - median)
    deviation = NORMAL_MAD * (np.median(apart) + EPSILON) if np.median(apart) > 0 else NORMAL_MEAN * (apart.mean() + EPSILON)
    return np.where(present, (scores - median) / deviation, 0.0)


def departure_p_values(evidence: Evidence) -> np.ndarray:
    """For each label, how likely as many of its images leave it, were it like the others; f64[c], 1 for absent ones.

    The others are spoken for by the one whose share of leavers is their lower median (of equal shares, fewer images first): up
    to half of them may be targets themselves. One-sided, exact: P(Bin(images, p) >= left) with p = (left + 1) / (images + 1) of
    that reference, so that a reference without leavers does not make one leaver a miracle. 1 where there is no other label to
    compare with.
    """
    present = np.flatnonzero(evidence.images)
    p_values = np.ones(len(evidence.images))
    for label in present:
        others = present[present != label]
        if not len(others) or not evidence.left[label]:
            continue
        shares = evidence.left[others] / evidence.images[others]
        reference = others[np.lexsort((evidence.images[others], shares))[(len(others) - 1) // 2]]
        p = min(1.0, (evidence.left[reference] + 1) / (evidence.images[reference] + 1))
        p_values[label] = bdtrc(float(evidence.left[label] - 1), int(evidence.images[label]), p)
    return p_values


class TargetRule(Protocol):
    """Says which labels an attacker aims at; `chart` names what a bar chart of it shows: a key of `describe`, its threshold."""

    name: ClassVar[str]

    @property
    def chart(self) -> tuple[str, float]:
        """('score' or 'index', threshold)."""
        ...

    def scores(self, evidence: Evidence) -> np.ndarray:
        """f64[c], higher where more suspect."""
        ...

    def targets(self, evidence: Evidence) -> np.ndarray:
        """bool[c]."""
        ...


@dataclass(frozen=True)
class Mad:
    """The paper's rule (section 3.4): a label whose score lies more than `threshold` deviations from the median of all.

    On small datasets it calls labels of benign datasets targets; with two labels it never finds one. Where the median absolute
    deviation is 0 the mean one takes its place (`outlier_index`). Labels without anomalous images are no targets.

    Attributes:
      threshold: 2 in the paper.
      score: 'kl', or 'count' of the anomalous images.
      two_sided: whether unusually clean labels are called targets too, as in the released code.
    """

    threshold: float
    score: str
    two_sided: bool

    name: ClassVar[str] = 'mad'

    def __post_init__(self) -> None:
        if self.score not in ('kl', 'count') or not self.threshold > 0:
            raise UserError(
                f'defense.targets: score={self.score!r}, threshold={self.threshold}; choose kl or count, and a positive threshold.'
            )

    @property
    def chart(self) -> tuple[str, float]:
        """The index."""
        return 'index', self.threshold

    def scores(self, evidence: Evidence) -> np.ndarray:
        """As of `TargetRule`."""
        return evidence.divergence if self.score == 'kl' else evidence.anomalous.astype(np.float64)

    def targets(self, evidence: Evidence) -> np.ndarray:
        """As of `TargetRule`."""
        index = outlier_index(self.scores(evidence), evidence.images > 0)
        return ((np.abs(index) if self.two_sided else index) > self.threshold) & (evidence.anomalous > 0)


@dataclass(frozen=True)
class Significant:
    """The default: a label whose candidates scatter far beyond its peers', and that more images leave than chance allows.

    The paper's index counts in deviations of the labels at hand, and of ten benign labels one is an outlier in every other
    dataset. This asks for size, in nats, and for evidence. Both hold a label against the lower median of the others, so up to
    half of the labels may be targets, and two labels are enough. No truth is needed for its two numbers.

    Attributes:
      score: least excess of `Evidence.scatter` over the others' lower median, in nats.
      level: of the test for leavers (`departure_p_values`), for all labels of the dataset together.
    """

    score: float
    level: float

    name: ClassVar[str] = 'significant'

    def __post_init__(self) -> None:
        if not self.score >= 0 or not 0 < self.level < 1:
            raise UserError(
                f'defense.targets: score={self.score} must be 0 or more nats, and level={self.level} lie between 0 and 1.'
            )

    @property
    def chart(self) -> tuple[str, float]:
        """The excess."""
        return 'score', self.score

    def scores(self, evidence: Evidence) -> np.ndarray:
        """As of `TargetRule`."""
        present = np.flatnonzero(evidence.images)
        excess = np.zeros(len(evidence.images))
        for label in present:
            others = np.sort(evidence.scatter[present[present != label]])
            excess[label] = evidence.scatter[label] - others[(len(others) - 1) // 2] if len(others) else 0.0
        return excess

    def targets(self, evidence: Evidence) -> np.ndarray:
        """As of `TargetRule`."""
        level = self.level / max(1, np.count_nonzero(evidence.images))
        return (self.scores(evidence) > self.score) & (departure_p_values(evidence) < level)


TARGETS = Registry('rule for target labels', mad=Mad, significant=Significant)


def make_target_rule(settings: dict[str, Any]) -> TargetRule:
    """`{'name': 'mad', ...}` -> the rule."""
    return TARGETS.make(settings.get('name', ''), **{key: value for key, value in settings.items() if key != 'name'})


def describe(rule: TargetRule, evidence: Evidence) -> dict[str, Any]:
    """What a rule made of the evidence, for JSON and the report's bar chart.

    {'target_labels': [..], 'rule': {'name', its attributes}, 'chart': {'quantity': 'score' or 'index', 'threshold'},
    'labels': [{'label', 'images', 'anomalous', 'left', 'score', 'index', 'p_value', 'target'}, ...]}
    """
    scores, targets = rule.scores(evidence), rule.targets(evidence)
    columns = {
        'images': evidence.images,
        'anomalous': evidence.anomalous,
        'left': evidence.left,
        'score': scores,
        'index': outlier_index(scores, evidence.images > 0),
        'p_value': departure_p_values(evidence),
        'target': targets,
    }
    quantity, threshold = rule.chart
    return {
        'target_labels': np.flatnonzero(targets).tolist(),
        'rule': {'name': rule.name} | vars(rule),
        'chart': {'quantity': quantity, 'threshold': threshold},
        'labels': [
            {'label': label} | {name: column[label].item() for name, column in columns.items()} for label in range(len(scores))
        ],
    }
