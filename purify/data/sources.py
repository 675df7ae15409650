"""Clean datasets from outside: scikit-learn's digits, image folders, npz arrays, anything TFDS knows."""

import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from purify.core.errors import UserError
from purify.core.randomness import stream_rng
from purify.core.registry import Registry
from purify.data import images, tfds_source

ARRAYS = ('images', 'labels', 'ids', 'class_names')
SUFFIXES = {'.png', '.jpg', '.jpeg', '.webp', '.bmp', '.gif', '.tif', '.tiff', '.ppm', '.pgm', '.jp2', '.avif'}


@dataclass(frozen=True)
class Pool:
    """Labelled images by position.

    Attributes:
      ids: i64[n], what the images are called for good (their index in the source's own order).
      labels: i32[n].
      fetch: position -> u8[h w c], decoded and resized on each call.
    """

    ids: np.ndarray
    labels: np.ndarray
    fetch: Callable[[int], np.ndarray]

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, positions: np.ndarray) -> 'Pool':
        """The pool of the given positions, in that order."""
        fetch, chosen = self.fetch, positions.tolist()
        return Pool(self.ids[positions], self.labels[positions], lambda k: fetch(chosen[k]))

    def mapped(self, change: Callable[[np.ndarray], np.ndarray]) -> 'Pool':
        """The pool whose images are `change(image)`."""
        fetch = self.fetch
        return Pool(self.ids, self.labels, lambda k: change(fetch(k)))


@dataclass(frozen=True)
class Source:
    """A clean dataset: class names, training and test pools, and reference images no other pool holds (or None)."""

    class_names: list[str]
    train: Pool
    test: Pool
    reference: Pool | None = None


def read_digits(channels: int) -> Source:
    """scikit-learn's 1,797 digits, 8x8 grey, each pixel doubled to 16x16 and 0..16 scaled to 0..255.

    Shuffled once with a fixed seed: 700 reference images (the embedded prior was trained on these), 800 training and
    297 test images. The cut never changes, so the embedded prior has seen none of the other two.
    """
    from sklearn.datasets import load_digits

    if channels != 1:
        raise UserError(f'source digits is grey: source.channels must be 1, not {channels}.')
    digits: Any = load_digits()
    pixels = np.round(digits.images * (255 / 16)).astype(np.uint8).repeat(2, 1).repeat(2, 2)[..., None]
    everything = _pool(pixels, digits.target)
    order = np.random.default_rng(0).permutation(len(everything))
    reference, train, test = (everything.take(np.sort(part)) for part in np.split(order, [700, 1500]))
    return Source([str(k) for k in range(10)], train, test, reference)


def read_imagefolder(channels: int, path: str, *, train: str = 'train', test: str = 'test') -> Source:
    """`path/train/<class>/*` and `path/test/<class>/*`, any format Pillow reads; ids follow the sorted file names."""
    root = Path(path).expanduser()
    names = [_class_folders(root / split) for split in (train, test)]
    if names[0] != names[1]:
        odd = sorted(set(names[0]) ^ set(names[1]))
        raise UserError(f'{root}: the class folders of {train!r} and {test!r} differ: {", ".join(odd)}. Both need every class.')

    def pool(split: str) -> Pool:
        files = [(file, k) for k, name in enumerate(names[0]) for file in _pictures(root / split / name)]
        labels = np.array([k for _, k in files], np.int32)
        return Pool(np.arange(len(files)), labels, lambda i: images.read(files[i][0], channels))

    return Source(names[0], pool(train), pool(test))


def _class_folders(folder: Path) -> list[str]:
    if not folder.is_dir():
        raise UserError(f'{folder}: no such folder. An imagefolder source needs train/<class>/ and test/<class>/ folders.')
    return sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith('.'))


def _pictures(folder: Path) -> list[Path]:
    files = sorted(file for file in folder.iterdir() if file.suffix.lower() in SUFFIXES and not file.name.startswith('.'))
    if not files:
        raise UserError(f'{folder}: no pictures in this class folder (looked for {", ".join(sorted(SUFFIXES))}).')
    return files


def read_arrays(channels: int, path: str, *, train: str = 'train.npz', test: str = 'test.npz') -> Source:
    """`path/train.npz` and `path/test.npz` with images u8[n h w c] (or [n h w]) and integer labels [n].

    `class_names` and `ids` [n] may be there too. Never unpickles.
    """
    root = Path(path).expanduser()
    pools, found = [], []
    for file in (root / train, root / test):
        pixels, labels, ids, names = _read_npz(file, channels)
        pools.append(_pool(pixels, labels, ids))
        found.append(names)
    if all(found) and found[0] != found[1]:
        raise UserError(f'{root}: class_names differ: {train} has {found[0][:20]}, {test} has {found[1][:20]}. Make them equal.')
    highest = max(int(pool.labels.max(initial=-1)) for pool in pools)
    names = found[0] or found[1] or [str(k) for k in range(min(highest + 1, sum(map(len, pools))))]
    if highest >= len(names):
        raise UserError(f'{root}: a label is {highest}, but there are only {len(names)} classes; number them from 0.')
    return Source(names, *pools)


def _read_npz(file: Path, channels: int) -> tuple[np.ndarray, np.ndarray, np.ndarray | None, list[str]]:
    try:
        with open(file, 'rb') as opened, np.lib.npyio.NpzFile(opened, allow_pickle=False) as arrays:
            data: dict[str, Any] = {name: arrays[name] for name in ARRAYS if name in arrays}
    except FileNotFoundError as error:
        raise UserError(f'{file}: no such file. An arrays source needs train.npz and test.npz.') from error
    except (ValueError, OSError, EOFError, MemoryError, NotImplementedError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(f'{file}: not a readable npz file without pickles ({error}). Write it again with np.savez.') from error
    if missing := {'images', 'labels'} - set(data):
        raise UserError(f'{file}: has no array {", ".join(sorted(missing))}; it needs images u8[n h w c] and labels [n].')
    pixels, labels, ids = data['images'], data['labels'], data.get('ids')
    pixels = pixels[..., None] if pixels.ndim == 3 else pixels
    if np.issubdtype(pixels.dtype, np.floating) and not np.isfinite(pixels).all():
        raise UserError(f'{file}: images hold NaN or infinite values; clean them and store uint8 0..255.')
    if pixels.dtype != np.uint8 or pixels.ndim != 4 or 0 in pixels.shape[1:]:
        raise UserError(f'{file}: images are {pixels.dtype}{list(pixels.shape)}; they must be uint8 [n h w c], 0..255.')
    if pixels.shape[-1] != channels:
        raise UserError(
            f'{file}: images have {pixels.shape[-1]} channels, but source.channels={channels}. Set it, or convert the images.'
        )
    for name, values in {'labels': labels, **({} if ids is None else {'ids': ids})}.items():
        if not np.issubdtype(values.dtype, np.integer) or values.ndim != 1:
            raise UserError(f'{file}: {name} are {values.dtype}{list(values.shape)}; they must be integers [n].')
        if len(pixels) != len(values):
            raise UserError(f'{file}: {len(pixels)} images but {len(values)} {name}; the numbers must agree.')
        if len(values) and not 0 <= int(values.min()) <= int(values.max()) < 2**31:
            raise UserError(f'{file}: {name} run from {values.min()} to {values.max()}; they must lie in 0 to {2**31 - 1}.')
    names = np.atleast_1d(data.get('class_names', np.array([], str))).tolist()
    return pixels, labels, ids, [name.decode() if isinstance(name, bytes) else str(name) for name in names]


def _pool(pixels: np.ndarray, labels: np.ndarray, ids: np.ndarray | None = None) -> Pool:
    ids = np.arange(len(labels)) if ids is None else ids
    return Pool(ids.astype(np.int64), labels.astype(np.int32), pixels.__getitem__)


def read_tfds(channels: int, dataset: str, **options: Any) -> Source:
    """A TFDS dataset by name; see `tfds_source.read`."""
    names, train, test = tfds_source.read(dataset, channels, **options)
    return Source(names, Pool(*train), Pool(*test))


SOURCES = Registry('source', digits=read_digits, imagefolder=read_imagefolder, arrays=read_arrays, tfds=read_tfds)


def open_source(
    name: str,
    *,
    size_px: int,
    channels: int,
    resample: str,
    classes: str,
    train_size: int,
    test_size: int,
    reference: str,
    reference_size: int,
    split_seed: int,
    **options: Any,
) -> Source:
    """Reads a source, chooses classes and images, and resizes.

    Args:
      name: 'digits', 'imagefolder', 'arrays', or 'tfds:<dataset>'.
      size_px: side of the square images.
      channels: 1 (grey) or 3 (RGB).
      resample: Pillow's filter, one of `images.FILTERS`.
      classes: names to keep, separated by commas; or how many to draw; '' keeps all.
      train_size: how many training images to draw; 0 keeps all that are not held out.
      test_size: how many test images to draw; 0 keeps all.
      reference: where images for training a prior come from: 'none'; 'own' (the source brings them: digits);
        'held_out' (`reference_size` training images are kept apart); 'other_classes' (the classes not chosen).
      reference_size: how many reference images; 0 keeps all ('own', 'other_classes').
      split_seed: draws all of the above; the seeds of poison, model and data order have no part in it.
      **options: what the source itself takes (path, data_dir, ...).

    Raises:
      UserError: for anything that makes no usable dataset.
    """
    if resample not in images.FILTERS:
        raise UserError(f'source.resample={resample!r}: choose from {", ".join(sorted(images.FILTERS))}.')
    if channels not in (1, 3):
        raise UserError(f'source.channels={channels}: choose 1 (grey) or 3 (RGB).')
    if size_px < 1:
        raise UserError(f'source.size_px={size_px}: choose 1 or more.')
    for part, count in {'train_size': train_size, 'test_size': test_size, 'reference_size': reference_size}.items():
        if count < 0:
            raise UserError(f'source.{part}={count}: choose 0 (all) or more.')
    kind, _, dataset = name.partition(':')
    source = SOURCES.make(kind, channels, *([dataset] if dataset else []), **options)
    train, test, spare, names = _choose_classes(source, classes, split_seed)
    own = _unlabelled(source.reference) if classes.strip(', ') and source.reference else source.reference
    held = reference_size if reference == 'held_out' else 0
    if held + train_size > len(train):
        raise UserError(f'source {name}: {held} reference + {train_size} training images asked, but there are {len(train)}.')
    order = stream_rng(split_seed, 'train').permutation(len(train))
    keep = order[held : held + train_size] if train_size else order[held:]
    pools = {'own': own, 'none': None, 'other_classes': spare, 'held_out': train.take(np.sort(order[:held]))}
    apart = _reference(name, pools, reference)
    apart = apart.take(_draw(apart, reference_size, split_seed, 'reference')) if apart else None
    test = test.take(_draw(test, test_size, split_seed, 'test'))
    return _checked(name, Source(names, train.take(np.sort(keep)), test, apart), size_px, resample)


def _reference(name: str, pools: dict[str, Pool | None], kind: str) -> Pool | None:
    if kind not in pools:
        raise UserError(f'source.reference={kind!r}: choose from {", ".join(sorted(pools))}.')
    if kind != 'none' and not pools[kind]:
        raise UserError(f'source {name} has no reference images of the kind {kind!r}; choose another source.reference.')
    return pools[kind]


def _draw(pool: Pool, count: int, seed: int, stream: str) -> np.ndarray:
    if count > len(pool):
        raise UserError(f'{count} {stream} images asked, but the source has {len(pool)}.')
    return np.sort(stream_rng(seed, stream).permutation(len(pool))[: count or None])


def _choose_classes(source: Source, classes: str, seed: int) -> tuple[Pool, Pool, Pool | None, list[str]]:
    names, wanted = source.class_names, [name.strip() for name in classes.split(',') if name.strip()]
    if not wanted:
        return source.train, source.test, None, names
    if classes.lstrip('-').isdecimal():
        if not 2 <= int(classes) <= len(names):
            raise UserError(f'source.classes={classes}: choose 2 to {len(names)}, or names separated by commas.')
        chosen = np.sort(stream_rng(seed, 'classes').permutation(len(names))[: int(classes)])
    else:
        if unknown := [name for name in wanted if name not in names]:
            raise UserError(f'source.classes: no class {", ".join(unknown)}. Choose from: {", ".join(names[:50])}.')
        if len(set(wanted)) < len(wanted):
            raise UserError(f'source.classes={classes}: a class is named twice; name each once.')
        chosen = np.array([names.index(name) for name in wanted])
    number = {int(old): new for new, old in enumerate(chosen)}

    def kept(pool: Pool) -> Pool:
        pool = pool.take(np.flatnonzero(np.isin(pool.labels, chosen)))
        return Pool(pool.ids, np.array([number[int(label)] for label in pool.labels], np.int32), pool.fetch)

    spare = source.train.take(np.flatnonzero(~np.isin(source.train.labels, chosen)))
    return kept(source.train), kept(source.test), _unlabelled(spare), [names[k] for k in chosen]


def _unlabelled(pool: Pool | None) -> Pool | None:
    """All labels 0: those of classes that were not chosen have no number."""
    return Pool(pool.ids, np.zeros(len(pool), np.int32), pool.fetch) if pool else None


def _checked(name: str, source: Source, size_px: int, resample: str) -> Source:
    count = len(source.class_names)
    if odd := [k for k in source.class_names if k != k.strip() or not k or '\n' in k or source.class_names.count(k) > 1]:
        raise UserError(f'source {name}: class names {odd[:10]}: each must be there once, without space around it. Rename them.')
    for split, pool in (('training', source.train), ('test', source.test)):
        if len(pool) == 0:
            raise UserError(f'source {name}: no {split} images.')
        if len(np.unique(pool.ids)) != len(pool):
            raise UserError(f'source {name}: {split} ids occur more than once; ids must be unique.')
        if pool.labels.min() < 0 or pool.labels.max() >= count:
            raise UserError(
                f'source {name}: {split} labels run from {pool.labels.min()} to {pool.labels.max()}; '
                f'with {count} classes they must be 0..{count - 1}.'
            )
        present = np.unique(pool.labels)
        if len(present) < 2:
            raise UserError(f'source {name}: all {split} images have one class; a classifier needs at least two.')
        if len(present) < count:
            absent = [source.class_names[k] for k in range(count) if k not in present]
            raise UserError(
                f'source {name}: no {split} images of class {", ".join(absent[:10])}. Add some or choose source.classes.'
            )

    def resized(pool: Pool) -> Pool:
        return pool.mapped(lambda image: images.resize(image, size_px, resample))

    reference = resized(source.reference) if source.reference else None
    return Source(source.class_names, resized(source.train), resized(source.test), reference)
