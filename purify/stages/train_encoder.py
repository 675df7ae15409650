"""The stage that trains a network's features without labels, and opening finished encoders."""

from pathlib import Path
from typing import Any

import jax
from flax import nnx

from purify.core import devices
from purify.core.errors import UserError
from purify.core.randomness import stream_key
from purify.core.types import Facts, Settings
from purify.data.loader import Split
from purify.data.training_set import TrainingSet
from purify.defenses.method import Step
from purify.engine.finished import DONE, read_done
from purify.engine.stage import Work
from purify.generative.clip_encoder import ClipEncoder
from purify.generative.sscd_encoder import CopyEncoder, copy_file
from purify.stages.classifier import Classifier, classifier_builder
from purify.stages.fit_network import fit_network
from purify.stages.kind import Kind
from purify.stages.known import Known, shape_training
from purify.stages.networks_on_disk import NETWORK_FILE, read_classifier, read_facts, write_network
from purify.stages.train_classifier import classifier_facts
from purify.train.objectives.contrast import Contrast, Projected
from purify.train.state import Build, abstract_network, split_network
from purify.train.views import Views


def encoder_builder(settings: Settings, num_classes: int, channels: int) -> Build:
    """Makes the function from rngs to the network of an encoder step, with its projection."""
    build = classifier_builder(settings['network'], num_classes, channels)
    return lambda rngs: Projected(build(rngs), settings['projection'], rngs=rngs)


def make_contrast(settings: Settings, graph: Any, images: int) -> Contrast:
    """Makes the task of an encoder step that trains on so many `images`.

    Raises `UserError` for batches without rivals.
    """
    objective, batch = settings['objective'], settings['batch']
    if not 2 <= batch <= images:
        raise UserError(
            f'encoder.batch={batch}: an image is told from the others of its batch, each there'
            f' once. Choose 2 to {images}, the number of images.'
        )
    views = objective['views'] | {'crop': tuple(objective['views']['crop'])}  # JSON has lists
    return Contrast(graph, Views(**views), objective['temperature'])


def run(work: Work) -> None:
    """Trains features on `data` by contrast; leaves a classifier whose head is fresh."""
    settings = work.settings
    split = Split(work.inputs['data'], 'train')
    build = encoder_builder(settings, len(split.class_names), split.shape[-1])
    graph, like = abstract_network(build)
    task = make_contrast(settings, graph, len(split))
    state = fit_network(work, task, build, like, TrainingSet(split))
    facts = classifier_facts(settings['network'], split)
    # where there are no statistics, there is no entry
    plain = {name: part.get('network', {}) for name, part in state.weights().items()}
    # the old head knew nothing but weight decay
    plain['params'] = plain['params'] | {'head': _fresh_head(settings, facts)}
    write_network(work.folder, facts, plain)


def _fresh_head(settings: Settings, facts: Facts) -> Any:
    """The head of a new network, a function of the seed; on every device."""
    build = classifier_builder(settings['network'], facts['num_classes'], facts['channels'])
    key = stream_key(settings['seeds']['model'], 'head')
    make = lambda: split_network(build(nnx.Rngs(key)))[1]['head']
    return jax.jit(make, out_shardings=devices.replicated(devices.global_mesh()))()


def open_encoder(folder: Path, *, weights: bool = True) -> Classifier | ClipEncoder | CopyEncoder:
    """Opens what embeds images: a finished network, SSCD's file, or CLIP's image encoder.

    A folder with a network.json is the first, a safetensors file (or a folder of one and no
    config.json) the second, any other folder the third. Without `weights`, the last two hold
    shapes. Raises `UserError` for what is none of these.
    """
    if (folder / NETWORK_FILE).is_file():
        return read_classifier(folder)
    if (file := copy_file(folder)) is not None:
        return CopyEncoder.from_file(file, weights=weights)
    return ClipEncoder.from_folder(folder, weights=weights)


def describe_encoder(folder: Path) -> Facts:
    """Describes an encoder: {'encoder': what it is, 'copy_detection': if it was made for that}."""
    if (file := copy_file(folder)) is not None:
        return {'encoder': f'SSCD ({file.name})', 'copy_detection': True}
    if not (folder / NETWORK_FILE).is_file():
        return {'encoder': f'CLIP ({folder.name})', 'copy_detection': False}
    network, stage, objective = read_facts(folder)['network']['name'], folder.name, None
    if (folder / DONE).is_file():
        done = read_done(folder, older=True)  # this alone is read, and it is but a name
        stage, objective = done['stage'], done['settings'].get('objective')
    contrast = isinstance(objective, dict) and objective.get('name') == 'contrast'
    how = ', trained without labels' if contrast else ''
    return {'encoder': f'{stage} ({network}{how})', 'copy_detection': False}


def shape(known: Known, step: Step) -> None:
    """Traces the training; the classifier that it leaves is known from then on."""
    part, data = step.settings, known.data
    known.networks[step.name] = None
    build = encoder_builder(part, data.classes, data.channels)
    task = make_contrast(part, abstract_network(build)[0], data.images)
    shape_training(known, step.name, part, task, build)
    plain = classifier_builder(part['network'], data.classes, data.channels)
    known.networks[step.name] = abstract_network(plain)


KIND = Kind(run, shape, ('seeds',))
