"""A small poisoned dataset on disk, and stage functions run on it by hand."""

import numpy as np

from purify.data import builders
from purify.engine.stage import Work
from purify.train.cost import Cost

COUNT, SHARD = 23, 5
IDS = 500 - 11 * np.arange(COUNT)
LABELS = np.arange(COUNT, dtype=np.int32) % 3
IMAGES = np.random.default_rng(0).integers(0, 256, (COUNT, 6, 6, 3), np.uint8)


def write_poisoned(folder):
    """The dataset, in two shards."""
    ranges = builders.cut(COUNT, 12)
    writer = builders.DatasetWriter(
        folder, 'poisoned', 'train', builders.make_features(6, 3, list('abc')), len(ranges)
    )
    for shard, rows in enumerate(ranges):
        writer.write(
            shard, [{'id': int(IDS[i]), 'image': IMAGES[i], 'label': int(LABELS[i])} for i in rows]
        )
    writer.finish([len(rows) for rows in ranges])
    return folder


def work(folder, inputs, **settings):
    """What a stage gets; the batches are of eight rows."""
    folder.mkdir(parents=True, exist_ok=True)
    run = {'batch_per_device': 1, 'inference_batch': 8, 'vae_slice': 0}
    return Work(folder.name, folder, inputs, settings, run, (), Cost())


def bytes_of(folder):
    """Every file of a folder."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob('*'))
        if path.is_file()
    }
