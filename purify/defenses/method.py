"""The types that defences are written in: a method is a short list of steps and one outcome."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any, ClassVar, Protocol

import numpy as np

from purify.core.types import Facts, Settings
from purify.data.table import Table
from purify.defenses.needs import Needs, Presets
from purify.train.inference import Rule

# Models by role: 'prior' (`purify.generative.pixel_prior.Prior`), 'generator'
# (`purify.generative.pixel_generator.Generator`), 'classifier' (has `answer(weights, images f32[b h
# w c] in [0, 1]) -> (logits f32[b k], features f32[b d])`), 'encoder' (has `embed(weights, images)
# -> f32[b d]`), 'drawn' (whose `weights` are images u8[n h w c]). A rule is handed their weights by
# role.
Models = Mapping[str, Any]


@dataclass(frozen=True)
class Context:
    """What a rule is told of the images it looks at, besides its models.

    Attributes:
      shape: of an image, (h, w, c).
      seed: of everything the rule draws, together with an image's id.
      class_names: in the order of labels.
    """

    shape: tuple[int, int, int]
    seed: int
    class_names: Sequence[str]


class Measure(Protocol):
    """Computes numbers of every image, on the devices.

    Attributes:
      dtype: what its diffusion model computes in, if it asks one.
      presets: settings by kind of data, such as 'small', where it is a score.
    """

    dtype: str = 'float32'
    presets: ClassVar[Presets] = {}

    def rule(self, models: Models, context: Context) -> Rule:
        """Makes a function of rows to columns, each with one value of every image.

        Rows are {'image' u8[b h w c], 'label' i32[b] as given, 'id' i32[b]}. A column `finite`
        bool[b] says which rows came out as numbers; the stage refuses others and does not keep it.
        Raises `UserError` for models and settings that do not go together.
        """
        ...

    def network_calls(self, models: Models) -> int:
        """Counts how often a diffusion model is asked for one row."""
        return 0

    def drawn(self) -> int:
        """How many images of the dataset the rule compares others with, as its model 'drawn'."""
        return 0


class Purifier(Protocol):
    """Makes new images from images; its diffusion model computes in `dtype`."""

    dtype: str = 'float32'

    def number(self) -> int:
        """How many images are made of each."""
        ...

    def rule(self, models: Models, context: Context) -> Rule:
        """As `Measure.rule`, to columns {'image' u8[b h w c], 'finite' bool[b]}.

        Rows hold 'variation' i32[b] too: which copy, or the `candidate` of a picked row.
        """
        ...

    def network_calls(self, models: Models) -> int:
        """Counts how often a diffusion model is asked for one image."""
        return 0


class Guard(Protocol):
    """Changes an image at test time, before the poisoned classifier looks at it."""

    dtype: str = 'float32'

    def rule(self, models: Models, context: Context) -> Rule:
        """As `Purifier.rule`, for rows {'image' u8[b h w c], 'id' i32[b]}: it sees no label."""
        ...


class Decision(Protocol):
    """Draws conclusions from tables, on the host, in float64."""

    def decide(
        self, ids: np.ndarray, labels: np.ndarray, tables: Mapping[str, Table], num_classes: int
    ) -> Table:
        """Decides on all `ids` i64[n] in order, by given `labels` i32[n] and the tables by role."""
        ...


@dataclass(frozen=True)
class Look:
    """Measures images and decides by the numbers in one step, where no other step needs them.

    Attributes:
      measure: of the images, by the step's models.
      decision: by the step's tables and by what was measured.
      role: of what was measured, among the tables.
    """

    measure: Measure
    decision: Decision
    role: str


@dataclass(frozen=True)
class Step:
    """One stage of a method: what is done, to which inputs, by which rule.

    Attributes:
      name: the stage's name, unique in its method.
      kind: what is done (`purify.stages.registry.KINDS`): 'classifier' trains one, 'encoder' trains
        one without labels, 'generator' trains a class-conditional diffusion model, 'measure' looks
        at every image and writes numbers, 'densities' fits one to the features of each class,
        'decide' draws conclusions from numbers, 'look' does both, 'purify' makes images of images,
        'generate' makes images of classes, 'rewrite' writes the dataset as it has been decided.
      inputs: role -> the name of an earlier step, or 'poisoned', 'prior', 'teacher', 'encoder' (a
        finished one from outside), 'trusted' (a table that keeps the few images which the defender
        knows to be clean). Where numbers are measured, 'poisoned' is the dataset that they are of:
        the poisoned one, or a 'generate' step.
      settings: of a training, and of what is generated.
      by: what measures, decides or makes images.
    """

    name: str
    kind: str
    inputs: dict[str, str]
    settings: Settings = field(default_factory=dict)
    by: Any = None

    def facts(self) -> Facts:
        """Lists what changes the result besides the inputs, as plain values."""
        return self.settings | ({'by': describe_rule(self.by)} if self.by is not None else {})


def describe_rule(rule: Any) -> Facts:
    """Describes a rule as plain values: its class and its attributes, other rules likewise."""
    parts = {part.name: getattr(rule, part.name) for part in fields(rule)}
    plain = asdict(rule)
    return {'name': type(rule).__name__} | {
        name: describe_rule(part) if hasattr(part, '__dataclass_fields__') else plain[name]
        for name, part in parts.items()
    }


@dataclass(frozen=True)
class Outcome:
    """What a method hands over, as names of its steps; the evaluation reports whatever is there.

    Attributes:
      purified: the step whose folder is a purified dataset.
      classifier: the step whose folder is a classifier without the backdoor, trained by the method.
      repaired: the step whose folder is the poisoned classifier, without its backdoor.
      guard: what is done to the poisoned classifier's inputs at test time: a step of the kind
        'guard', which is no stage, with its models as inputs and a `Guard`.
      benign: the step whose folder is a classifier that the method trained on its way, free of the
        backdoor too.
      findings: the step whose table holds `flagged` bool[n], and `labels` i32[n] where the method
        relabels; its facts hold `target_labels`, a list, where the method looks for them.
      candidates: the step that measured candidates, from which the report shows how labels change
        along the rounds.
      features: the step that measured the features by which it decides, of which the report draws a
        map.
      generator: the step whose folder is a class-conditional diffusion model trained on the
        poisoned dataset.
      generated: the 'generate' step whose dataset stands for the poisoned one: images of all
        classes, whose ids are their own.
      probe: the 'generate' step with images of few classes, to be looked at closely.
      scores: name -> the steps that measured it on the poisoned dataset and on `generated`; their
        column `score` f32[n] is the bigger, the likelier an image is poisoned.
      diffusion: how `generator` is used as a classifier
        (`purify.defenses.castle_walls.diffusion_classifier.DiffusionClassifier`).
      copies: the steps that measured `features` of `generated` and of the poisoned dataset, by
        which copies are looked for.
    """

    purified: str | None = None
    classifier: str | None = None
    repaired: str | None = None
    guard: Step | None = None
    benign: str | None = None
    findings: str | None = None
    candidates: str | None = None
    features: str | None = None
    generator: str | None = None
    generated: str | None = None
    probe: str | None = None
    scores: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    diffusion: Facts | None = None
    copies: tuple[str, str] | None = None


@dataclass(frozen=True)
class Method:
    """The steps of a method, in order, and its outcome."""

    steps: tuple[Step, ...] = ()
    outcome: Outcome = field(default_factory=Outcome)

    def step(self, name: str | None) -> Step | None:
        """Finds the step of that name; None where there is none."""
        return next((step for step in self.steps if step.name == name), None)


class Defense(Protocol):
    """The settings of a defence, which make its method.

    Attributes:
      needs: what it needs in a config beside its own part.
      presets: its settings by kind of data, such as 'small'.
    """

    needs: ClassVar[Needs] = Needs()
    presets: ClassVar[Presets] = {}

    @staticmethod
    def after(teacher: Settings) -> Facts:
        """Its settings that follow from the teacher's config."""
        return {}

    def method(self, student: Settings) -> Method:
        """Its steps and outcome; `student` is the config of the classifier it trains last."""
        ...
