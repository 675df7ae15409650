"""The stage that writes the dataset as it has been decided: fewer images, other labels, other pictures."""

import concurrent.futures

import jax

from purify.core import devices, preemption
from purify.core.errors import Preempted
from purify.core.progress import Bar
from purify.data.builders import DatasetWriter, cut, describe
from purify.data.loader import Split
from purify.pipelines.chain import Work
from purify.pipelines.tables import edit

THREADS = 4  # shards written at once; encoding lets go of the interpreter lock


def rewrite(work: Work) -> None:
    """The poisoned dataset as the input `edits` leaves it, with images from `replaced...` -> a whole dataset, one image per id.

    Shards are fixed ranges, taken round-robin by the hosts; a restart writes the missing ones.
    """
    split = edit(Split(work.inputs['poisoned'], 'train'), work.inputs)
    ranges = cut(len(split), work.settings['shard_size'])
    features = describe(split.shape[0], split.shape[2], split.class_names)
    writer = DatasetWriter(work.folder, work.name, 'train', features, len(ranges))
    pending = writer.pending()
    devices.barrier(f'pending shards of {work.name}')  # all look before any writes
    mine = pending[jax.process_index() :: jax.process_count()]

    def write(shard: int) -> int:
        if not preemption.asked():
            writer.write(shard, (split[row] for row in ranges[shard]))
        return len(ranges[shard])

    with Bar(work.name, len(split), shown=devices.is_lead()) as bar, concurrent.futures.ThreadPoolExecutor(THREADS) as pool:
        bar.skip(len(split) - sum(len(ranges[shard]) for shard in mine) * jax.process_count())
        for count in pool.map(write, mine):
            bar.advance(count * jax.process_count())
            work.cost.images += count * jax.process_count()
    if devices.any_host(preemption.asked()):
        raise Preempted
    if devices.is_lead():
        writer.finish([len(r) for r in ranges])
