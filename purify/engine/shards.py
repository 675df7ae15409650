"""Work in shards for all stages: ranges of rows, each one file that is whole or not there.

Hosts take the shards that are missing in turn, and a restart makes no others. What a row becomes
may depend on the row alone, so neither batches nor devices, hosts or restarts change a byte.
"""

import concurrent.futures
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Self

import jax
import numpy as np
import tensorflow_datasets as tfds

from purify.core import devices, preemption
from purify.core.errors import Preempted, UserError
from purify.core.progress import Bar
from purify.data.builders import DatasetWriter, cut
from purify.data.loader import Record
from purify.engine.stage import Work
from purify.engine.tables import Columns, part_path, write_columns
from purify.train.inference import Rule, even_batch, map_images

WRITES = 4  # shards that may wait for being written
Make = Callable[[range], Iterable[Record]]  # a range of rows -> their records, in order


@dataclass(frozen=True)
class Sink:
    """Where rows go: which shards are to be made, and what writes them.

    Attributes:
      ranges: the numbers of the rows of every shard.
      pending: the shards that were not there when the sink was made.
      write: (shard, its rows in order) -> the shard's file.
      finish: called once, by the lead, when all shards are there.
    """

    ranges: Sequence[range]
    pending: Sequence[int]
    write: Callable[[int, Iterable[Record]], None]
    finish: Callable[[], None]


def table_sink(folder: Path, ids: np.ndarray, shard_size: int) -> Sink:
    """Makes a sink that writes rows as a table in parts (`tables.read_table`), with `ids` i64[n].

    A table of no rows is not written: its columns are not known here.
    """
    ranges = cut(len(ids), shard_size)
    paths = [part_path(folder, part, len(ranges)) for part in range(len(ranges))]

    def write(part: int, rows: Iterable[Record]) -> None:
        whole = list(rows)
        columns = {name: np.stack([row[name] for row in whole]) for name in whole[0]}
        write_columns(paths[part], columns | {'ids': ids[ranges[part]]})

    pending = [part for part, path in enumerate(paths) if not path.exists()]
    return Sink(ranges, pending, write, lambda: None)


def dataset_sink(
    folder: Path,
    name: str,
    features: tfds.features.FeaturesDict,
    count: int,
    shard_size: int,
    *,
    split: str = 'train',
    numbers: Callable[[int], dict[str, int]] = lambda row: {},
) -> Sink:
    """Makes a sink that writes rows, with `numbers(row)` (id, label, ...), as a TFDS dataset."""
    ranges = cut(count, shard_size)
    writer = DatasetWriter(folder, name, split, features, len(ranges))

    def write(shard: int, rows: Iterable[Record]) -> None:
        numbered = zip(ranges[shard], rows, strict=True)
        writer.write(shard, (record | numbers(row) for row, record in numbered))

    lengths = [len(rows) for rows in ranges]
    return Sink(ranges, writer.pending(), write, lambda: writer.finish(lengths))


def map_rows(
    work: Work,
    rule: Rule,
    constants: object,
    fetch: Callable[[int], Record],
    sink: Sink,
    ids: np.ndarray,
    *,
    calls: int,
    dtype: str,
) -> None:
    """Runs a rule over the rows of pending shards, and writes each shard as soon as it is whole.

    Args:
      work: the stage's.
      rule: see `purify.train.inference.Rule`.
      constants: its weights by role, NumPy.
      fetch: row number -> what the rule gets of it.
      sink: where its outputs go.
      ids: of the rows, i64[n], to name those that come out broken.
      calls: how often a diffusion model is asked for one row, to be counted.
      dtype: what the models compute in, to be named where rows come out broken.

    Raises:
      UserError: where the rule's column `finite` is false.
      Preempted: when SIGTERM came; what is whole is written.
    """
    devices.barrier(f'pending shards of {work.name}')  # all look before any writes
    mine = sink.pending[jax.process_index() :: jax.process_count()]
    rows = [row for shard in mine for row in sink.ranges[shard]]
    total = sum(map(len, sink.ranges))
    mesh = devices.local_mesh()
    batch = work.run['batch_per_device'] * mesh.size
    batch = even_batch(math.ceil(total / jax.process_count()), batch)
    with Bar(work.name, total, shown=devices.is_lead()) as bar, _Collector(sink) as collector:
        bar.skip(total - len(rows) * jax.process_count())
        placed = devices.put_copy(constants, mesh) if rows else None
        for at, out in map_images(
            rule, placed, fetch, rows, batch=batch, mesh=mesh, cost=work.cost
        ):
            finite = out.pop('finite', np.ones(len(at), bool))
            _refuse_broken(ids[at[~finite]], dtype)
            collector.put(at, out)
            done = len(at) * jax.process_count()
            work.cost.network_calls += calls * done
            bar.advance(done)
            if preemption.asked():
                break
    devices.leave_together()
    if devices.is_lead():
        sink.finish()


def write_shards(work: Work, jobs: Sequence[tuple[Sink, Make]]) -> None:
    """Writes several datasets at once, pending shards spread over hosts and their `threads`.

    Args:
      work: the stage's.
      jobs: of each dataset its sink, and what makes its records.

    Raises:
      Preempted: when SIGTERM came; what is whole is written.
    """
    devices.barrier(f'pending shards of {work.name}')  # all look before any writes
    hosts, total = jax.process_count(), sum(len(rows) for sink, _ in jobs for rows in sink.ranges)
    missing = [(sink, make, shard) for sink, make in jobs for shard in sink.pending]
    mine = missing[jax.process_index() :: hosts]

    def write(sink: Sink, make: Make, shard: int) -> int:
        try:
            preemption.check()
            sink.write(shard, _until_asked(make(sink.ranges[shard])))
        except Preempted:  # all hosts leave together, below
            return 0
        return len(sink.ranges[shard])

    # Encoding lets go of the interpreter lock.
    threads = concurrent.futures.ThreadPoolExecutor(work.run['threads'])
    with Bar(work.name, total, shown=devices.is_lead()) as bar, threads as pool:
        bar.skip(total - sum(len(sink.ranges[shard]) for sink, _, shard in mine) * hosts)
        waiting = [pool.submit(write, *job) for job in mine]
        try:
            for future in concurrent.futures.as_completed(waiting):
                bar.advance(future.result() * hosts)
                work.cost.images += future.result() * hosts
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    devices.leave_together()
    devices.barrier(f'{work.name} written')
    if devices.is_lead():
        for sink, _ in jobs:
            sink.finish()


def _until_asked(records: Iterable[Record]) -> Iterator[Record]:
    """The records; `Preempted` as soon as SIGTERM came."""
    for record in records:
        preemption.check()
        yield record


def _refuse_broken(ids: np.ndarray, dtype: str) -> None:
    """Raises `UserError` with the ids of images for which the models gave NaN, if any."""
    if len(ids):
        named = ', '.join(map(str, ids[:8].tolist()))
        cure = 'The weights of a model may be broken: load them again.'
        if dtype != 'float32':
            cure = f'Computing in {dtype} may overflow: try float32. Else a model is broken.'
        raise UserError(
            f'the models gave NaN for {len(ids)} images of a batch (ids {named}). {cure}'
        )


class _Collector:
    """Collects outputs of rows; a thread writes each shard as soon as its last row is there."""

    def __init__(self, sink: Sink):
        self.sink = sink
        self.held: dict[int, Columns] = {}
        self.pool = concurrent.futures.ThreadPoolExecutor(2)
        self.writing: list[concurrent.futures.Future[None]] = []

    def put(self, numbers: np.ndarray, columns: Columns) -> None:
        rows = [{name: column[k] for name, column in columns.items()} for k in range(len(numbers))]
        self.held.update(zip(numbers.tolist(), rows, strict=True))
        for shard in sorted({row // len(self.sink.ranges[0]) for row in numbers.tolist()}):
            if all(row in self.held for row in self.sink.ranges[shard]):
                whole = [self.held.pop(row) for row in self.sink.ranges[shard]]
                self.writing.append(self.pool.submit(partial(self.sink.write, shard, whole)))
        behind = len(self.writing) > WRITES  # where writing is slower than the devices, these wait
        for future in [future for future in self.writing if behind or future.done()]:
            future.result()  # a full disk is known at once
            self.writing.remove(future)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.pool.shutdown(wait=True)  # what is complete gets written, whatever happened
        if error[0] is None:
            for future in self.writing:
                future.result()
