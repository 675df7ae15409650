"""The records of a dataset folder by position, and batches of them in order."""

import concurrent.futures
import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, SupportsIndex

import numpy as np

from purify.core.errors import UserError
from purify.data import builders

Record = dict[str, Any]
FETCHERS = 4  # threads that fetch records in order
CACHE_BYTES = 2**30  # of decoded images that this process keeps at most, of all splits together

PIECE = 256  # records that a thread decodes at a time

# folder, split and when it was written -> its images u8[n h w c] and rows i64[n 3] (id, label,
# variation), the oldest first
_decoded: dict[tuple[Path, str, int], tuple[np.ndarray, np.ndarray]] = {}
_may_keep = CACHE_BYTES


@contextlib.contextmanager
def keep_decoded(most: int) -> Iterator[None]:
    """While open, this process keeps `most` bytes of decoded images, at most `CACHE_BYTES`."""
    global _may_keep
    before, _may_keep = _may_keep, min(most, CACHE_BYTES)
    _make_room(0)
    try:
        yield
    finally:
        _may_keep = before


def _make_room(wanted: int) -> None:
    """Drops the oldest images until as many bytes may be kept besides."""
    kept = lambda: sum(images.nbytes for images, _ in _decoded.values())
    while _decoded and wanted + kept() > _may_keep:
        del _decoded[next(iter(_decoded))]


class Split:
    """The records of one split, by position: {'id': int, 'image': u8[h w c], 'label': int, ...}.

    `ids` i64[n], `labels` i32[n]. Images are decoded once in a process where it may keep them
    (`keep_decoded`), else on each access. Raises `UserError` for an empty split or ids that occur
    twice.
    """

    def __init__(self, folder: Path, split: str, *, keep: np.ndarray | None = None):
        self.folder, self.shape = Path(folder), builders.image_shape(folder)
        self.class_names = builders.class_names(folder)
        self.source: Any = builders.open_split(folder, split)
        if len(self.source) * int(np.prod(self.shape)) <= _may_keep:
            images, rows = _remember(Path(folder), split, self.source, self.shape)
            self.source = _Decoded(images, rows, varied='variation' in self.source[0])
        else:  # everything but the picture, which is what costs
            found = builders.open_split(folder, split, decode=False)
            kind = np.dtype((np.int64, 3))
            rows = np.fromiter(map(_row, found), kind, count=len(found))
        self.ids, self.labels = rows[:, 0], rows[:, 1].astype(np.int32)
        self.variations = rows[:, 2].astype(np.int32)
        if len(np.unique(rows[:, [0, 2]], axis=0)) != len(rows):
            raise UserError(f'{folder}: ids occur more than once in {split!r}; ids must be unique.')
        if keep is not None:
            self.source = _Subset(self.source, np.flatnonzero(keep))
            self.ids, self.labels = self.ids[keep], self.labels[keep]
            self.variations = self.variations[keep]

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: SupportsIndex) -> Record:
        return dict(self.source[int(index)])

    def images(self, positions: Sequence[int]) -> np.ndarray:
        """The images u8[n h w c] at n positions."""
        return np.stack([self[i]['image'] for i in positions])

    def all_images(self) -> np.ndarray:
        """All images u8[n h w c]; those that are in memory are not copied."""
        held = isinstance(self.source, _Decoded)
        return self.source.images if held else _decode(self.source, self.shape)[0]

    def position_of(self, ids: np.ndarray) -> np.ndarray:
        """Positions of the given ids, which must be unique; KeyError where one is missing."""
        order = np.argsort(self.ids, kind='stable')
        found = order[np.minimum(np.searchsorted(self.ids, ids, sorter=order), len(order) - 1)]
        if not np.array_equal(self.ids[found], ids):
            raise KeyError(f'{self.folder}: has no id {np.asarray(ids)[self.ids[found] != ids][0]}')
        return found


class _Subset:
    def __init__(self, source: Any, positions: np.ndarray):
        self.source, self.positions = source, positions

    def __len__(self) -> int:
        return len(self.positions)

    def __getitem__(self, index: int) -> Record:
        return self.source[int(self.positions[index])]


class _Decoded:
    """Records whose images are in memory."""

    def __init__(self, images: np.ndarray, rows: np.ndarray, *, varied: bool):
        self.images, self.rows = images, rows
        self.names = ('id', 'label', 'variation')[: 2 + varied]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Record:
        numbers = dict(zip(self.names, self.rows[index].tolist(), strict=False))
        return numbers | {'image': self.images[index]}


def _row(record: Record) -> tuple[int, int, int]:
    return int(record['id']), int(record['label']), int(record.get('variation', 0))


def _remember(
    folder: Path, split: str, records: Any, shape: tuple[int, int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """All images u8[n h w c] and rows i64[n 3] of a split, read now or kept from before."""
    written = (folder / 'dataset_info.json').stat().st_mtime_ns
    key = (folder.resolve(), split, written)
    if key not in _decoded:
        images, rows = _decode(records, shape)
        images.flags.writeable = False
        _make_room(images.nbytes)
        _decoded[key] = images, rows
    return _decoded[key]


def _decode(records: Any, shape: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Reads the images u8[n h w c] and rows i64[n 3] of all records."""
    images = np.empty((len(records), *shape), np.uint8)
    rows = np.empty((len(records), 3), np.int64)

    def decode(start: int) -> None:
        for index in range(start, min(start + PIECE, len(records))):
            record = records[index]
            images[index], rows[index] = record['image'], _row(record)

    # Pillow lets go of the interpreter lock while it inflates.
    with concurrent.futures.ThreadPoolExecutor() as pool:
        for _ in pool.map(decode, range(0, len(records), PIECE)):
            pass
    return images, rows


def ordered_batches(
    fetch: Callable[[int], Record], positions: Sequence[int], batch: int
) -> Iterator[tuple[np.ndarray, Record]]:
    """Batches of `fetch(position)` in order, the last one padded by repeating its last record.

    Yields (positions i64[m], record of arrays [batch ...]) with m <= batch; rows from m on are
    padding. Two batches are fetched ahead in threads.
    """
    starts = range(0, len(positions), batch)
    pieces = [np.asarray(positions[start : start + batch], np.int64) for start in starts]

    def gather(piece: np.ndarray) -> Record:
        records = [fetch(int(i)) for i in piece]
        records += [records[-1]] * (batch - len(records))
        return {name: np.stack([np.asarray(row[name]) for row in records]) for name in records[0]}

    with concurrent.futures.ThreadPoolExecutor(FETCHERS) as pool:
        waiting = [pool.submit(gather, piece) for piece in pieces[:2]]
        for k, piece in enumerate(pieces):
            if k + 2 < len(pieces):
                waiting.append(pool.submit(gather, pieces[k + 2]))
            yield piece, waiting.pop(0).result()
