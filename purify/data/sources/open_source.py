"""Clean datasets from outside: scikit-learn's digits, image folders, npz arrays, and TFDS."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from purify.core.devices import say_once
from purify.core.errors import UserError
from purify.core.files import user_path
from purify.core.randomness import stream_rng
from purify.core.registry import Registry
from purify.core.types import Facts
from purify.data import images
from purify.data.content import marks, walk
from purify.data.names import check_class_names, looks
from purify.data.sources.arrays import make_pool, read_arrays, sign_arrays
from purify.data.sources.imagefolder import read_imagefolder, sign_imagefolder
from purify.data.sources.source import Pool, Source
from purify.data.sources.tfds import read_tfds, sign_tfds


def read_digits(channels: int) -> Source:
    """Reads scikit-learn's 1,797 digits, 8x8 grey, doubled to 16x16 and scaled to 0..255.

    Shuffled once with a fixed seed: 700 reference images (the embedded prior was trained on these),
    800 training and 297 test images. The cut never changes, so that prior has not seen the others.
    """
    from sklearn.datasets import load_digits

    if channels != 1:
        raise UserError(f'source digits is grey: source.channels must be 1, not {channels}.')
    digits: Any = load_digits()
    pixels = np.round(digits.images * (255 / 16)).astype(np.uint8)
    everything = make_pool(pixels.repeat(2, 1).repeat(2, 2)[..., None], digits.target)
    parts = np.split(np.random.default_rng(0).permutation(len(everything)), [700, 1500])
    reference, train, test = (everything.take(np.sort(part)) for part in parts)
    return Source([str(k) for k in range(10)], train, test, reference)


_SELDOM = ('label', 'train', 'test', 'test_share', 'min_per_class')  # asked for of TFDS


def sign_source(source: Mapping[str, Any]) -> dict[str, str]:
    """What tells every file of a config's `source` from another; empty where it reads none.

    Whatever changes what `open_source` gives changes this or the part itself, within the limits of
    `content.marks`. Nothing is downloaded; of what is missing `open_source` complains.
    """
    kind, _, dataset = source['name'].partition(':')
    if kind == 'tfds':
        return sign_tfds(dataset, source.get('data_dir', ''))
    signers = {'arrays': sign_arrays, 'imagefolder': sign_imagefolder}
    if not source.get('path'):
        return {}
    # Of a source from outside nobody knows what it reads: all that is there.
    if kind not in signers:
        path = user_path(source['path'])
        paths = [entry.path for entry in walk(path)] if path.is_dir() else [str(path)]
        return marks({name: Path(name) for name in paths})
    given = {name: source[name] for name in ('train', 'test') if name in source}
    return signers[kind](source['path'], **given)


def open_source(
    name: str,
    *,
    size_px: int,
    channels: int = 3,
    resample: str = 'bicubic',
    classes: str = '',
    train_size: int = 0,
    test_size: int = 0,
    reference: str = 'none',
    reference_size: int = 0,
    split_seed: int = 0,
    skip: int = 0,
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
      reference: where images for training a prior come from: 'none'; 'own' (the source brings them:
        digits); 'held_out' (`reference_size` training images are drawn and kept apart); 'first'
        (the source's first `reference_size` training images are); 'other_classes' (the classes
        not chosen).
      reference_size: how many reference images; 0 keeps all ('own', 'other_classes').
      skip: how many training images, the first of the source, are left out altogether, because
        somebody (the prior `photos32`) has seen them.
      split_seed: draws all of the above; the seeds of poison, model and data order have no part in
        it.
      **options: what the source itself takes (path, data_dir, ...).

    Raises:
      UserError: for anything that makes no usable dataset.
    """
    _check_size(resample, channels, size_px)
    sizes = {'train_size': train_size, 'test_size': test_size, 'reference_size': reference_size}
    for part, count in (sizes | {'skip': skip}).items():
        if count < 0:
            raise UserError(f'source.{part}={count}: choose 0 (all) or more.')
    if reference == 'none' and reference_size:
        say_once(f'source.reference_size={reference_size} has no effect: source.reference is none.')
    kind, _, dataset = name.partition(':')
    source = SOURCES.make(kind, channels, *([dataset] if dataset else []), **options)
    source = _leave_out(name, source, skip)
    train, test, spare, names = _choose_classes(source, classes, split_seed)
    own = _unlabelled(source.reference) if classes.strip(', ') else source.reference
    held = reference_size if reference in ('first', 'held_out') else 0
    if held + train_size > len(train):
        raise UserError(
            f'source {name}: {held} reference + {train_size} training images asked, but there are'
            f' {len(train)}. Lower source.reference_size or source.train_size; a finished prior'
            ' (prior=...) needs no reference images, nor do defences without a prior.'
        )
    order = stream_rng(split_seed, 'train').permutation(len(train))
    if reference == 'first':
        order = np.concatenate([np.arange(held), order[order >= held]])
    keep = order[held : held + train_size] if train_size else order[held:]
    cut = train.take(np.sort(order[:held]))
    pools = {'own': own, 'none': None, 'other_classes': spare, 'first': cut, 'held_out': cut}
    apart = _reference(name, pools, reference)
    apart = apart.take(_draw(apart, reference_size, split_seed, 'reference')) if apart else None
    test = test.take(_draw(test, test_size, split_seed, 'test'))
    chosen = Source(names, train.take(np.sort(keep)), test, apart, source.notes)
    return _checked(name, chosen, size_px, resample)


SOURCES: Registry[Callable[..., Source]] = Registry(
    'source',
    common=open_source,
    hidden=('dataset', 'arrays.train', 'arrays.test', *(f'tfds.{name}' for name in _SELDOM)),
    digits=read_digits,
    imagefolder=read_imagefolder,
    arrays=read_arrays,
    tfds=read_tfds,
)


def source(name: str, *, size_px: int, **changes: Any) -> Facts:
    """The part `source` of a config.

    `name` is 'digits', 'tfds:<dataset>', or 'arrays:<path>' and 'imagefolder:<path>'. `changes` are
    arguments of `open_source` and of the source's own reader. Raises ValueError for unknown ones.
    """
    kind, _, rest = name.partition(':')
    where = {'path': rest} if SOURCES.takes(kind, 'path') else {}
    part = SOURCES.part(kind, size_px=size_px, **where, **changes)
    return part if where else part | {'name': name}


def small_cifar10(name: str) -> Facts:
    """The part `source` of a config for two cores: 10,000 images that `photos32` has not seen.

    `name` is 'arrays:<path>' with all of CIFAR-10 in its own order: TFDS shuffles, and of a folder
    nobody knows the order. Raises ValueError for others.
    """
    if not name.startswith('arrays:'):
        raise ValueError(
            f'source={name}: give arrays:DIR, with all of CIFAR-10 in its own order (train.npz,'
            ' test.npz); its first 30,000 images, which the prior photos32 has seen, are left out.'
        )
    return source(name, size_px=32, skip=30_000, train_size=10_000, test_size=2000)


def _check_size(resample: str, channels: int, size_px: int) -> None:
    if resample not in images.FILTERS:
        choices = ', '.join(sorted(images.FILTERS))
        raise UserError(f'source.resample={resample!r}: choose from {choices}.')
    if channels not in (1, 3):
        raise UserError(f'source.channels={channels}: choose 1 (grey) or 3 (RGB).')
    if size_px < 1:
        raise UserError(f'source.size_px={size_px}: choose 1 or more.')


def _leave_out(name: str, source: Source, skip: int) -> Source:
    """The source without its first `skip` training images."""
    count = len(source.train)
    if skip and skip >= count:
        raise UserError(
            f'source {name}: source.skip={skip} leaves none of {count} training images.'
        )
    kept = source.train.take(np.arange(skip, count))
    return Source(source.class_names, kept, source.test, source.reference, source.notes)


def _reference(name: str, pools: dict[str, Pool | None], kind: str) -> Pool | None:
    if kind not in pools:
        raise UserError(f'source.reference={kind!r}: choose from {", ".join(sorted(pools))}.')
    if kind != 'none' and not pools[kind]:
        raise UserError(
            f'source {name} has no reference images {kind!r}; choose another source.reference.'
        )
    return pools[kind]


def _draw(pool: Pool, count: int, seed: int, stream: str) -> np.ndarray:
    if count > len(pool):
        raise UserError(f'{count} {stream} images asked, but the source has {len(pool)}.')
    return np.sort(stream_rng(seed, stream).permutation(len(pool))[: count or None])


def _choose_classes(
    source: Source, classes: str, seed: int
) -> tuple[Pool, Pool, Pool | None, list[str]]:
    names = source.class_names
    wanted = [name.strip() for name in classes.split(',') if name.strip()]
    if not wanted:
        return source.train, source.test, None, names
    if classes.lstrip('-').isdecimal():
        if not 2 <= int(classes) <= len(names):
            raise UserError(
                f'source.classes={classes}: choose 2 to {len(names)}, or names separated by commas.'
            )
        chosen = np.sort(stream_rng(seed, 'classes').permutation(len(names))[: int(classes)])
    else:
        forms = [*names, *map(looks, names)]  # however the accents are typed
        if unknown := [name for name in wanted if looks(name) not in forms]:
            raise UserError(
                f'source.classes: no class {", ".join(unknown)}. Choose from:'
                f' {", ".join(names[:50])}.'
            )
        found = [name if name in names else looks(name) for name in wanted]
        chosen = np.array([forms.index(form) % len(names) for form in found])
        if len(set(chosen.tolist())) < len(wanted):
            raise UserError(f'source.classes={classes}: a class is named twice; name each once.')
    number = {int(old): new for new, old in enumerate(chosen)}

    def kept(pool: Pool) -> Pool:
        pool = pool.take(np.flatnonzero(np.isin(pool.labels, chosen)))
        labels = np.array([number[int(label)] for label in pool.labels], np.int32)
        return Pool(pool.ids, labels, pool.fetch)

    spare = source.train.take(np.flatnonzero(~np.isin(source.train.labels, chosen)))
    return kept(source.train), kept(source.test), _unlabelled(spare), [names[k] for k in chosen]


def _unlabelled(pool: Pool | None) -> Pool | None:
    """All labels 0: those of classes that were not chosen have no number."""
    return Pool(pool.ids, np.zeros(len(pool), np.int32), pool.fetch) if pool else None


def _checked(name: str, source: Source, size_px: int, resample: str) -> Source:
    count = len(source.class_names)
    check_class_names(name, source.class_names)
    for split, pool in (('training', source.train), ('test', source.test)):
        if len(pool) == 0:
            raise UserError(f'source {name}: no {split} images.')
        if len(np.unique(pool.ids)) != len(pool):
            raise UserError(f'source {name}: {split} ids occur more than once; ids must be unique.')
        if pool.labels.min() < 0 or pool.labels.max() >= count:
            raise UserError(
                f'source {name}: {split} labels run from {pool.labels.min()} to'
                f' {pool.labels.max()}; with {count} classes they must be 0..{count - 1}.'
            )
        present = np.unique(pool.labels)
        if len(present) < 2:
            raise UserError(
                f'source {name}: all {split} images have one class; a network needs at least two.'
            )
        if len(present) < count:
            absent = [source.class_names[k] for k in range(count) if k not in present]
            raise UserError(
                f'source {name}: no {split} images of class {", ".join(absent[:10])}. Add some or'
                ' choose source.classes.'
            )

    def resized(pool: Pool) -> Pool:
        return pool.mapped(lambda image: images.resize(image, size_px, resample))

    reference = resized(source.reference) if source.reference else None
    train, test = resized(source.train), resized(source.test)
    return Source(source.class_names, train, test, reference, source.notes)
