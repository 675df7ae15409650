"""The stage that maps every image of the poisoned dataset to purified ones, shard by shard."""

import concurrent.futures
from typing import Any

import jax
import numpy as np

from purify.core import devices, preemption
from purify.core.errors import Preempted, UserError
from purify.core.progress import Bar
from purify.data.builders import DatasetWriter, cut, describe, verify
from purify.data.loader import Split
from purify.defenses.registry import DEFENSES
from purify.defenses.variation_models import load_variation_model
from purify.pipelines.chain import Work
from purify.train.inference import map_images

WRITES = 4  # shards that may wait for being written


def purify(work: Work) -> None:
    """Poisoned dataset + prior -> purified dataset of `copies` images per image, under the given labels.

    Shards are fixed ranges of (image, copy), taken round-robin by the hosts and written while the devices work on;
    a restart does the missing ones. A pixel depends on (seed, id, copy) alone.
    """
    verify(work.inputs['poisoned'])
    split = Split(work.inputs['poisoned'], 'train')
    settings = {name: value for name, value in work.settings.items() if name not in ('name', 'seed', 'shard_size')}
    defense = DEFENSES.make(work.settings['name'], **settings)
    prior = load_variation_model(work.inputs['prior'], dtype=work.settings['dtype'], vae_slice=work.run['vae_slice'])
    rule = defense.rule(prior, split.shape, work.settings['seed'], split.class_names)
    copies = defense.copies
    ranges = cut(len(split) * copies, work.settings['shard_size'])
    features = describe(split.shape[0], split.shape[2], split.class_names, variations=True)
    writer = DatasetWriter(work.folder, 'purified', 'train', features, len(ranges))
    pending = writer.pending()
    devices.barrier('pending shards')  # all look before any writes
    mine = pending[jax.process_index() :: jax.process_count()]

    def fetch(position: int) -> dict[str, Any]:
        image, copy = divmod(position, copies)
        record = split[image]
        numbers = {'id': record['id'], 'label': record['label'], 'variation': copy}
        return {'image': record['image']} | {name: np.int32(number) for name, number in numbers.items()}

    positions = [i for shard in mine for i in ranges[shard]]
    constants = devices.put_copy(prior.weights, mesh := devices.local_mesh())
    with Bar(work.name, len(split) * copies, shown=devices.is_lead()) as bar, _ShardStore(writer, ranges, split, copies) as store:
        bar.skip(len(split) * copies - len(positions) * jax.process_count())
        batch = work.run['batch_per_device'] * mesh.size
        batches = map_images(rule, constants, fetch, positions, batch=batch, mesh=mesh, cost=work.cost)
        for where, out in batches:
            _refuse_broken(split, where[~out['finite']] // copies, work.settings['dtype'])
            store.put(where, out['image'])
            bar.advance(len(where) * jax.process_count())
            if preemption.asked():
                break
    if devices.any_host(preemption.asked()):  # all hosts leave together, none waits for one that is gone
        raise Preempted
    if devices.is_lead():
        writer.finish([len(r) for r in ranges])


def _refuse_broken(split: Split, images: np.ndarray, dtype: str) -> None:
    """`UserError` naming images that the prior could make nothing of; no shard with one of them is written."""
    if len(images):
        ids = ', '.join(str(int(split.ids[image])) for image in images[:8])
        raise UserError(
            f'the prior gave NaN for {len(images)} images of a batch (ids {ids}). Computing in {dtype} may overflow: '
            'try defense.dtype=float32; or the weights of the prior are broken.'
        )


class _ShardStore:
    """Collects results and writes each shard, in a thread, as soon as its last image is there."""

    def __init__(self, writer: DatasetWriter, ranges: list[range], split: Split, copies: int):
        self.writer, self.ranges, self.split, self.copies = writer, ranges, split, copies
        self.held: dict[int, np.ndarray] = {}
        self.pool = concurrent.futures.ThreadPoolExecutor(2)
        self.writing: list[concurrent.futures.Future[None]] = []

    def put(self, positions: np.ndarray, images: np.ndarray) -> None:
        self.held.update(zip(positions.tolist(), images, strict=True))
        for shard in sorted({i // len(self.ranges[0]) for i in positions.tolist()}):
            if all(i in self.held for i in self.ranges[shard]):
                records = [self._record(i, self.held.pop(i)) for i in self.ranges[shard]]
                self.writing.append(self.pool.submit(self.writer.write, shard, records))
        behind = len(self.writing) > WRITES  # where encoding is slower than the devices, these wait
        for future in [future for future in self.writing if behind or future.done()]:
            future.result()  # a full disk is known at once
            self.writing.remove(future)

    def _record(self, position: int, image: np.ndarray) -> dict[str, Any]:
        where, copy = divmod(position, self.copies)
        return {'id': int(self.split.ids[where]), 'image': image, 'label': int(self.split.labels[where]), 'variation': copy}

    def __enter__(self) -> '_ShardStore':
        return self

    def __exit__(self, *error: object) -> None:
        self.pool.shutdown(wait=True)  # what is complete gets written, whatever happened
        if error[0] is None:
            for future in self.writing:
                future.result()
