"""The stage that trains a classifier: a teacher, a student, or one on a method's way."""

from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import jax

from purify.core import devices
from purify.core.errors import UserError
from purify.core.types import Facts, Settings, Tree
from purify.data.loader import Split
from purify.data.training_set import TrainingSet
from purify.defenses.method import Step
from purify.engine.stage import Work
from purify.engine.tables import apply_edits, read_table
from purify.models.classifiers.registry import CIFAR_SCALE, NETWORKS
from purify.stages.classifier import classifier_builder
from purify.stages.fit_network import fit_network
from purify.stages.kind import Kind
from purify.stages.known import Known, count_numbers, shape_training
from purify.stages.named_folders import finished_folder
from purify.stages.networks_on_disk import open_classifier, read_classifier, write_network
from purify.train.objectives.registry import OBJECTIVES
from purify.train.objectives.semi_supervised import MixMatch
from purify.train.objectives.tasks import Task
from purify.train.optim import OPTIMIZERS
from purify.train.state import abstract_network

STRONG_AUGMENTATIONS: Facts = {  # Struppek 2023, ablation 'augmentations'
    'flip': {'p': 0.5},
    'colour_jitter': {'brightness': 0.4, 'contrast': 0.4, 'saturation': 0.4, 'hue': 0.1},
    'rotation': {'degrees': 20.0},
    'affine': {'translate': 0.1, 'scale': (0.9, 1.1)},
}


@dataclass(frozen=True)
class Training:
    """A classifier and how it is trained: the parts `teacher`, `student`, `surrogate` of a config.

    Attributes:
      network: `name`, one of `purify.models.classifiers.registry.NETWORKS`, and its settings.
      optim: `name`, one of `purify.train.optim.OPTIMIZERS`, and its settings (`make_optimizer`).
      epochs: passes over the training images; 0 where `steps` are given.
      batch: images of an update.
      steps: updates, instead of epochs.
      least_steps: updates at least, where epochs of few images would be fewer.
      accumulate: pieces that a batch is worked through in.
      augment: of the images, by name of the augmentation (`purify.data.augment`), in the order of
        their names.
      objective: `name`, one of `purify.train.objectives.registry.OBJECTIVES`, and its settings.
      init_from: a finished classifier, or a safetensors file of its network's weights, to start
        from.
      load: a finished classifier that is taken instead of training one.
    """

    network: Settings
    optim: Settings
    epochs: float
    batch: int
    steps: int = 0
    least_steps: int = 0
    accumulate: int = 1
    augment: Settings = field(default_factory=dict)
    objective: Settings = field(default_factory=lambda: OBJECTIVES.part('classify'))
    init_from: str = ''
    load: str = ''


def classifier(
    network: Settings, optim: Settings, *, epochs: float, batch: int, **changes: Any
) -> Facts:
    """A classifier's part of a config, see `Training`."""
    return asdict(Training(network, optim, epochs, batch, **changes))


def fast_classifier(
    *, epochs: float, batch: int = 256, channels: int = 3, flip: bool = True, **changes: Any
) -> Facts:
    """The network `fast` with its own recipe, for photographs of 32 px (Jordan 2024, section 3).

    Nesterov's SGD, shifted and alternately mirrored images, smoothed labels, an average of the
    weights. The rate rises and falls in straight lines; its peak is the published one for batches
    of 1,024, scaled to ours. The published average is mixed back into the weights now and then;
    ours is kept beside them. Smoothed labels and the average belong to its usual objective: where
    another is given, that of a student who distils, there are none.

    Args:
      epochs: passes over the training images.
      batch: images of an update.
      channels: of the images; 3 are normalised as CIFAR-10's.
      flip: whether a mirrored image is of the same class.
      **changes: to `Training`.
    """
    network = NETWORKS.part('fast', **(CIFAR_SCALE if channels == 3 else {}))
    triangle = {'schedule': 'linear', 'warmup': 0.23, 'momentum': 0.85, 'nesterov': True}
    optim = OPTIMIZERS.part('sgd', lr=1.5 * batch / 1024, weight_decay=0.0013, **triangle)
    augment = {'alternating_flip': {}} if flip else {}
    augment |= {'pad_crop': {'pad_px': 2, 'mode': 'reflect'}}
    learned = OBJECTIVES.part('classify', label_smoothing=0.2, ema_decay=0.98)
    usual = {'objective': learned, 'augment': augment}
    usual |= {'least_steps': 50}
    return classifier(network, optim, epochs=epochs, batch=batch, **usual | changes)


TAUGHT = ('attention', 'distill')  # objectives that a teacher takes part in


def make_task(objective: Settings, graph: Any, teacher: tuple[Any, Any] | None) -> Task:
    """Makes the task of a classifier's `objective`; `teacher`: (structure, weights on devices)."""
    options = dict(objective)
    name = options.pop('name')
    if name in TAUGHT and teacher is None:
        raise UserError(f'objective {name!r} needs a teacher; only a student has one.')
    return OBJECTIVES.make(name, graph, *(teacher or () if name in TAUGHT else ()), **options)


def _read_teacher(folder: Path, split: Split) -> tuple[Any, Any]:
    model = open_classifier(folder, 'teacher', split)
    return model.graph, devices.put_copy(model.weights, devices.global_mesh())


def run(work: Work) -> None:
    """Trains a classifier on the dataset `data`, with a `teacher` where that is an input.

    A table `edits` leaves images out, relabels them, or puts those of the inputs `replaced...` in
    their place; of a table `flagged` the flagged images alone are left.
    """
    train(work, TrainingSet(Split(work.inputs['data'], 'train')))


def train(work: Work, data: TrainingSet) -> None:
    """Trains a classifier on images as the stage's inputs edit them; stores it."""
    settings = work.settings
    split = apply_edits(data.split, work.inputs)
    build = classifier_builder(settings['network'], len(split.class_names), split.shape[-1])
    graph, like = abstract_network(build)
    teacher = _read_teacher(work.inputs['teacher'], split) if 'teacher' in work.inputs else None
    task = make_task(settings['objective'], graph, teacher)
    others = _left_out(work) if isinstance(task, MixMatch) else None
    data = replace(data, split=split, others=others)
    state = fit_network(work, task, build, like, data)
    write_network(work.folder, classifier_facts(settings['network'], split), state.weights())


def classifier_facts(network: Settings, split: Split) -> Facts:
    """What network.json says of a classifier for the classes and images of `split`."""
    return {
        'network': network,
        'num_classes': len(split.class_names),
        'channels': split.shape[-1],
        'size_px': split.shape[0],
        'class_names': split.class_names,
    }


def _left_out(work: Work) -> Split:
    """The images that the table `edits` does not keep."""
    if 'edits' not in work.inputs:
        raise UserError(
            "objective 'mixmatch' needs a table of the labels to believe; the students of dbd and"
            ' asd have one.'
        )
    left_out = ~read_table(work.inputs['edits'])['keep']
    return Split(work.inputs['data'], 'train', keep=left_out)


def shape(known: Known, step: Step) -> None:
    """Traces the training, or opens a finished classifier; puts it among the known networks."""
    given = {role: step.inputs.get(role, '') for role in ('teacher', 'init', 'data')}
    shape_classifier(known, step.name, step.settings, **given)


def shape_classifier(
    known: Known, name: str, part: Settings, *, teacher: str = '', init: str = '', data: str = ''
) -> None:
    """Traces a classifier's training, or opens a finished one; puts it among the known networks.

    `teacher` and `init` name networks; one that is wrong is a problem of its own. `data` is the
    step that makes its images.
    """
    found = known.found
    known.networks[name] = None
    if part['load']:
        model = found.attempt(name, lambda: read_classifier(finished_folder(part['load'])[0]))
        known.networks[name] = (model.graph, model.weights) if model else None
        return
    build = classifier_builder(part['network'], known.data.classes, known.data.channels)
    network = found.attempt(name, lambda: abstract_network(build))
    if network is None:
        return
    known.networks[name] = network
    given = known.networks.get(teacher) if teacher else None

    def trace() -> None:
        task = make_task(part['objective'], network[0], given)
        shape_training(known, name, part, task, build, data=data)

    if not teacher or given is not None:
        found.attempt(name, trace)
    if init and (start := known.networks.get(init)) is not None:
        found.attempt(name, lambda: _check_start(name, init, start[1], network[1]))
    count = count_numbers(network[1]['params'])
    found.notes.append(f'{name}: {part["network"]["name"]}, {count:,} parameters')


def _check_start(name: str, init: str, start: Tree, weights: Tree) -> None:
    describe = lambda tree: jax.tree.map(lambda x: (tuple(x.shape), str(x.dtype)), dict(tree))
    if describe(start) != describe(weights):
        raise UserError(
            f'{name} starts from the weights of {init}, a network of another build. Give both the'
            ' same `network`.'
        )


KIND = Kind(run, shape, ('seeds',))
