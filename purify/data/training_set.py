"""What a training draws from, and in which order: a function of (seed, step) alone."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import grain
import numpy as np

from purify.core.errors import UserError
from purify.core.randomness import check_seed
from purify.data.loader import Record, Split

# By the name of the number that finds a row in them: columns [n ...] by name.
Held = dict[str, dict[str, Any]]


class RandomTransform(Protocol):
    """What poison that is made while loading looks like."""

    def random_map(self, record: Record, rng: np.random.Generator) -> Record:
        """The changed record."""
        ...


@dataclass(frozen=True)
class Place:
    """Which rows of every global batch this process loads."""

    process: int
    processes: int


@dataclass(frozen=True, eq=False)
class TrainingSet:
    """The images of a training, and what is done to them before the step.

    Attributes:
      split: records {'id', 'image': u8[h w c], 'label', ...}, each drawn once in an epoch.
      others: images whose labels are not believed; every record gets one, drawn with replacement,
        as 'unlabelled' u8[h w c] and 'unlabelled_id'.
      poison: changes records as they are loaded, before they are augmented.
      poison_last: changes them after they are augmented.

    Raises `UserError` for `others` without an image.
    """

    split: Split
    others: Split | None = None
    poison: RandomTransform | None = None
    poison_last: RandomTransform | None = None

    def __post_init__(self) -> None:
        if self.others is not None and not len(self.others):
            raise UserError('mixmatch: every label is believed; lower the share of credible ones.')

    @property
    def bytes(self) -> int:
        """What all images take, decoded."""
        count = len(self.split) + len(self.others or ())
        return count * int(np.prod(self.split.shape))

    @property
    def changes(self) -> bool:
        """Whether poison changes images as they are loaded."""
        return self.poison is not None or self.poison_last is not None

    def held(self) -> Held:
        """All rows as columns, to be found by the numbers that `batches` draws."""
        columns = _columns(self.split) | {'label': self.split.labels}
        if 'variation' in self.split[0]:
            columns['variation'] = self.split.variations
        found: Held = {'position': columns}
        if self.others is not None:
            theirs = _columns(self.others)
            found['other'] = {'unlabelled': theirs['image'], 'unlabelled_id': theirs['id']}
        return found

    def batches(
        self,
        *,
        batch: int,
        seed: int,
        start_step: int,
        place: Place,
        numbers: bool = False,
        epochs: bool = False,
        threads: int = 4,
        workers: int = 0,
    ) -> Iterator[Record]:
        """Endless shuffled batches of rows, or of the `numbers` that find them in `held`.

        With `epochs` every row has its 'epoch' i32[], from 0 on.

        Step s draws the same rows whatever the number of hosts, workers or restarts: the order is
        shuffle -> repeat -> draw another -> fetch -> batch -> slice by host, all by index, so
        resuming is `[start:]`. Raises `UserError` for a batch that does not split over the hosts.
        """
        if batch % place.processes:
            raise UserError(f'batch={batch} must be a multiple of the {place.processes} hosts.')
        data = grain.MapDataset.range(len(self.split)).seed(check_seed(seed)).shuffle().repeat()
        data = data.map_with_index(partial(_numbered, len(self.split) if epochs else 0))
        if self.others is not None:
            data = data.random_map(_DrawOther(len(self.others)).random_map)
        if not numbers:
            data = data.map(self._fetch)
            if self.poison is not None:
                data = data.random_map(self.poison.random_map)
        rows = batch // place.processes
        # Hosts side by side are the one-host batch.
        data = data.batch(rows)[place.process :: place.processes][start_step:]
        options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=max(2 * threads, 4))
        iterator = data.to_iter_dataset(options)
        if workers:
            iterator = iterator.mp_prefetch(grain.MultiprocessingOptions(num_workers=workers))
        return iter(iterator)

    def _fetch(self, drawn: Record) -> Record:
        drawn = dict(drawn)
        record = {**self.split[drawn.pop('position')]}
        if self.others is not None:
            record = pair(record, self.others[drawn.pop('other')])
        return record | drawn


def pair(record: Record, other: Record) -> Record:
    """Adds image and id of `other` to `record`, without its label."""
    return {**record, 'unlabelled': other['image'], 'unlabelled_id': other['id']}


def _numbered(count: int, place: int, position: int) -> Record:
    epoch = {'epoch': np.int32(place // count)} if count else {}
    return {'position': np.int32(position)} | epoch


@dataclass(frozen=True)
class _DrawOther:
    """Draws the number of another record."""

    count: int

    def random_map(self, record: Record, rng: np.random.Generator) -> Record:
        return {**record, 'other': rng.integers(self.count, dtype=np.int32)}


def _columns(split: Split) -> dict[str, np.ndarray]:
    return {'image': split.all_images(), 'id': split.ids}
