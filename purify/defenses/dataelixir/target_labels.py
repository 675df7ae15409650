"""Decides which labels an attacker aims at, by how labels change (Zhou 2024, section 3.4)."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, ClassVar, Protocol

import numpy as np

from purify.core.limits import Limited, NotNegative, Positive, Share, ShareOrZero, one_of
from purify.core.registry import Registry
from purify.core.types import Facts, Settings
from purify.defenses.dataelixir.evidence import ENOUGH, Evidence
from purify.defenses.judgement import HEDGE, UNUSUAL, judgement
from purify.defenses.outliers import (
    FEW,
    ONE_WAY,
    UNUSUAL_FEW,
    departure_p_values,
    excess,
    lower_median,
    outlier_index,
    pooled_p_values,
)

HELD = 0.25  # of the images that leave, the least share that a trigger held to their label


class TargetRule(Protocol):
    """Says which labels an attacker aims at."""

    name: ClassVar[str]

    @property
    def chart(self) -> tuple[str, float]:
        """Says what a bar chart shows, 'score' or 'index', and its threshold."""
        ...

    def scores(self, evidence: Evidence) -> np.ndarray:
        """Scores each label, f64[c], higher where more suspect."""
        ...

    def p_values(self, evidence: Evidence) -> np.ndarray:
        """Tests how likely so many images leave each label by chance, f64[c]."""
        ...

    def suspects(self, evidence: Evidence) -> np.ndarray:
        """Marks the labels bool[c] that an unusual part of their images leaves."""
        ...

    def targets(self, evidence: Evidence) -> np.ndarray:
        """Marks the `suspects` bool[c] that a trigger explains."""
        ...


@dataclass(frozen=True)
class Mad(Limited, TargetRule, place='defense.targets.'):
    """The paper's rule: labels more than `threshold` deviations above the median score (3.4).

    On small datasets it calls labels of benign datasets targets; with two labels it never finds
    one. Where the median absolute deviation is 0 the mean one takes its place (`outlier_index`).
    Labels without anomalous images are no targets.

    Attributes:
      threshold: 2 in the paper.
      score: 'kl', or 'count' of the anomalous images.
      two_sided: whether unusually clean labels are called targets too, as in the released code.
    """

    threshold: Positive = 2.0
    score: Annotated[str, one_of(('kl', 'count'))] = 'kl'
    two_sided: bool = False

    name: ClassVar[str] = 'mad'

    @property
    def chart(self) -> tuple[str, float]:
        """See `TargetRule`: the index."""
        return 'index', self.threshold

    def scores(self, evidence: Evidence) -> np.ndarray:
        """See `TargetRule`."""
        return evidence.divergence if self.score == 'kl' else evidence.anomalous.astype(np.float64)

    def p_values(self, evidence: Evidence) -> np.ndarray:
        """See `TargetRule`; the rule itself does not ask."""
        return departure_p_values(evidence.images, evidence.left)

    def suspects(self, evidence: Evidence) -> np.ndarray:
        """See `TargetRule`."""
        index = outlier_index(self.scores(evidence), evidence.images > 0)
        index = np.abs(index) if self.two_sided else index
        return (index > self.threshold) & (evidence.anomalous > 0)

    def targets(self, evidence: Evidence) -> np.ndarray:
        """All suspects: the paper asks no more."""
        return self.suspects(evidence)


@dataclass(frozen=True)
class Significant(Limited, TargetRule, place='defense.targets.'):
    """The default: labels that stand out by more than the others differ, and not by chance.

    The paper's index counts in deviations of the labels at hand, and of ten benign labels one is an
    outlier in every other dataset. This asks two questions, of which one suffices.

    Are its candidates scattered (`Evidence.scatter`) farther than usual, by `score` nats and by
    `deviations` of the other labels'? Then more of its images must leave than chance allows, or,
    among more than `FEW` labels, more of its anomalous ones be gone for good (`Evidence.gone`,
    `ENOUGH` at least): of a hard class many images leave, but not so far.

    Have its images another label for good (`Evidence.moved`), `share` of them more than usual, and
    by so many deviations? Then these must be more than chance allows, both of its images and of its
    anomalous ones.

    What is usual is the lower median of the others, so up to half of the labels may be targets
    where each has images enough (with fewer than five labels, whose differences nobody knows, the
    share must be .1). No truth is needed for its numbers; how often it errs, on made-up datasets,
    stands in docs/results/decision-worlds.

    A suspect is a target where its images leave for more than one label (asked where there are
    three and more), as a trigger's do, and labels confused by mistake do not. Where images leave
    most labels, as in a dataset with wrong labels throughout, the classifier must take at least a
    quarter of them for what they are labelled before they are noised: a trigger holds them there.
    Else the labels are wrong without a trigger.

    Attributes:
      score: least excess of the scatter, in nats.
      share: least excess of the share of images that moved.
      deviations: of the usual labels, for both.
      level: of the three tests (`departure_p_values`, `pooled_p_values`), for all labels of the
        dataset together.
    """

    score: NotNegative = 0.5
    share: ShareOrZero = 0.03
    deviations: NotNegative = 5.0
    level: Share = 0.05

    name: ClassVar[str] = 'significant'

    @property
    def chart(self) -> tuple[str, float]:
        """The larger excess, counted in the least that is asked for."""
        return 'score', 1.0

    def _both(self, evidence: Evidence) -> tuple[np.ndarray, np.ndarray]:
        """The excess f64[c] and p-value f64[c] of the question that says more against a label."""
        present, shares = evidence.images > 0, evidence.moved / np.maximum(evidence.images, 1)
        scattered = excess(evidence.scatter, present, least=self.score, deviations=self.deviations)
        few = {'of_few': UNUSUAL_FEW, 'images': evidence.images}
        gone = excess(shares, present, least=self.share, deviations=self.deviations, **few)
        asked = np.stack([scattered, gone])
        left = departure_p_values(evidence.images, evidence.left)
        moved = departure_p_values(evidence.images, evidence.moved)
        gone_of = pooled_p_values(evidence.anomalous, evidence.gone)
        moved_of = pooled_p_values(evidence.anomalous, evidence.moved)
        gone_of = np.where((evidence.gone >= ENOUGH) & (present.sum() > FEW), gone_of, 1.0)
        p_values = np.stack([np.minimum(left, gone_of), np.maximum(moved, moved_of)])
        better = np.lexsort((asked, p_values < self._level(evidence)), axis=0)[-1]
        columns = np.arange(len(shares))
        return asked[better, columns], p_values[better, columns]

    def _level(self, evidence: Evidence) -> float:
        return self.level / max(1, np.count_nonzero(evidence.images)) / 3  # three tests

    def scores(self, evidence: Evidence) -> np.ndarray:
        """See `TargetRule`; beyond 1 is enough."""
        return self._both(evidence)[0]

    def p_values(self, evidence: Evidence) -> np.ndarray:
        """See `TargetRule`; of the question that `scores` answers."""
        return self._both(evidence)[1]

    def suspects(self, evidence: Evidence) -> np.ndarray:
        """See `TargetRule`."""
        asked, p_values = self._both(evidence)
        return (asked > 1) & (p_values < self._level(evidence))

    def targets(self, evidence: Evidence) -> np.ndarray:
        """See `TargetRule`."""
        suspects, present = self.suspects(evidence), evidence.images > 0
        shares = evidence.moved[present] / evidence.images[present]
        usual = lower_median(shares) if present.any() else 0.0
        held = (evidence.held >= HELD) | (usual <= UNUSUAL)
        one_way, plain = evidence.one_way > ONE_WAY, suspects & (evidence.moved >= ENOUGH)
        # then few images of a label do not speak against it
        if plain.any() and one_way[plain].mean() > 0.5:
            one_way = one_way | ~plain
        return suspects & held & ~one_way


def judge(evidence: Evidence, suspects: np.ndarray, targets: np.ndarray) -> Facts:
    """Judges a dataset by its suspect labels bool[c], and the targets among them."""
    images, moved = int(evidence.images.sum()), int(evidence.moved.sum())
    share, labels = moved / max(1, images), np.count_nonzero(evidence.images)
    everywhere = share > (UNUSUAL if labels > FEW else UNUSUAL_FEW)
    if targets.any():
        gone = evidence.left[targets].sum() / evidence.images[targets].sum()
        text = (
            f"{targets.sum()} of {labels} labels look like an attacker's aim: {gone:.1%} of their"
            ' images leave them for other labels when they are noised.'
        )
        return judgement('attacked', share, text + (HEDGE if labels == 2 else ''))
    held = np.average(evidence.held, weights=evidence.moved) if moved else 0.0
    if suspects.any() or (everywhere and held < 0.5):
        text = (
            f'{share:.1%} of all images leave their label for good, and most look mislabelled:'
            ' their labels were confused with another, or the classifier does not believe them. An'
            ' attack from one class to one other would look alike.'
        )
        return judgement('mislabelled', share, text)
    if everywhere:
        text = (
            f'{share:.1%} of all images leave their label for good, under all labels alike. Labels'
            ' that are wrong and were learned by heart look like this, and so does an attack on'
            ' most labels at once (all-to-all). No label is named.'
        )
        return judgement('unexplained', share, text)
    text = f'No label stands out; {share:.1%} of all images leave theirs for good, which is usual.'
    return judgement('clean', share, text)


TARGETS: Registry[Callable[..., TargetRule]] = Registry(
    'rule for target labels', mad=Mad, significant=Significant
)


def make_target_rule(settings: Settings) -> TargetRule:
    """Makes the rule that settings such as `{'name': 'mad', ...}` describe."""
    options = dict(settings)
    return TARGETS.make(options.pop('name', ''), **options)


def describe_targets(rule: TargetRule, evidence: Evidence) -> Facts:
    """Describes what a rule concludes from the evidence, for JSON and the report's bar chart.

    {'target_labels': [..], 'suspect_labels': [.. those and others whose labels are wrong],
    'verdict' (`judge`), 'rule': {'name', its attributes}, 'chart': {'quantity': 'score' or 'index',
    'threshold'}, 'labels': [{'label', 'images', 'anomalous', 'left', 'moved', 'gone', 'held',
    'score', 'index', 'p_value', 'suspect', 'target'}, ...]}
    """
    scores, suspects = rule.scores(evidence), rule.suspects(evidence)
    targets, index = rule.targets(evidence), outlier_index(scores, evidence.images > 0)
    known = ('images', 'anomalous', 'left', 'moved', 'gone', 'held')
    columns = {name: getattr(evidence, name) for name in known}
    columns |= {'score': scores, 'index': index, 'p_value': rule.p_values(evidence)}
    columns |= {'suspect': suspects, 'target': targets}
    quantity, threshold = rule.chart
    return {
        'target_labels': np.flatnonzero(targets).tolist(),
        'suspect_labels': np.flatnonzero(suspects).tolist(),
        'verdict': judge(evidence, suspects, targets),
        'rule': {'name': rule.name} | vars(rule),
        'chart': {'quantity': quantity, 'threshold': threshold},
        'labels': [
            {'label': label} | {name: column[label].item() for name, column in columns.items()}
            for label in range(len(scores))
        ],
    }
