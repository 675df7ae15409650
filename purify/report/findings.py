"""What results.json says of a defence's verdicts: how right they are, and the method's facts."""

from collections.abc import Mapping
from typing import Any

from msgspec import UNSET, Struct, UnsetType

from purify.core.types import Facts, Settings
from purify.report.quantities import Count, Label, Number, Pair, Share

Row = Mapping[str, Any]  # what a method says of one class: columns of its own beside 'label'
Fates = dict[str, Count]  # how many images were 'kept', 'dropped', 'relabelled'


class Rates(Struct, frozen=True, kw_only=True):
    """Shares of the poisoned (TPR) and of the clean images (FPR)."""

    tpr: Share | None
    fpr: Share | None


class Fate(Struct, frozen=True, kw_only=True):
    """What became of the images under one label."""

    label: Label
    every: Fates | UnsetType = UNSET
    clean: Fates | None
    poisoned: Fates | None


class Found(Struct, frozen=True, kw_only=True):
    """How many images a defence flagged, dropped and relabelled, rightly or not."""

    images: Count
    flagged: Count
    dropped: Count
    relabelled: Count


class DetectionScores(Struct, frozen=True, kw_only=True):
    """How right a defence's verdicts are; see `purify.evaluation.evaluate.describe_findings`."""

    found: Found | None = None
    tpr: Share | None
    fpr: Share | None
    target_labels: list[Label] | None
    label_accuracy: Share | None
    removed: Rates | None = None
    relabel_accuracy: Share | None = None
    relabel_accuracy_poisoned: Share | None = None
    counts: dict[str, Pair] | None = None
    auroc: Share | None = None
    fates: list[Fate] | None = None


class Verdict(Struct, frozen=True, kw_only=True):
    """A method's verdict on the whole dataset, with a sentence (`purify.defenses.judgement`)."""

    word: str
    share: Share | UnsetType = UNSET
    text: str


class Chart(Struct, frozen=True, kw_only=True):
    """The quantity by which labels are scored, and the threshold beyond which one is named."""

    quantity: str
    threshold: Number


class Thresholds(Struct, frozen=True, kw_only=True):
    """Limits of the tests of class densities, and the largest share of a class to be flagged."""

    nondisruptive: Number | None = None
    disruptive: Number | None = None
    alpha: Share | None = None


class Findings(Struct, frozen=True, kw_only=True):
    """The facts of a method's verdicts that a report shows; each method fills in those it has.

    Attributes:
      target_labels: the classes it names.
      labels, chart: a row for each label, and which column is drawn against which threshold.
      rule: by which rule labels are named.
      sets: how many images fell into which set.
      types: why a class is named, by its label.
      counts: what became of the images of the classes named.
      classes, size: for methods that cluster classes, a row each, and the share below which the
        smaller cluster is flagged.
      comparable: whether scores of two classes may be compared.
    """

    target_labels: list[Label] | None = None
    labels: list[Facts] = []
    chart: Chart | None = None
    rule: Settings = {}
    thresholds: Thresholds = Thresholds()
    sets: dict[str, Count] = {}
    types: dict[str, str] = {}
    counts: Fates | None = None
    classes: list[Facts] = []
    size: Number | None = None
    comparable: bool = False
