"""Networks on disk: writing finished ones, reading them, and weights for others to start from."""

import shutil
from pathlib import Path
from typing import Any, NotRequired, TypedDict

import jax
import numpy as np
from flax import nnx

from purify.core.checkpoint import Checkpoints
from purify.core.devices import barrier, is_lead, say_once
from purify.core.errors import UserError
from purify.core.files import explain_os_errors, read_json, user_path, write_json
from purify.core.randomness import stream_key
from purify.core.types import Facts, Tree
from purify.data.loader import Split
from purify.engine.finished import WEIGHTS
from purify.models.classifiers.pytorch_weights import read_foreign
from purify.models.files.weights import abstract
from purify.stages.classifier import Classifier, check_classes, classifier_builder
from purify.train.state import Build, abstract_network, split_network

NETWORK_FILE = 'network.json'
GIVE = 'Give the folder of a finished teacher or student.'


class Built(TypedDict):
    """The network of a classifier: its name in `NETWORKS`, and its options."""

    name: str


class ClassifierFacts(TypedDict):
    """The file network.json of a classifier."""

    network: Built
    num_classes: int
    channels: int
    size_px: NotRequired[int]
    class_names: list[str]


def write_network(folder: Path, facts: Facts, weights: Tree) -> None:
    """Stores a finished network: network.json, and the weights as an orbax checkpoint of one step.

    Weights that lie there already are replaced: those of a stage without `DONE` may be anything.
    """
    place = folder / WEIGHTS
    if is_lead() and place.exists():
        with explain_os_errors(place):
            shutil.rmtree(place)
    barrier(f'{place} is free')
    final = Checkpoints(place)
    final.save(0, weights)
    final.close()
    write_json(folder / NETWORK_FILE, facts)


def read_facts(folder: Path) -> Facts:
    """Reads network.json in the folder of a classifier (`ClassifierFacts`).

    Raises `UserError` where it describes none.
    """
    file = Path(folder) / NETWORK_FILE
    try:
        facts: Any = read_json(file, ClassifierFacts)
    except UserError as error:
        raise UserError(f'{error} {GIVE}') from error
    if len(facts['class_names']) != facts['num_classes']:
        raise UserError(
            f'{file}: names {len(facts["class_names"])} classes and says'
            f' num_classes={facts["num_classes"]}. {GIVE}'
        )
    return facts


def read_classifier(folder: Path) -> Classifier:
    """Opens a finished classifier stage (or any folder with its network.json and weights)."""
    facts = read_facts(folder)
    build = classifier_builder(facts['network'], facts['num_classes'], facts['channels'])
    try:
        graph, like = abstract_network(build)
    except Exception as error:  # any layer may stumble over a word in place of a number
        raise UserError(
            f'{Path(folder) / NETWORK_FILE}: no network can be built from it ({error}). {GIVE}'
        ) from error
    return Classifier(graph, restore_weights(folder, like), facts)


def open_classifier(
    folder: Path, role: str, split: Split, class_names: list[str] | None = None
) -> Classifier:
    """Opens a finished classifier for images of `split`, with its classes or `class_names`.

    Raises `UserError`, with its `role`, where it was trained for other classes or channels.
    """
    model, names = read_classifier(folder), class_names or split.class_names
    check_classes(model, names, split.shape[-1], f'the {role} {folder}')
    return model


def restore_weights(folder: Path, like: Tree) -> Any:
    """Restores NumPy weights shaped as `like` from a finished stage or a bare orbax checkpoint."""
    folder = user_path(folder).absolute()
    if not folder.is_dir():
        raise UserError(
            f'{folder}: no such folder. Give that of a finished stage or of an orbax checkpoint.'
        )
    inner = folder / WEIGHTS
    checkpoints = Checkpoints(inner if inner.is_dir() else folder, create=False)
    here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    target = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=here), like)
    try:
        return jax.tree.map(np.asarray, checkpoints.restore(target)[1])
    finally:
        checkpoints.close()


def starting_weights(start: Path, build: Build, like: Tree, seed: int) -> Any:
    """Reads weights to start from: of a stage, a checkpoint, or another library's safetensors file.

    Where the head there is for another number of classes, ours is as in a fresh network of this
    `seed`.
    """
    if start.is_dir():
        others = other_classes(start, like)
        weights = restore_weights(start, with_head(like, others) if others else like)
        if not others:
            return weights
        params, stats = weights['params'], weights['stats']
    else:
        network = abstract(build)
        headless = read_foreign(network, start).headless
        _, params, stats = split_network(network)
        if not headless:
            return {'params': params, 'stats': stats}
    key = stream_key(seed, 'init')
    # Compiled, so that only the head is drawn.
    fresh = jax.jit(lambda: split_network(build(nnx.Rngs(key)))[1]['head'])
    say_once(f'{start}: its head is for another number of classes, so ours is a fresh one')
    return {'params': params | {'head': jax.tree.map(np.asarray, fresh())}, 'stats': stats}


def other_classes(start: Path, like: Tree) -> int:
    """How many classes the head in a classifier's folder is for, if not as many as in `like`; or 0.

    0 too for folders that do not say it, as most checkpoints; that of a classifier's stage lies
    beside its network.json.
    """
    file = (start.parent if start.name == WEIGHTS else start) / NETWORK_FILE
    if not file.is_file() or 'head' not in like['params']:
        return 0
    try:
        classes = read_json(file, Facts).get('num_classes')
    except UserError:
        return 0  # the weights alone are wanted, and whoever restores them sees whether they fit
    ours = {x.shape[-1] for x in jax.tree.leaves(like['params']['head'])}
    return classes if type(classes) is int and ours != {classes} else 0


def with_head(like: Tree, classes: int) -> Any:
    """Gives weights, which are shapes, a head for so many classes."""
    widened = lambda x: jax.ShapeDtypeStruct((*x.shape[:-1], classes), x.dtype)
    head = jax.tree.map(widened, like['params']['head'])
    return like | {'params': like['params'] | {'head': head}}
