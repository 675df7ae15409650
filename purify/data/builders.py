"""Datasets in the TFDS folder format, written shard by shard without TensorFlow.

Plain TFDS opens the result: `tfds.builder_from_directory(folder).as_data_source(split='train')`.
Each shard is one ArrayRecord file, written whole or not at all, so hosts can write different shards
and a restart skips what is there.
"""

import contextlib
import io
import operator
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, SupportsIndex, cast

import numpy as np
import tensorflow_datasets as tfds
from array_record.python import array_record_module  # pyright: ignore[reportAttributeAccessIssue]
from etils import epath
from tensorflow_datasets.core.example_serializer import ExampleSerializer

from purify.core.errors import UserError
from purify.core.files import AGAIN, explain_os_errors
from purify.core.types import Facts
from purify.data.images import encode_png

NAMES_FILE = 'label.labels.txt'  # of the classes, by TFDS


def make_features(
    size_px: int, channels: int, class_names: Sequence[str], variations: bool = False
) -> tfds.features.FeaturesDict:
    """The features of a dataset: id, image (PNG), label and, with `variations`, their number."""
    features: Facts = {
        'id': tfds.features.Scalar(np.int64),
        'image': tfds.features.Image(shape=(size_px, size_px, channels), encoding_format='png'),
        'label': tfds.features.ClassLabel(names=list(class_names)),
    }
    if variations:
        features['variation'] = tfds.features.Scalar(np.int32)
    return tfds.features.FeaturesDict(features)


@dataclass(frozen=True)
class DatasetWriter:
    """Writes one split of a dataset as `shards` files of consecutive records.

    Attributes:
      folder: where the files go.
      name: the dataset's name, as TFDS shows it.
      split: 'train' or 'test'.
      features: what a record holds, from `make_features`.
      shards: how many files.
    """

    folder: Path
    name: str
    split: str
    features: tfds.features.FeaturesDict
    shards: int

    def path(self, shard: int) -> Path:
        """The file of one shard."""
        name = f'{self.name}-{self.split}.array_record-{shard:05d}-of-{self.shards:05d}'
        return self.folder / name

    def pending(self) -> list[int]:
        """Shards that are not there yet."""
        return [shard for shard in range(self.shards) if not self.path(shard).exists()]

    def write(self, shard: int, records: Iterable[Facts]) -> None:
        """Writes one shard of records {'id', 'image': u8[h w c], 'label', ...}; never half."""
        final = self.path(shard)
        part = final.with_name(f'{final.name}.{os.getpid()}.part')
        with explain_os_errors(final), contextlib.ExitStack() as cleanup:
            final.parent.mkdir(parents=True, exist_ok=True)
            # Leavings of a process that was killed.
            for stale in {*final.parent.glob(f'{final.name}.*.part')} - {part}:
                stale.unlink(missing_ok=True)
            cleanup.callback(part.unlink, missing_ok=True)
            # Random access wants groups of one.
            writer = array_record_module.ArrayRecordWriter(str(part), 'group_size:1')
            serializer = ExampleSerializer(cast(Any, self.features.get_serialized_info()))
            for record in records:
                png = io.BytesIO(encode_png(record['image']))
                encoded = self.features.encode_example(record | {'image': png})
                example = serializer.get_tf_example(encoded)
                # Equal records, equal bytes, in every process.
                writer.write(example.SerializeToString(deterministic=True))
            writer.close()
            _to_disk(part)
            os.replace(part, final)

    def finish(self, lengths: Sequence[int]) -> None:
        """Writes TFDS's metadata, once all shards (with `lengths` records each) are there."""
        if self.pending():
            raise UserError(
                f'{self.folder}: shards {self.pending()} are missing; run the stage again.'
            )
        names = {'dataset_name': self.name, 'split': self.split, 'filetype_suffix': 'array_record'}
        template = tfds.core.ShardedFileTemplate(data_dir=epath.Path(self.folder), **names)
        size = sum(self.path(shard).stat().st_size for shard in range(self.shards))
        info = tfds.core.SplitInfo(
            name=self.split, shard_lengths=list(lengths), num_bytes=size, filename_template=template
        )
        with explain_os_errors(self.folder):
            tfds.folder_dataset.write_metadata(
                data_dir=self.folder, features=self.features, split_infos=[info], check_data=False
            )


def _to_disk(path: Path) -> None:
    """Waits until a file's bytes are on the disk, so that a crash leaves no empty file."""
    with open(path, 'rb') as file:
        os.fsync(file.fileno())


class Records:
    """The records of one split by position: {'id': int, 'image': u8[h w c], 'label': int, ...}.

    Without `shape` (h, w, c) pictures stay encoded. Raises `UserError` for unreadable records.
    """

    def __init__(self, folder: Path, source: Any, shape: tuple[int, int, int] | None):
        self.folder, self.source, self.shape = folder, source, shape

    def __len__(self) -> int:
        return len(self.source)

    def __iter__(self) -> Iterator[Facts]:
        return map(self.__getitem__, range(len(self)))

    def __getitem__(self, index: SupportsIndex) -> Facts:
        here = f'{self.folder}: record {operator.index(index)}'
        try:
            record = dict(self.source[index])
        except Exception as error:
            # Damage comes to light in Riegeli, Protobuf or TFDS, as whatever they raise.
            raise UserError(f'{here} cannot be read ({error}). {AGAIN}') from error
        if self.shape is not None and (shape := record['image'].shape) != self.shape:
            raise UserError(f'{here} is of shape {shape}, not {self.shape} as stated. {AGAIN}')
        return record


def open_split(folder: Path, split: str, *, decode: bool = True) -> Records:
    """Opens the records of a split through plain TFDS.

    Raises `UserError` if it is no dataset, empty, or not whole. With `decode=False` the pictures
    stay encoded (a cheap look at ids and labels).
    """
    builder = _open(folder)
    splits = builder.info.splits
    info = splits.get(split)
    if info is None:
        raise UserError(f'{folder}: no split {split!r} here. Choose from: {", ".join(splits)}.')
    if not info.num_examples:
        raise UserError(f'{folder}: the split {split!r} is empty.')
    try:
        files = [Path(file) for file in info.filepaths]
    except Exception as error:  # a damaged template of their names, in TFDS's words
        raise UserError(f'{folder}: cannot be read ({error}). {AGAIN}') from error
    if missing := [file.name for file in files if not file.is_file()]:
        raise UserError(f'{folder}: the files {", ".join(missing[:5])} are missing. {AGAIN}')
    decoders = None if decode else {'image': tfds.decode.SkipDecoding()}
    try:
        source = builder.as_data_source(split=split, decoders=decoders)
    except Exception as error:
        raise UserError(f'{folder}: cannot be read ({error}). {AGAIN}') from error
    return Records(Path(folder), source, _shape(builder) if decode else None)


def class_names(folder: Path) -> list[str]:
    """The dataset's class names. Raises `UserError` where the folder holds no such dataset."""
    return list(_open(folder).info.features['label'].names)


def image_shape(folder: Path) -> tuple[int, int, int]:
    """The dataset's image shape (h, w, c). Raises `UserError` where the folder holds none."""
    return _shape(_open(folder))


def _open(folder: Path) -> Any:
    """TFDS's builder of a dataset that has all that ours have."""
    try:
        builder: Any = tfds.builder_from_directory(folder)
        label = builder.info.features['label']
        if not (Path(folder) / NAMES_FILE).stat().st_size or len(label.names) != label.num_classes:
            # TFDS would number them instead.
            raise ValueError(f'{NAMES_FILE} does not name its {label.num_classes} classes')
        if builder.info.features['id'].np_dtype != np.int64 or not all(_shape(builder)):
            raise ValueError('it does not say of what size its images are')
        [info.num_examples for info in builder.info.splits.values()]
    except Exception as error:
        # Its four files of metadata are broken in as many ways as TFDS has parsers.
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise UserError(
            f'{folder}: no TFDS dataset here ({reason}). Give its folder, or run its stage again.'
        ) from error
    return builder


def _shape(builder: Any) -> tuple[int, int, int]:
    height, width, channels = builder.info.features['image'].shape
    return height, width, channels


def cut(count: int, shard_size: int) -> list[range]:
    """Cuts 0..count into consecutive ranges of `shard_size` records (the last one shorter)."""
    return [range(start, min(start + shard_size, count)) for start in range(0, count, shard_size)]
