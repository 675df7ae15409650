"""From a dataset folder to batches, in an order that is a function of (seed, step) alone."""

import concurrent.futures
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, SupportsIndex

import grain
import numpy as np

from purify.core.errors import UserError
from purify.core.randomness import check_seed
from purify.data import builders

Record = dict[str, Any]
FETCHERS = 4  # threads that fetch records in order
CACHE_BYTES = 2**30  # a split whose decoded images fit is decoded once and kept


class RandomTransform(Protocol):
    """What augmentations and on-the-fly poison look like."""

    def random_map(self, record: Record, rng: np.random.Generator) -> Record:
        """The changed record."""
        ...


class Split:
    """The records of one split, by position: {'id': int, 'image': u8[h w c], 'label': int, ...}.

    `ids` i64[n], `labels` i32[n]. Decoded once into memory where that fits in `CACHE_BYTES`, else
    on each access. Raises `UserError` for an empty split or ids that occur twice.
    """

    def __init__(self, folder: Path, split: str, *, keep: np.ndarray | None = None):
        source = builders.open_split(folder, split)
        self.folder, self.shape = Path(folder), builders.image_shape(folder)
        self.class_names = builders.class_names(folder)
        if len(source) * int(np.prod(self.shape)) <= CACHE_BYTES:
            source = scan = _decode_all(source)
        else:  # everything but the picture, which is what costs
            scan = builders.open_split(folder, split, decode=False)
        self.source: Any = source
        rows = [(row['id'], row['label'], row.get('variation', 0)) for row in scan]
        ids, labels, variations = zip(*rows, strict=True)
        self.ids, self.labels = np.array(ids, np.int64), np.array(labels, np.int32)
        self.variations = np.array(variations, np.int32)
        if len({*zip(self.ids.tolist(), self.variations.tolist(), strict=True)}) != len(self.ids):
            raise UserError(f'{folder}: ids occur more than once in {split!r}; ids must be unique.')
        if keep is not None:
            kept = np.flatnonzero(keep)
            held = isinstance(source, list)
            self.source = [source[i] for i in kept] if held else _Subset(source, kept)
            self.ids, self.labels = self.ids[keep], self.labels[keep]
            self.variations = self.variations[keep]

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: SupportsIndex) -> Record:
        return dict(self.source[int(index)])

    def images(self, positions: Sequence[int]) -> np.ndarray:
        """The images u8[n h w c] at n positions."""
        return np.stack([self[i]['image'] for i in positions])

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


def _decode_all(source: Any) -> list[Record]:
    # Pillow lets go of the interpreter lock while it inflates.
    with concurrent.futures.ThreadPoolExecutor() as pool:
        return list(pool.map(source.__getitem__, range(len(source)), chunksize=64))


@dataclass(frozen=True)
class Place:
    """Which rows of every global batch this process loads."""

    process: int
    processes: int


def training_batches(
    split: Any,
    *,
    batch: int,
    seed: int,
    start_step: int,
    place: Place,
    transforms: Sequence[RandomTransform] = (),
    threads: int = 4,
    workers: int = 0,
) -> Iterator[Record]:
    """Endless shuffled batches {'image': u8[rows h w c], 'label', 'id'}; rows = batch / processes.

    Step s holds the same images with the same augmentation whatever the number of hosts, workers or
    restarts: the order is shuffle -> repeat -> random transforms -> batch -> slice by host, all by
    index, so resuming is `[start:]`.
    """
    if batch % place.processes:
        raise UserError(f'batch={batch} must be a multiple of the {place.processes} hosts.')
    data = grain.MapDataset.source(split).seed(check_seed(seed)).shuffle().repeat()
    for transform in transforms:
        data = data.random_map(transform.random_map)
    rows = batch // place.processes
    # Hosts side by side are the one-host batch.
    data = data.batch(rows)[place.process :: place.processes][start_step:]
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=max(2 * threads, 4))
    iterator = data.to_iter_dataset(options)
    if workers:
        iterator = iterator.mp_prefetch(grain.MultiprocessingOptions(num_workers=workers))
    return iter(iterator)


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
