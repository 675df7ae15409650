"""What results.json holds: types that a file is checked against before anyone computes with it.

A number is None where it was not measured, or where nobody knows the truth that it needs (`truth_known` false).
"""

from collections.abc import Mapping
from typing import Annotated, Any, NotRequired, TypedDict

from msgspec import Meta

Share = Annotated[float, Meta(ge=0, le=1)]
Number = Annotated[float, Meta(ge=-1e15, le=1e15)]
Count = Annotated[int, Meta(ge=0, le=2**53)]
Label = Annotated[int, Meta(ge=0, le=2**31)]
Pair = Annotated[list[Count], Meta(min_length=2, max_length=2)]  # hits, of so many
Interval = Annotated[list[Share], Meta(min_length=2, max_length=2)]


def is_known(results: Mapping[str, Any]) -> bool:
    """Whether somebody knows which images are poisoned and what their true classes are; results of older versions took it so."""
    return results.get('truth_known', True)


class Shares(TypedDict):
    """What a judge gets right: shares by name, the counts they come from, 95 % intervals."""

    counts: NotRequired[dict[str, Pair | None]]
    intervals: NotRequired[dict[str, Interval | None]]
    acc: NotRequired[Share | None]
    asr: NotRequired[Share | None]
    ra: NotRequired[Share | None]
    tpr: NotRequired[Share | None]
    tpr_faint: NotRequired[Share | None]
    fpr: NotRequired[Share | None]


class Trigger(Shares):
    """One of several triggers."""

    target: Label


class Classifier(Shares):
    """A classifier on clean and on triggered test images; the residual attack is on the student alone."""

    triggers: NotRequired[list[Trigger]]
    residual_asr: NotRequired[Share | None]
    residual_counts: NotRequired[Pair | None]
    residual_interval: NotRequired[Interval | None]


class Filtered(Shares):
    """A generator as a classifier, with that share of the errors left out."""

    p_filter: Share


class Diffusion(TypedDict):
    """How a generator was asked what images are, and its answers."""

    p_filter: Share
    filters: list[Filtered]
    draws: Count
    weighting: str
    images: Count
    calls_per_image: Number


class Attack(TypedDict):
    """What this run added to the data: `poisoned` and `targets` are None where others may have added more."""

    name: str
    rate: Share
    poisoned: Count | None
    train_images: Count
    target: NotRequired[Label | None]
    targets: NotRequired[list[Label] | None]
    cover: NotRequired[Count | None]


class Named(TypedDict):
    """A part of the config that has a name."""

    name: str


class Seeds(TypedDict):
    """Who is poisoned, how networks start, in which order data comes."""

    poison: int
    model: int
    data: int


class Trusted(TypedDict):
    """How many images the defence was told are clean."""

    images: Count


class Rates(TypedDict):
    """Shares of the poisoned and of the clean images."""

    tpr: Share | None
    fpr: Share | None


class Fate(TypedDict):
    """What became of the images under one label: how many were kept, dropped, relabelled."""

    label: Label
    clean: dict[str, Count] | None
    poisoned: dict[str, Count] | None
    every: NotRequired[dict[str, Count]]


class Found(TypedDict):
    """What a defence says of the images, whatever they are."""

    images: Count
    flagged: Count
    dropped: Count
    relabelled: Count


class Detection(TypedDict):
    """The verdicts of a defence, held against the truth; see `purify.evaluation.evaluate.describe_findings`."""

    tpr: Share | None
    fpr: Share | None
    target_labels: list[Label] | None
    label_accuracy: Share | None
    found: NotRequired[Found | None]
    removed: NotRequired[Rates | None]
    relabel_accuracy: NotRequired[Share | None]
    relabel_accuracy_poisoned: NotRequired[Share | None]
    counts: NotRequired[dict[str, Pair] | None]
    auroc: NotRequired[Share | None]
    fates: NotRequired[list[Fate] | None]


# Names that are no identifiers, or words of Python, need this form.
Purified = TypedDict(
    'Purified',
    {
        'fid': Number | None,
        'is': Number | None,
        'is_raw': Number | None,
        'remade': NotRequired[bool],
        'features': str,
        'notes': list[str],
    },
)


class Made(TypedDict):
    """The images made of one label: how many of each group, and the share of stamped ones in training."""

    label: Label
    target: bool
    images: Count
    counts: Annotated[list[Count], Meta(min_length=4, max_length=4)]
    interval: Interval | None
    p_t: Share | None


class Separation(TypedDict):
    """How well a score finds the poison in the training set and in the generated one."""

    score: str
    training: Share | None
    generated: Share | None
    poisoned: Count | None
    triggered: Count


class Judges(TypedDict):
    """How far the judges of a dissection can be believed."""

    labeller: Shares
    detector: Shares | None


class Distance(TypedDict):
    """FID of the generations."""

    all: Number | None
    others: Number | None
    network: str
    notes: list[str]


class Dissection(TypedDict):
    """What generated images are made of."""

    judges: Judges
    sets: dict[str, list[Made]]
    auroc: list[Separation]
    fid: Distance
    sampler: str
    guidance: Number
    steps: Count


class Above(TypedDict):
    """Pairs more alike than the limit."""

    limit: Number
    share: Share | None
    interval: Interval | None


class Replication(TypedDict):
    """How alike generations are to training images."""

    encoder: str
    copy_detection: bool
    pairs: Count
    mean: Number | None
    above: Above
    poisoned_matches: Share | None
    poisoned: Share | None


class Verdict(TypedDict):
    """What the method says of the dataset (`purify.defenses.judgement`): a word, a share of images, a sentence for people."""

    word: str
    text: str
    share: NotRequired[Share]


class Cost(TypedDict):
    """What all stages took together, and each."""

    seconds: Number | None
    device_seconds: Number | None
    network_calls: NotRequired[Number | None]
    stages: dict[str, dict[str, Number | bool | None]]


class Results(TypedDict):
    """The whole file. Keys that older versions did not write may be missing."""

    version: int
    name: str
    config: str
    seeds: Seeds
    attack: Attack
    truth_known: NotRequired[bool]
    defense: Named
    trusted: NotRequired[Trusted | None]
    classes: list[str]
    verdict: NotRequired[Verdict | None]
    teacher: Classifier | None
    benign: NotRequired[Classifier | None]
    student: Classifier | None
    diffusion: NotRequired[Diffusion | None]
    detection: Detection
    purified: NotRequired[Purified | None]
    dissection: NotRequired[Dissection | None]
    replication: NotRequired[Replication | None]
    findings: NotRequired[dict[str, Any] | None]
    prior: NotRequired[dict[str, str] | None]
    cost: Cost


class Numbers(TypedDict):
    """What the stage `evaluate` adds."""

    teacher: Classifier | None
    benign: Classifier | None
    student: Classifier | None
    diffusion: NotRequired[Diffusion | None]
    detection: Detection
    purified: Purified | None


class Point(TypedDict):
    """A point.json: which point of a sweep a run is."""

    point: dict[str, Any]
    seed: int
