"""The types of results.json: they write the file, and check it before anyone computes with it.

A number is None where it was not measured, or where nobody knows the truth that it needs
(`truth_known` false). A key that is not written in every case is UNSET where it is missing.
"""

from pathlib import Path
from typing import Any, Self, TypeVar

import msgspec
from msgspec import UNSET, Struct, UnsetType

from purify.core.errors import UserError
from purify.core.files import AGAIN, read_json, user_path, write_json
from purify.core.types import Settings
from purify.report.classifiers import ClassifierScores, Diffusion, Guarded
from purify.report.dissection import Dissection, Replication
from purify.report.findings import DetectionScores, Findings, Verdict
from purify.report.quantities import Count, Label, Number, Share

T = TypeVar('T')
REWRITE = 'Write it again with `purify report --workdir {}`.'


def read_typed(path: Path, kind: type[T], *, cure: str = AGAIN) -> T:
    """Reads a JSON file as a value of type `kind`.

    Raises `UserError` that names file, place and what was expected there; `cure` is the next step.
    """
    value: Any = read_json(path, kind, cure=cure)
    return msgspec.convert(value, kind)


class AttackFacts(Struct, frozen=True, kw_only=True):
    """What the attack did; counts and targets are None where others may have added poison."""

    name: str
    target: Label | UnsetType | None = UNSET
    rate: Share
    scheme: str | UnsetType = UNSET
    poison_first: bool | UnsetType | None = UNSET
    random_poisoning: bool | UnsetType | None = UNSET
    targets: list[Label] | UnsetType | None = UNSET
    rate_base: str | UnsetType = UNSET
    poisoned: Count | None
    cover: Count | UnsetType | None = UNSET
    copies: Count | UnsetType = UNSET
    train_images: Count
    test_images: Count | UnsetType = UNSET
    digest: str | UnsetType = UNSET


class Seeds(Struct, frozen=True, kw_only=True):
    """Seeds of the order of data, of the networks' weights, and of the poisoned images."""

    data: int
    model: int
    poison: int


class TrustedImages(Struct, frozen=True, kw_only=True):
    """How many images the defence was told are clean."""

    images: Count


class Purified(Struct, frozen=True, kw_only=True):
    """How good the purified images are; `inception` is the score that the file calls 'is'."""

    fid: Number | None
    inception: Number | None = msgspec.field(name='is')
    is_raw: Number | None
    images: Count | UnsetType = UNSET
    remade: bool | UnsetType = UNSET
    features: str
    notes: list[str]


class PriorFacts(Struct, frozen=True, kw_only=True):
    """Where the prior comes from; `warning` is '' where none is due."""

    kind: str
    text: str
    warning: str = ''


class StageCost(Struct, frozen=True, kw_only=True):
    """What a stage cost (`purify.train.cost.Spent`); `reused` if this start found it finished."""

    seconds: Number | None
    device_seconds: Number | None = None
    compile_seconds: Number | None = None
    programs: Number | None = None
    from_cache: Number | None = None
    wait_share: Number | None = None
    images_per_s: Number | None = None
    images_per_s_per_device: Number | None = None
    network_calls: Number | None = None
    network_calls_per_s: Number | None = None
    mfu: Number | None = None
    devices: Number | None = None
    reused: bool = False


class RunCost(Struct, frozen=True, kw_only=True):
    """What the stages cost, each and all together."""

    stages: dict[str, StageCost]
    seconds: Number | None
    device_seconds: Number | None
    network_calls: Number | None = None


class Numbers(Struct, frozen=True, kw_only=True):
    """What the stage `evaluate` measured, the file numbers.json.

    Attributes:
      teacher: the classifier trained on the poisoned data.
      benign: one that a defence trained on its way.
      student: the classifier trained on what the defence made of the data.
      repaired: a network made from the teacher, without its backdoor.
      guarded: the teacher behind a guard.
    """

    teacher: ClassifierScores | None
    benign: ClassifierScores | None
    student: ClassifierScores | None
    repaired: ClassifierScores | UnsetType | None = UNSET
    guarded: Guarded | UnsetType | None = UNSET
    diffusion: Diffusion | None = None
    detection: DetectionScores
    purified: Purified | None


class Results(Struct, frozen=True, kw_only=True):
    """The whole of results.json; keys that older versions did not write may be missing.

    `findings` are the facts of the method's verdicts as it wrote them; `facts` is what of these a
    report shows.
    """

    version: int
    name: str
    config: str
    seeds: Seeds
    truth_known: bool = True  # older versions took it so
    attack: AttackFacts
    defense: Settings
    trusted: TrustedImages | None = None
    classes: list[str]
    verdict: Verdict | None = None
    teacher: ClassifierScores | None
    benign: ClassifierScores | None = None
    student: ClassifierScores | None
    repaired: ClassifierScores | UnsetType | None = UNSET
    guarded: Guarded | UnsetType | None = UNSET
    diffusion: Diffusion | None = None
    detection: DetectionScores
    purified: Purified | None = None
    dissection: Dissection | None = None
    replication: Replication | None = None
    findings: Settings | None = None
    prior: PriorFacts | None = None
    cost: RunCost

    def __post_init__(self) -> None:
        if not isinstance(self.defense.get('name'), str):
            raise ValueError('Expected `str` - at `$.defense.name`')

    @classmethod
    def read(cls, path: Path) -> Self:
        """Reads the file at `path`.

        Raises `UserError` for one that is missing, broken or of another form.
        """
        return read_typed(path, cls, cure=REWRITE.format(path.parent))

    def write(self, path: Path) -> None:
        """Writes the file, whole or not at all."""
        write_json(path, msgspec.to_builtins(self))

    @property
    def outcomes(self) -> dict[str, ClassifierScores]:
        """The classifiers that the defence left, by name; the first is the one it is judged by."""
        found = {'student': self.student, 'repaired': self.repaired, 'guarded': self.guarded}
        return {name: side for name, side in found.items() if side}

    @property
    def after(self) -> ClassifierScores | None:
        """The student, else the repaired network, else the guarded teacher."""
        return next(iter(self.outcomes.values()), None)

    @property
    def defender(self) -> str:
        """The name of the defence."""
        return self.defense['name']

    @property
    def facts(self) -> Findings:
        """The part of the method's findings that a report shows.

        Raises `UserError` where these are of another form.
        """
        try:
            return msgspec.convert(self.findings or {}, Findings)
        except msgspec.ValidationError as error:
            what = f'the findings of {self.defender} are not such as a report shows'
            raise UserError(f'{what} ({error}). Write them again by another run.') from error


def read_results(run: str | Path) -> Results:
    """Reads what a finished run measured, with typed keys: `read_results('runs/a').student.asr`.

    `run` is the work folder, or a results.json. Raises `UserError` for a missing or broken one.
    """
    path = user_path(run)
    return Results.read(path / 'results.json' if path.is_dir() else path)


class Point(Struct, frozen=True, kw_only=True):
    """A point.json: which point of a sweep a run is."""

    point: Settings
    seed: int
