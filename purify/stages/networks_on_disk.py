"""Networks on disk: building them from settings, and finding finished ones wherever they lie."""

import functools
import hashlib
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NotRequired, TypedDict

import jax
import numpy as np
from flax import nnx

from purify.core.checkpoint import Checkpoints
from purify.core.devices import barrier, is_lead, say_once
from purify.core.errors import UserError
from purify.core.files import (
    explain_os_errors,
    fingerprint,
    read_json,
    sha256_of,
    user_path,
    write_json,
)
from purify.core.randomness import stream_key
from purify.core.types import Facts, Settings, Tree
from purify.engine.finished import DONE, STATE, WEIGHTS, check_files, files_of, read_done
from purify.generative.sscd_encoder import PUBLISHED, copy_file
from purify.models.classifiers.pytorch_weights import read_foreign
from purify.models.classifiers.registry import NETWORKS
from purify.models.files.hub import COMPONENTS, INDEX, read_index, resolve
from purify.models.files.weights import abstract
from purify.train.state import Build, abstract_network, split_network

EMBEDDED = {'digits': Path(__file__).parent.parent / 'models' / 'pretrained' / 'digits_ddpm'}
NETWORK_FILE = 'network.json'
GIVE = 'Give the folder of a finished teacher or student.'
_READ = ('.safetensors', '.json', '.txt')  # of a prior's folder


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


@dataclass(frozen=True, eq=False)
class Classifier:
    """A finished classifier: its structure, weights {'params', 'stats'} (NumPy), network.json."""

    graph: nnx.GraphDef
    weights: Tree
    facts: Facts

    def predict(self, weights: Tree, rows: dict[str, jax.Array]) -> jax.Array:
        """Predicts the classes i32[b] of rows with 'image' u8[b h w c]."""
        return self.logits(weights, rows['image'].astype(np.float32) / 255).argmax(-1)

    def logits(self, weights: Tree, images: jax.Array) -> jax.Array:
        """Computes the logits f32[b k] of images f32[b h w c] in [0, 1]."""
        return nnx.merge(self.graph, weights['params'], weights['stats'])(images, train=False)

    def answer(self, weights: Tree, images: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Computes logits f32[b k] and features f32[b d] of images f32[b h w c] in [0, 1]."""
        network = nnx.merge(self.graph, weights['params'], weights['stats'])
        features = network.features(images, train=False)
        return network.head(features), features

    def embed(self, weights: Tree, images: jax.Array) -> jax.Array:
        """Computes the features f32[b d] that the head reads of images f32[b h w c] in [0, 1]."""
        features = nnx.merge(self.graph, weights['params'], weights['stats']).features(
            images, train=False
        )
        return features.astype(np.float32)

    def digest(self) -> str:
        """SHA-256 of the weights."""
        whole = hashlib.sha256()
        for array in jax.tree.leaves(self.weights):
            whole.update(np.ascontiguousarray(array).tobytes())
        return whole.hexdigest()


def classifier_builder(settings: Settings, num_classes: int, channels: int) -> Build:
    """Makes the function from rngs to the classifier network of those settings."""
    options = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in settings.items()
        if name != 'name'
    }
    return lambda rngs: NETWORKS.make(
        settings['name'], num_classes=num_classes, channels=channels, **options, rngs=rngs
    )


def check_classes(model: Classifier, class_names: list[str], channels: int, what: str) -> None:
    """Raises `UserError` unless the classifier was trained for these very classes and channels."""
    if model.facts['class_names'] != class_names or model.facts['channels'] != channels:
        raise UserError(
            f'{what} was trained for {model.facts["channels"]} channels and classes'
            f' {", ".join(model.facts["class_names"][:10])}; this dataset has {channels} channels'
            f' and classes {", ".join(class_names[:10])}. Load a network of the same dataset.'
        )


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
    except (
        Exception
    ) as error:  # a word for a number comes to light in whichever layer reckons with it
        raise UserError(
            f'{Path(folder) / NETWORK_FILE}: no network can be built from it ({error}). {GIVE}'
        ) from error
    return Classifier(graph, restore_weights(folder, like), facts)


def restore_weights(folder: Path, like: Tree) -> Any:
    """Restores NumPy weights shaped as `like` from a finished stage or a bare orbax checkpoint."""
    folder = user_path(folder).absolute()
    if not folder.is_dir():
        raise UserError(
            f'{folder}: no such folder. Give the folder of a finished stage or of an orbax'
            ' checkpoint.'
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
    fresh = jax.jit(
        lambda: split_network(build(nnx.Rngs(key)))[1]['head']
    )  # compiled, so that only the head is drawn
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
    if type(classes) is not int:
        return 0
    return (
        classes
        if {x.shape[-1] for x in jax.tree.leaves(like['params']['head'])} != {classes}
        else 0
    )


def with_head(like: Tree, classes: int) -> Any:
    """Gives weights, which are shapes, a head for so many classes."""
    head = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct((*x.shape[:-1], classes), x.dtype), like['params']['head']
    )
    return like | {'params': like['params'] | {'head': head}}


def finished_folder(path: str) -> tuple[Path, str]:
    """Checks the folder of a finished network that a user names; returns its path and a digest.

    Raises `UserError` where it is none, or its files are not those that its stage wrote.
    """
    folder = user_path(path).absolute()
    read_facts(folder)
    return folder, _checked_digest(folder)


def start_folder(path: str) -> tuple[Path, str]:
    """Checks what a user names to start a training from; returns its path and a digest of it.

    Raises `UserError` where a finished stage's files are not those that it wrote.
    """
    start = user_path(path).absolute()
    return start, _checked_digest(start)


def _checked_digest(path: Path) -> str:
    """The digest of a file or of all files in a folder, once `_check_stage` has looked at them."""
    _check_stage(path)
    return _digest(path) if path.is_file() else fingerprint(_digests(path))


def _check_stage(path: Path) -> None:
    """Checks a folder or file that a user names against the finished stage that it is or lies in.

    A folder of a stage before 0.2, which noted no hashes, is taken without `DONE` as any other
    folder is.
    """
    advice = (
        f'Train it again, give another, or delete {DONE} there where you know that it is whole.'
    )
    for folder in dict.fromkeys((path, path.parent, path.resolve().parent)):
        if (folder / DONE).exists():
            check_files(folder, read_done(folder, advice), advice, _digests(folder))
            return


def _digests(folder: Path) -> dict[str, str]:
    return {name: _digest(file) for name, file in files_of(folder).items()}


def prior_folder(load: str, revision: str) -> tuple[Path, str]:
    """Finds a prior by 'digits', a folder or a hub id; returns its folder and a digest."""
    folder = EMBEDDED.get(load) or resolve(load, revision=revision or None)
    _check_stage(folder)
    return folder, _folder_digest(folder, 'a prior is a folder in diffusers format')


def encoder_folder(load: str, revision: str) -> tuple[Path, str]:
    """Finds an encoder (CLIP, SSCD or a finished network); returns where it is and a digest."""
    if (user_path(load) / NETWORK_FILE).is_file():
        return finished_folder(load)
    if (file := copy_file(user_path(load).absolute())) is not None:
        return file, _checked_digest(file)
    if Path(load).suffix in ('.safetensors', *PUBLISHED) or user_path(load).is_file():
        raise UserError(
            f"{load}: no such file of SSCD, which is a '.safetensors'; or give the folder of"
            ' another encoder.'
        )
    folder = resolve(load, revision=revision or None)
    return folder, _folder_digest(
        folder, "an encoder is a folder of CLIP, a file of SSCD, or a finished classifier's folder"
    )


def _folder_digest(folder: Path, expected: str) -> str:
    files = [
        path
        for path in sorted(folder.rglob('*'))
        if path.suffix in _READ and STATE not in path.parts
    ]
    if (folder / INDEX).is_file():
        read = COMPONENTS.get(read_index(folder)['_class_name'])
        files = [
            path
            for path in files
            if read is None or path.parent == folder or path.relative_to(folder).parts[0] in read
        ]
    if not any(path.suffix == '.safetensors' for path in files):
        raise UserError(f'{folder}: holds no *.safetensors; {expected}.')
    return fingerprint({str(path.relative_to(folder)): _digest(path) for path in files})


def _digest(path: Path) -> str:
    """SHA-256 of a file, computed once in a process: files may have gigabytes."""
    try:
        stat = path.stat()
        return _digest_once(path, stat.st_size, stat.st_mtime_ns)
    except OSError as error:
        raise UserError(
            f'{path}: cannot be read ({error.strerror}). Give another folder.'
        ) from error


@functools.cache
def _digest_once(path: Path, size: int, changed_ns: int) -> str:
    return sha256_of(path)
