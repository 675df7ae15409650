"""The stage that trains classifiers (teachers, students), and how every stage trains a network."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import jax

from purify.core import devices
from purify.core.errors import UserError
from purify.data.augment import AUGMENTATIONS
from purify.data.loader import Place, RandomTransform, Split, training_batches
from purify.data.paired import Paired
from purify.pipelines.artifacts import check_classes, classifier_builder, read_classifier, starting_weights, write_network
from purify.pipelines.chain import Work
from purify.pipelines.poisoning import read_poisoner
from purify.pipelines.tables import edit, read_table
from purify.train.loop import Plan, fit
from purify.train.objectives import OBJECTIVES
from purify.train.optim import make_optimizer, total_steps
from purify.train.semi import FitHead, MixMatch, head_only
from purify.train.state import Build, TrainState, abstract_network, make_state
from purify.train.tasks import Task

STRONG_AUGMENTATIONS: dict[str, Any] = {  # Struppek 2023, ablation 'augmentations'
    'flip': {'p': 0.5},
    'colour_jitter': {'brightness': 0.4, 'contrast': 0.4, 'saturation': 0.4, 'hue': 0.1},
    'rotation': {'degrees': 20.0},
    'affine': {'translate': 0.1, 'scale': (0.9, 1.1)},
}


@dataclass(frozen=True)
class Training:
    """A classifier and how it is trained: the parts `teacher`, `student`, `surrogate` of a config.

    Attributes:
      network: `name`, one of `purify.models.networks.NETWORKS`, and its settings.
      optim: `name`, one of `purify.train.optim.OPTIMIZERS`, and its settings (`make_optimizer`).
      epochs: passes over the training images; 0 where `steps` are given.
      batch: images of an update.
      steps: updates, instead of epochs.
      accumulate: pieces that a batch is worked through in.
      augment: of the images, by name of the augmentation (`purify.data.augment`), in this order.
      objective: `name`, one of `purify.train.objectives.OBJECTIVES`, and its settings.
      init_from: a finished classifier, or a safetensors file of its network's weights, to start from.
      load: a finished classifier that is taken instead of training one.
    """

    network: dict[str, Any]
    optim: dict[str, Any]
    epochs: float
    batch: int
    steps: int = 0
    accumulate: int = 1
    augment: dict[str, Any] = field(default_factory=dict)
    objective: dict[str, Any] = field(default_factory=lambda: OBJECTIVES.part('classify'))
    init_from: str = ''
    load: str = ''


def classifier(network: dict[str, Any], optim: dict[str, Any], *, epochs: float, batch: int, **changes: Any) -> dict[str, Any]:
    """A classifier's part of a config, see `Training`."""
    return asdict(Training(network, optim, epochs, batch, **changes))


def make_augmentations(settings: dict[str, Any]) -> list[RandomTransform]:
    """The `augment` part of a config -> transforms, in the order written there."""
    listed = lambda value: tuple(value) if isinstance(value, list) else value  # noqa: E731
    return [AUGMENTATIONS.make(name, **{k: listed(v) for k, v in options.items()}) for name, options in settings.items()]


TAUGHT = ('attention', 'distill')  # objectives that a teacher takes part in


def make_task(objective: dict[str, Any], graph: Any, teacher: tuple[Any, Any] | None) -> Task:
    """The `objective` part of a classifier's config -> its task; `teacher` is (structure, weights on the devices)."""
    name, options = objective['name'], {name: value for name, value in objective.items() if name != 'name'}
    if name in TAUGHT and teacher is None:
        raise UserError(f'objective {name!r} needs a teacher; only a student has one.')
    return OBJECTIVES.make(name, graph, *(teacher or () if name in TAUGHT else ()), **options)


def _read_teacher(folder: Path, split: Split) -> tuple[Any, Any]:
    model = read_classifier(folder)
    check_classes(model, split.class_names, split.shape[-1], f'the teacher {folder}')
    return model.graph, devices.put_copy(model.weights, devices.global_mesh())


def train_classifier(work: Work) -> None:
    """Trains a classifier on the dataset `data`; with a `teacher`, or in an `attacker`'s loader, where those are inputs.

    A table `edits` leaves images out, relabels them, or puts those of the inputs `replaced...` in their place.
    """
    settings = work.settings
    attacker = work.inputs.get('attacker')
    split = edit(Split(work.inputs['data'] if attacker is None else attacker / 'clean', 'train'), work.inputs)
    transforms = make_augmentations(settings['augment'])
    if attacker is not None:
        poisoner, first = read_poisoner(attacker)
        transforms = [poisoner, *transforms] if first else [*transforms, poisoner]
    build = classifier_builder(settings['network'], len(split.class_names), split.shape[-1])
    graph, like = abstract_network(build)
    teacher = _read_teacher(work.inputs['teacher'], split) if 'teacher' in work.inputs else None
    task = make_task(settings['objective'], graph, teacher)
    if isinstance(task, MixMatch):
        transforms.append(_pair_up(work))
    state = fit_network(work, task, build, like, split, transforms)
    write_network(work.folder, classifier_facts(settings['network'], split), state.weights())


def classifier_facts(network: dict[str, Any], split: Split) -> dict[str, Any]:
    """What the folder of a classifier of these classes says of it."""
    return {
        'network': network,
        'num_classes': len(split.class_names),
        'channels': split.shape[-1],
        'size_px': split.shape[0],
        'class_names': split.class_names,
    }


def _pair_up(work: Work) -> Paired:
    """Gives every record that the table `edits` keeps one that it does not keep."""
    if 'edits' not in work.inputs:
        raise UserError("objective 'mixmatch' needs a table of the labels to believe; the students of dbd and asd have one.")
    return Paired(Split(work.inputs['data'], 'train', keep=~read_table(work.inputs['edits'])['keep']))


def fit_network(
    work: Work, task: Task, build: Build, like: Any, split: Split, transforms: list[RandomTransform], *, start: Any = None
) -> TrainState:
    """Trains a network in `work.folder` by `work.settings`: epochs or steps, batch, accumulate, optim, seeds; where it is `part`
    (first, last) of a longer run, it does these updates of it, with an optimiser of its own.

    `like` are its weights as shapes; it starts from the weights `start`, or from those that lie where an input `init` says.
    Goes on from a checkpoint in the folder.
    """
    settings, run, mesh = work.settings, work.run, devices.global_mesh()
    steps = total_steps(settings['epochs'], settings['steps'], len(split), settings['batch'])
    optimizer = make_optimizer(steps, **settings['optim'])
    optimizer = head_only(optimizer) if isinstance(task, FitHead) else optimizer
    first, last = settings.get('part', (0, steps))
    seed = settings['seeds']
    init = starting_weights(work.inputs['init'], build, like, seed['model']) if 'init' in work.inputs else start
    keep_ema = task.ema_decay > 0
    state = make_state(build, optimizer, seed=seed['model'], keep_ema=keep_ema, mesh=mesh, init=init, step=first)
    plan = Plan(
        name=work.name,
        folder=work.folder,
        batch=settings['batch'],
        steps=last,
        accumulate=settings['accumulate'],
        seed=seed['model'],
        save_every=run['save_every'],
        log_every=run['log_every'],
        writers=work.writers,
        first=first,
        of=steps,
    )
    place = Place(jax.process_index(), jax.process_count())
    batches: Any = partial(_batches, split, settings['batch'], seed['data'], transforms, run, place)
    return fit(task, optimizer, state, batches, plan, mesh, work.cost)


def _batches(
    split: Split, batch: int, seed: int, transforms: list[RandomTransform], run: dict[str, Any], place: Place, start: int
) -> Iterator[Any]:
    threads, workers = run['threads'], run['workers']
    return training_batches(
        split, batch=batch, seed=seed, start_step=start, place=place, transforms=transforms, threads=threads, workers=workers
    )
