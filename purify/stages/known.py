"""What is known of a run before it starts: its stages, traced in turn with `jax.eval_shape`."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np

from purify.core import devices
from purify.core.errors import UserError
from purify.core.files import fingerprint, user_path
from purify.core.types import Facts, Settings, Tree
from purify.data.augment import make_augmentations
from purify.data.training_set import pair
from purify.defenses.method import Context
from purify.models.classifiers.pytorch_weights import check_foreign
from purify.models.files.weights import abstract
from purify.stages.classifier import Classifier
from purify.stages.named_folders import is_local
from purify.stages.networks_on_disk import other_classes
from purify.train.feed import Feed
from purify.train.loop import Update, feed_step, make_step
from purify.train.objectives.semi_supervised import FitHead, MixMatch, head_only
from purify.train.objectives.tasks import Task
from purify.train.optim import make_optimizer, total_steps
from purify.train.state import Build, abstract_network, state_maker

Network = tuple[Any, Any]  # structure, and weights as shapes
Shapes = dict[str, jax.ShapeDtypeStruct]


@dataclass(frozen=True)
class Program:
    """A program that a run gives to its devices, traced with shapes.

    Attributes:
      step: the stage's name.
      call: (whole, rows) -> anything; pure.
      whole: what every device holds a copy of, as shapes or arrays.
      rows: what is spread over the devices, as shapes [2 ...], of a training [batch ...].
      count: how many rows pass through it in the whole run, at most.
      passes: in how many goes, each in batches of its own.
      accumulate: pieces that a batch of a training is worked through in.
      size: the setting of the part `run` that says how many rows it takes at once.
      trains: whether it is an update: `rows` are a batch, and `whole` is replaced by what comes
        out.
    """

    step: str
    call: Callable[[Any, Any], Any]
    whole: Any
    rows: Any
    count: int
    size: str = 'batch_per_device'
    trains: bool = False
    accumulate: int = 1
    passes: int = 1


@dataclass
class Diagnosis:
    """What `check` found: problems that would stop a run, notes, and the run's programs.

    `uncounted` names what the run gives its devices besides these programs.
    """

    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    programs: list[Program] = field(default_factory=list)
    uncounted: list[str] = field(default_factory=list)

    def attempt(self, what: str, do: Callable[[], Any]) -> Any:
        """Calls `do`; where it fails, returns None and notes the problem, unless it is known."""
        try:
            return do()
        except UserError as error:
            text = str(error)
        except KeyError as error:
            text = f'{error} is missing. Give it; configs/ shows where it stands.'
        except (TypeError, ValueError, ArithmeticError, MemoryError) as error:
            first = str(error).splitlines()[0] if str(error) else repr(error)
            text = f'{type(error).__name__}: {first}'
        if text not in [problem.partition(': ')[2] for problem in self.problems]:
            self.problems.append(f'{what}: {text}')
        return None


@dataclass(frozen=True)
class Data:
    """What stages need to know of the data: image side, channels, classes, numbers of images."""

    size_px: int
    channels: int
    classes: int
    images: int
    test_images: int = 0

    @property
    def pixels(self) -> tuple[int, int, int]:
        """The shape (h, w, c) of one image."""
        return self.size_px, self.size_px, self.channels

    @property
    def names(self) -> list[str]:
        """Numbers as names of the classes: their own are not known before the data is read."""
        return [str(label) for label in range(self.classes)]

    def rows(self, *numbers: str) -> Shapes:
        """Shapes of two rows, each with an image and the named i32 `numbers`."""
        image = {'image': jax.ShapeDtypeStruct((2, *self.pixels), np.uint8)}
        return image | {name: jax.ShapeDtypeStruct((2,), np.int32) for name in numbers}


@dataclass(frozen=True)
class Known:
    """What is known of a run while its stages are traced, one after another.

    Attributes:
      found: where problems and notes go.
      config: the run's.
      data: what is known of the dataset.
      networks: the classifiers so far by name, None for one whose tracing failed.
      prior: the diffusion model as shapes, or None.
      encoder: a finished one from outside the run, as shapes, or None.
      widths: how many features a step measures, by step.
      sizes: how many images a step makes, by step.
      traced: the updates traced so far by fingerprint, so that equal ones are traced once.
      generators: those so far by name, as shapes, None for one whose tracing failed.
      fetched: whether all that is on the hub was fetched already.
    """

    found: Diagnosis
    config: Settings
    data: Data
    networks: dict[str, Network | None]
    prior: Any = None
    encoder: Any = None
    widths: dict[str, int] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)
    traced: dict[str, Program] = field(default_factory=dict)
    generators: Settings = field(default_factory=dict)
    fetched: bool = False

    def may_open(self, name: str, load: str) -> bool:
        """Whether a finished model can be opened now; notes that a run fetches one on the hub.

        `name` is its part of the config, `load` what is loaded.
        """
        if self.fetched or is_local(load):
            return True
        self.found.notes.append(
            f'{name}: {load} is fetched from the hub at the start of a run, or given as a local'
            ' folder'
        )
        return False

    @property
    def context(self) -> Context:
        """What a rule is told of the dataset and the run."""
        return Context(self.data.pixels, self.config['seeds']['model'], self.data.names)

    def classifier(self, name: str) -> Classifier | None:
        """A classifier traced so far, with shapes for weights; None if its tracing failed."""
        network = self.networks.get(name)
        return Classifier(*network, {}) if network else None

    def models(self, inputs: dict[str, str]) -> Facts:
        """The models of a step by role, with shapes for weights; None where tracing failed."""
        found: Facts = {'prior': self.prior} if 'prior' in inputs else {}
        if 'generator' in inputs:
            found['generator'] = self.generators.get(inputs['generator'])
        if 'classifier' in inputs:
            found['classifier'] = self.classifier(inputs['classifier'])
        if 'encoder' in inputs:
            name = inputs['encoder']
            found['encoder'] = self.classifier(name) if name in self.networks else self.encoder
        return found

    def trace(
        self,
        step: str,
        make_rule: Callable[..., Any],
        models: Facts,
        rows: Shapes,
        count: int,
        **how: Any,
    ) -> Shapes:
        """Shapes of the columns that a rule makes of rows; {} where a model's tracing failed.

        `step`, `count` and `how` are the program's (`Program`).
        """
        if None in models.values():
            return {}
        rule = make_rule(models, self.context)
        weights = {role: model.weights for role, model in models.items()}
        columns = jax.eval_shape(rule, weights, rows)
        self.found.programs.append(Program(step, rule, weights, rows, count, **how))
        return columns


def shape_training(
    known: Known,
    name: str,
    part: Settings,
    task: Task,
    build: Build,
    weights: Tree = None,
    *,
    data: str = '',
) -> None:
    """Traces the state, the augmentations and one update of a training that starts from `weights`.

    `data` is the step whose images it is trained on; all others train on the poisoned ones.

    Raises `UserError` for settings that no training can have.
    """
    mesh, images = devices.global_mesh(), known.sizes.get(data, known.data.images)
    if weights is None and part.get('init_from'):
        _check_start(known, name, part['init_from'], build)
    if part['batch'] % (mesh.size * part['accumulate']):
        raise UserError(
            f'batch={part["batch"]} does not split over {mesh.size} devices x'
            f' accumulate={part["accumulate"]}; choose a multiple.'
        )
    length = part['epochs'], part['steps'], images, part['batch']
    steps = total_steps(*length, part.get('least_steps', 0))
    optimizer = make_optimizer(steps, **part['optim'])
    optimizer = head_only(optimizer) if isinstance(task, FitHead) else optimizer
    names = ('network', 'classifier', 'optim', 'augment', 'batch', 'accumulate', 'objective')
    same = {key: part.get(key) for key in (*names, 'projection')}
    given = str(jax.tree.map(np.shape, task.frozen))
    mark = fingerprint({'task': type(task).__name__, 'given': given} | same)
    first, last = part.get('part', (0, steps))
    count = (last - first) * part['batch']
    if mark in known.traced:
        known.found.programs.append(replace(known.traced[mark], step=name, count=count))
        return
    seed = known.config['seeds']['model']
    make = state_maker(build, optimizer, seed=seed, keep_ema=task.ema_decay > 0)
    state = jax.eval_shape(make, weights)
    update = make_step(task, optimizer, part['accumulate'], seed)
    known.traced[mark] = _trace_update(known, name, part, task, state, update, count)
    known.found.programs.append(known.traced[mark])  # at the end: what failed fails again


def _trace_update(
    known: Known, name: str, part: Settings, task: Task, state: Tree, update: Update, count: int
) -> Program:
    """Traces the augmentations and one update, from a state of shapes; over `count` images."""
    image = {'image': np.zeros(known.data.pixels, np.uint8), 'label': 0, 'id': 0}
    image = pair(image, image) if isinstance(task, MixMatch) else image
    of_jax = lambda x: jax.dtypes.canonicalize_dtype(np.asarray(x).dtype)  # no int64
    shaped = lambda x: jax.ShapeDtypeStruct((part['batch'], *np.shape(x)), of_jax(x))
    rows = {key: shaped(x) for key, x in image.items()}
    augmentations = make_augmentations(part['augment'])
    if any(augmentation.by_visit for augmentation in augmentations):
        rows['epoch'] = shaped(0)
    feed = Feed(lambda step: iter(()), {}, augmentations)
    fed, whole = feed_step(update, feed), (state, task.frozen)
    call = lambda whole, rows: fed(whole[0], whole[1], feed.held, rows)
    jax.eval_shape(call, whole, rows)
    return Program(name, call, whole, rows, count, trains=True, accumulate=part['accumulate'])


def _check_start(known: Known, name: str, start: str, build: Build) -> None:
    if not user_path(start).exists():
        raise UserError(f'{name}.init_from={start}: no such folder or file.')
    if _headless(user_path(start), build):
        known.found.notes.append(
            f'{name}: the head of {start} is for another number of classes; training starts with a'
            ' fresh one'
        )


def _headless(start: Path, build: Build) -> bool:
    """Whether the head of what a training starts from is for another number of classes."""
    if start.is_dir():
        return bool(other_classes(start, abstract_network(build)[1]))
    return check_foreign(abstract(build), start).headless


def count_numbers(params: Tree) -> int:
    """Counts the parameters of a network."""
    return sum(int(np.prod(x.shape)) for x in jax.tree.leaves(params))
