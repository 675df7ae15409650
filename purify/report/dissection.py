"""What results.json says of generated images: contents, judges, likeness to training images."""

from typing import Annotated

from msgspec import UNSET, Meta, Struct, UnsetType

from purify.report.quantities import Count, Interval, Label, Number, Pair, Share


class Made(Struct, frozen=True, kw_only=True):
    """Images made of one label, by group; p_t is the share of stamped ones in training."""

    label: Label
    target: bool
    images: Count
    counts: Annotated[list[Count], Meta(min_length=4, max_length=4)]
    shares: list[Share | None] | UnsetType = UNSET
    triggered: Share | UnsetType | None = UNSET
    interval: Interval | None
    p_t: Share | None


class Separation(Struct, frozen=True, kw_only=True):
    """How well a score finds the poison in the training set and in the generated one."""

    score: str
    training: Share | None
    poisoned: Count | None
    generated: Share | None
    triggered: Count

    @property
    def sides(self) -> tuple[float | None, float | None]:
        """The AUROC on training images, and on generations."""
        return self.training, self.generated


class Labeller(Struct, frozen=True, kw_only=True):
    """How well the labeller, a classifier, tells which class an image shows."""

    acc: Share | None = None
    counts: dict[str, Pair | None] = {}
    intervals: dict[str, Interval | None] = {}


class Detector(Struct, frozen=True, kw_only=True):
    """How well the detector, a classifier, tells whether an image shows the trigger."""

    acc: Share | None = None
    tpr: Share | None = None
    tpr_faint: Share | UnsetType | None = UNSET
    fpr: Share | None = None
    counts: dict[str, Pair | None] = {}
    intervals: dict[str, Interval | None] = {}
    count: Count | UnsetType = UNSET


class Judges(Struct, frozen=True, kw_only=True):
    """How far the judges of a dissection can be believed; no detector looked if it is None."""

    labeller: Labeller
    detector: Detector | None


class Distance(Struct, frozen=True, kw_only=True):
    """FID of the generations: of all, and of those under labels that are no target."""

    all: Number | None
    others: Number | None
    network: str
    notes: list[str]


class Dissection(Struct, frozen=True, kw_only=True):
    """What the images of a generator show, and how they were made and judged."""

    judges: Judges
    sets: dict[str, list[Made]]
    auroc: list[Separation]
    fid: Distance
    sampler: str
    guidance: Number
    steps: Count


class Above(Struct, frozen=True, kw_only=True):
    """How many pairs are more alike than the limit."""

    limit: Number
    share: Share | None
    count: Count | UnsetType = UNSET
    interval: Interval | None


class Copied(Struct, frozen=True, kw_only=True):
    """Pairs whose training image is there several times, because the attack copied it."""

    images: Count
    matches: Count
    share: Share | None
    mean: Number | None


class Replication(Struct, frozen=True, kw_only=True):
    """How alike generations are to training images."""

    encoder: str
    copy_detection: bool
    pairs: Count
    mean: Number | None
    above: Above
    poisoned_matches: Share | None
    poisoned_interval: Interval | UnsetType | None = UNSET
    poisoned: Share | None
    copied: Copied | UnsetType | None = UNSET
