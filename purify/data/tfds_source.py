"""Datasets by their TFDS name, downloaded on the user's machine, read without TensorFlow."""

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

from purify.core.errors import UserError
from purify.core.randomness import stream_rng

Parts = tuple[np.ndarray, np.ndarray, Callable[[int], np.ndarray]]


def read(
    dataset: str,
    channels: int,
    *,
    data_dir: str = '',
    label: str = 'label',
    train: str = 'train',
    test: str = '',
    test_share: float = 0.2,
    min_per_class: int = 0,
) -> tuple[list[str], Parts, Parts]:
    """Reads `dataset` ('cifar10', 'imagenette/full-size-v2', 'lfw', ...), downloading it first where needed.

    Args:
      dataset: TFDS's name, with builder config and version if wanted.
      channels: 1 or 3; grey pictures become RGB and the other way round.
      data_dir: where TFDS keeps data; '' is TFDS's own default.
      label: the feature that is the class; a text feature (lfw) becomes classes by its sorted values.
      train: split for training.
      test: split for testing; '' takes 'test', else 'validation', else holds out `test_share` of every class.
      test_share: share of each class held out when there is no test split.
      min_per_class: classes with fewer training images are left out (lfw: 16, which are left where a fifth of 20 is
        held out, gives the identities with 20 images or more).

    Returns:
      class names, and (ids, labels, fetch) of training and test images.

    Raises:
      UserError: where TFDS does not know the dataset, cannot get it, or it has no such splits and features.
    """
    if not 0 < test_share < 1:
        raise UserError(f'source.test_share={test_share}: choose a share between 0 and 1.')
    builder = _prepared(dataset, data_dir)
    splits = list(builder.info.splits)
    if unknown := {train, test or train} - set(splits):
        raise UserError(f'tfds:{dataset} has no split {", ".join(sorted(unknown))}; it has {", ".join(splits)}.')
    chosen = test or next((name for name in ('test', 'validation') if name in splits), '')
    names, labels = _labels(builder, train, label, dataset)
    if chosen:
        test_names, test_labels = _labels(builder, chosen, label, dataset)
        if test_names != names:
            raise UserError(f'tfds:{dataset}: splits {train!r} and {chosen!r} have different classes.')
        parts = _parts(builder, train, labels, channels), _parts(builder, chosen, test_labels, channels)
    else:
        whole = _parts(builder, train, labels, channels)
        out = np.concatenate([_held_out(np.flatnonzero(labels == k), test_share, k) for k in range(len(names))])
        mask = np.zeros(len(labels), bool)
        mask[out] = True
        parts = _choose(whole, ~mask), _choose(whole, mask)
    if min_per_class:
        names, parts = _frequent(names, parts, min_per_class)
    return names, *parts


def _prepared(dataset: str, data_dir: str) -> Any:
    try:
        builder: Any = tfds.builder(dataset, data_dir=data_dir or None)
    except tfds.core.DatasetNotFoundError as error:
        raise UserError(f'tfds:{dataset}: TFDS knows no such dataset; see tensorflow.org/datasets/catalog.') from error
    except Exception as error:  # a wrong version, builder config or way of writing
        raise UserError(
            f'tfds:{dataset}: TFDS cannot open it: {_shortened(error)}. Its versions and configs: tensorflow.org/datasets/catalog.'
        ) from error
    try:
        builder.download_and_prepare(file_format='array_record')
    except (ImportError, AttributeError) as error:
        raise UserError(
            f"tfds:{dataset}: TFDS's download code for this dataset needs what purify does not install, mostly TensorFlow "
            f'({error}). Prepare it once anywhere that has it: tfds build {dataset} --file_format=array_record '
            '--data_dir=DIR; then give --config.source.data_dir=DIR.'
        ) from error
    except Exception as error:  # download, checksum, manual-download and disk errors come in many classes
        raise UserError(
            f'tfds:{dataset}: could not be downloaded or prepared: {_shortened(error)}. '
            'Check the network, or prepare it elsewhere as array_record and give --config.source.data_dir=DIR.'
        ) from error
    if 'array_record' not in str(builder.info.file_format.value):
        raise UserError(
            f'tfds:{dataset}: prepared as {builder.info.file_format.value}, which cannot be read at random. Convert it: '
            'python -m tensorflow_datasets.scripts.convert_format, or prepare it again with --file_format=array_record.'
        )
    return builder


def _shortened(error: Exception) -> str:
    return f'{type(error).__name__}: {" ".join(str(error).split())[:500]}'


def _labels(builder: Any, split: str, label: str, dataset: str) -> tuple[list[str], np.ndarray]:
    features = builder.info.features
    if label not in features or 'image' not in features:
        raise UserError(f'tfds:{dataset}: needs the features image and {label}; it has {", ".join(features)}.')
    skip = {'image': tfds.decode.SkipDecoding()}
    source = builder.as_data_source(split=split, decoders=skip)
    values = [source[i][label] for i in range(len(source))]
    if isinstance(features[label], tfds.features.ClassLabel):
        return list(features[label].names), np.array(values, np.int32)
    texts = [value.decode() if isinstance(value, bytes) else str(value) for value in values]
    names, numbers = np.unique(texts, return_inverse=True)
    return [str(name) for name in names], numbers.astype(np.int32)


def _parts(builder: Any, split: str, labels: np.ndarray, channels: int) -> Parts:
    source = builder.as_data_source(split=split)

    def fetch(position: int) -> np.ndarray:
        image = np.asarray(source[position]['image'])
        if image.shape[-1] == channels:
            return image
        picture = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
        return np.asarray(picture.convert('L' if channels == 1 else 'RGB')).reshape(*image.shape[:2], channels)

    return np.arange(len(labels)), labels, fetch


def _choose(parts: Parts, mask: np.ndarray) -> Parts:
    ids, labels, fetch = parts
    positions = np.flatnonzero(mask).tolist()
    return ids[mask], labels[mask], lambda k: fetch(positions[k])


def _held_out(positions: np.ndarray, share: float, label: int) -> np.ndarray:
    count = int(np.ceil(share * len(positions)))
    return stream_rng(0, 'held_out', label).permutation(positions)[:count]


def _frequent(names: list[str], parts: tuple[Parts, Parts], least: int) -> tuple[list[str], tuple[Parts, Parts]]:
    counts = np.bincount(parts[0][1], minlength=len(names))
    kept = np.flatnonzero(counts >= least)
    if not len(kept):
        raise UserError(f'source.min_per_class={least}: no class has that many training images.')
    number = np.full(len(names), -1)
    number[kept] = np.arange(len(kept))

    def renumbered(part: Parts) -> Parts:
        ids, labels, fetch = _choose(part, np.isin(part[1], kept))
        return ids, number[labels].astype(np.int32), fetch

    return [names[k] for k in kept], (renumbered(parts[0]), renumbered(parts[1]))
