"""What results.json says of a defence's verdicts: held against the truth, and in the defence's own words."""

from collections.abc import Mapping
from typing import Any

from msgspec import UNSET, Struct, UnsetType

from purify.core.types import Facts, Settings
from purify.report.quantities import Count, Label, Number, Pair, Share

Row = Mapping[str, Any]  # what a method says of one class: columns of its own beside 'label'
Fates = dict[str, Count]  # how many images were 'kept', 'dropped', 'relabelled'


class Rates(Struct, frozen=True, kw_only=True):
    """Shares of the poisoned and of the clean images."""

    tpr: Share | None
    fpr: Share | None


class Fate(Struct, frozen=True, kw_only=True):
    """What became of the images under one label."""

    label: Label
    every: Fates | UnsetType = UNSET
    clean: Fates | None
    poisoned: Fates | None


class Found(Struct, frozen=True, kw_only=True):
    """What a defence says of the images, whatever they are."""

    images: Count
    flagged: Count
    dropped: Count
    relabelled: Count


class DetectionScores(Struct, frozen=True, kw_only=True):
    """The verdicts of a defence, held against the truth; see `purify.evaluation.evaluate.describe_findings`."""

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
    """What the method says of the dataset (`purify.defenses.judgement`): a word, a share of images, a sentence for people."""

    word: str
    share: Share | UnsetType = UNSET
    text: str


class Chart(Struct, frozen=True, kw_only=True):
    """By which quantity labels are scored, and from where on one is named."""

    quantity: str
    threshold: Number


class Thresholds(Struct, frozen=True, kw_only=True):
    """Limits of the tests of class densities, and the share of a class that can be flagged at most."""

    nondisruptive: Number | None = None
    disruptive: Number | None = None
    alpha: Share | None = None


class Findings(Struct, frozen=True, kw_only=True):
    """The facts of a method's verdicts that a report shows; a method notes what it has, and others that no report shows.

    Attributes:
      target_labels: the classes it names.
      labels, chart: of each label a row, and what of it is drawn against which threshold.
      rule: by which rule labels are named.
      sets: how many images fell into which set.
      types: why a class is named, by its label.
      counts: what became of the images of the classes named. classes, size: of methods that cluster
      classes a row each, and the share below which the smaller cluster is flagged.
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
