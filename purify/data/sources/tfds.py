"""Datasets by their TFDS name, downloaded where needed, without TensorFlow and OpenCV."""

from pathlib import Path
from typing import Any, TypedDict

import numpy as np
import tensorflow_datasets as tfds

from purify.core.errors import UserError
from purify.core.files import fingerprint, read_json, write_json
from purify.data import images
from purify.data.content import marks
from purify.data.notes import Notes
from purify.data.sources.source import TEST_SHARE, Pool, Source, held_out, say_share_unused

# Beside a dataset that was downloaded here: what it was like then.
DOWNLOADED = 'purify_downloaded.json'


class Downloaded(TypedDict):
    """The file `DOWNLOADED`: a fingerprint of the dataset's files."""

    content: str


def read_tfds(
    channels: int,
    dataset: str,
    *,
    data_dir: str = '',
    label: str = 'label',
    train: str = 'train',
    test: str = '',
    test_share: float = TEST_SHARE,
    min_per_class: int = 0,
) -> Source:
    """Reads a TFDS dataset ('cifar10', 'imagenette/full-size-v2', ...), downloaded if needed.

    Args:
      channels: 1 or 3; grey pictures become RGB and the other way round.
      dataset: TFDS's name, with builder config and version if wanted.
      data_dir: where TFDS keeps data; '' is TFDS's own default.
      label: the feature that is the class; a text feature (lfw) becomes classes by its sorted
        values.
      train: split for training.
      test: split for testing; '' takes 'test', else 'validation', else holds out `test_share` of
        every class.
      test_share: share of each class held out when there is no test split.
      min_per_class: classes with fewer training images are left out (lfw: 16, which are left where
        a fifth of 20 is held out, gives the identities with 20 images or more).

    Raises:
      UserError: where TFDS does not know the dataset or cannot get it, or it lacks what is named.
    """
    builder = _prepared(dataset, data_dir)
    splits = list(builder.info.splits)
    listed = ', '.join(splits)
    if unknown := {train, test or train} - set(splits):
        named = ', '.join(sorted(unknown)) or "''"
        raise UserError(f'tfds:{dataset} has no split {named}; it has {listed}.')
    chosen = test or next((name for name in ('test', 'validation') if name in splits), '')
    if chosen == train:
        raise UserError(
            f'tfds:{dataset}: the split {train!r} for training and for testing: a model would be'
            f' tested on what it was trained on. Set source.train and source.test; it has {listed}.'
        )
    _check_features(builder, label, dataset)
    notes = Notes()
    names, labels = _labels(builder, train, label, dataset)
    whole = _pool(builder, dataset, train, labels, channels, notes)
    if chosen:
        say_share_unused(f'tfds:{dataset}', test_share)
        test_names, test_labels = _labels(builder, chosen, label, dataset)
        if test_names != names:
            raise UserError(
                f'tfds:{dataset}: classes differ in {train!r} and {chosen!r}. Choose others.'
            )
        pools = whole, _pool(builder, dataset, chosen, test_labels, channels, notes)
    else:
        mask = held_out(labels, test_share)
        pools = whole.take(np.flatnonzero(~mask)), whole.take(np.flatnonzero(mask))
    if min_per_class:
        names, pools = _frequent(names, pools, min_per_class)
    return Source(names, *pools, notes=notes)


def sign_tfds(dataset: str, data_dir: str = '') -> dict[str, str]:
    """What tells every file of a dataset on disk from another; nothing is downloaded.

    One that is not there yet, or is as `read_tfds` downloaded it, has no file but its name with the
    version: else a run would not know itself again after its own download.
    """
    try:
        builder = _open(dataset, data_dir)
    except UserError:  # `read_tfds` says what is wrong
        return {}
    name = {'tfds': builder.info.full_name}
    folder = Path(builder.data_dir)
    if not folder.is_dir():
        return name
    files = _marks(folder)
    return name if _is_as_downloaded(folder, files) else name | files


def _marks(folder: Path) -> dict[str, str]:
    return marks({path.name: path for path in sorted(folder.iterdir()) if path.name != DOWNLOADED})


def _is_as_downloaded(folder: Path, files: dict[str, str]) -> bool:
    file = folder / DOWNLOADED
    if not file.exists():
        return False
    noted = read_json(file, Downloaded, cure='Delete it, and the data is looked at again.')
    return noted['content'] == fingerprint(files)


def _open(dataset: str, data_dir: str) -> Any:
    try:
        return tfds.builder(dataset, data_dir=data_dir or None)
    except tfds.core.DatasetNotFoundError as error:
        raise UserError(
            f'tfds:{dataset}: TFDS knows no such dataset; see tensorflow.org/datasets/catalog.'
        ) from error
    except Exception as error:  # a wrong version, builder config or way of writing
        raise UserError(
            f'tfds:{dataset}: TFDS cannot open it: {_shortened(error)}. Its versions and configs:'
            ' tensorflow.org/datasets/catalog.'
        ) from error


def _prepared(dataset: str, data_dir: str) -> Any:
    builder = _open(dataset, data_dir)
    folder = Path(builder.data_dir)
    there = folder.is_dir()
    try:
        builder.download_and_prepare(file_format='array_record')
    except (ImportError, AttributeError) as error:
        raise UserError(
            f"tfds:{dataset}: TFDS's download code for this dataset needs what purify does not"
            f' install, mostly TensorFlow ({error}). Prepare it once anywhere that has it: tfds'
            f' build {dataset} --file_format=array_record --data_dir=DIR; then give'
            ' --config.source.data_dir=DIR.'
        ) from error
    except Exception as error:
        # Download, checksum, manual-download and disk errors come in many classes.
        raise UserError(
            f'tfds:{dataset}: could not be downloaded or prepared: {_shortened(error)}. Check the'
            ' network, or prepare it elsewhere as array_record and give'
            ' --config.source.data_dir=DIR.'
        ) from error
    if 'array_record' not in str(builder.info.file_format.value):
        raise UserError(
            f'tfds:{dataset}: prepared as {builder.info.file_format.value}, which cannot be read at'
            ' random. Convert it: python -m tensorflow_datasets.scripts.convert_format, or prepare'
            ' it again with --file_format=array_record.'
        )
    if not there:
        write_json(folder / DOWNLOADED, Downloaded(content=fingerprint(_marks(folder))))
    return builder


def _shortened(error: Exception) -> str:
    return f'{type(error).__name__}: {" ".join(str(error).split())[:500]}'


def _check_features(builder: Any, label: str, dataset: str) -> None:
    features = builder.info.features
    if label not in features or 'image' not in features:
        known = ', '.join(features)
        raise UserError(f'tfds:{dataset}: needs the features image and {label}; it has {known}.')
    image = features['image']
    dtype: Any = image.np_dtype
    if not isinstance(image, tfds.features.Image) or np.issubdtype(dtype, np.floating):
        raise UserError(f'tfds:{dataset}: image is {image}; it must be an Image of whole numbers.')


def _labels(builder: Any, split: str, label: str, dataset: str) -> tuple[list[str], np.ndarray]:
    feature = builder.info.features[label]
    source = _records(builder, split, label)
    values = [source[i][label] for i in range(len(source))]
    if isinstance(feature, tfds.features.ClassLabel):
        return list(feature.names), np.array(values, np.int32)
    try:
        texts = [value.decode() if isinstance(value, bytes) else str(value) for value in values]
    except UnicodeDecodeError as error:
        raise UserError(
            f'tfds:{dataset}: the {label} {error.object!r} is not UTF-8. Build it with texts.'
        ) from error
    names, numbers = np.unique(texts, return_inverse=True)
    return [str(name) for name in names], numbers.astype(np.int32)


def _records(builder: Any, split: str, feature: str) -> Any:
    """The records by position with `feature` alone decoded; pictures stay as they are stored."""
    skipped = [name for name in builder.info.features if name != feature or feature == 'image']
    decoders = {name: tfds.decode.SkipDecoding() for name in skipped}
    return builder.as_data_source(split=split, decoders=decoders)


def _pool(
    builder: Any, dataset: str, split: str, labels: np.ndarray, channels: int, notes: Notes
) -> Pool:
    source = _records(builder, split, 'image')

    def fetch(position: int) -> np.ndarray:
        name = f'tfds:{dataset}, {split} image {position}'
        return images.decode(source[position]['image'], name, channels, notes)

    return Pool(np.arange(len(labels)), labels, fetch)


def _frequent(
    names: list[str], pools: tuple[Pool, Pool], least: int
) -> tuple[list[str], tuple[Pool, Pool]]:
    counts = np.bincount(pools[0].labels, minlength=len(names))
    kept = np.flatnonzero(counts >= least)
    if not len(kept):
        raise UserError(f'source.min_per_class={least}: no class has that many training images.')
    number = np.full(len(names), -1)
    number[kept] = np.arange(len(kept))

    def renumbered(pool: Pool) -> Pool:
        part = pool.take(np.flatnonzero(np.isin(pool.labels, kept)))
        return Pool(part.ids, number[part.labels].astype(np.int32), part.fetch)

    return [names[k] for k in kept], (renumbered(pools[0]), renumbered(pools[1]))
