"""The stage that purifies images, shard by shard: all of a dataset, or those a table picks."""

import numpy as np

from purify.core.errors import UserError
from purify.core.types import Facts
from purify.data.builders import make_features
from purify.data.loader import Split
from purify.defenses.method import Context, Purifier, Step
from purify.engine.shards import dataset_sink, map_rows
from purify.engine.stage import Work
from purify.engine.tables import check_ids, read_table
from purify.stages.kind import Kind
from purify.stages.known import Known
from purify.stages.measure import image_row
from purify.stages.models import open_models, weights_of


def run(work: Work, purifier: Purifier) -> None:
    """Writes the images that the purifier makes of each poisoned one, under the given labels.

    With a table `picked`, of its picked rows alone, one image each: the table's `candidate`, under
    the table's label. Where it picks none, no dataset is written. Shards are fixed ranges of
    (image, copy), taken in turn by the hosts and written while the devices work on; a restart does
    the missing ones. A pixel depends on (seed, id, copy) alone.
    """
    split = Split(work.inputs['poisoned'], 'train')
    where, labels, variations = _wanted(work, split, purifier.number())
    if not len(where):
        return
    models = open_models(work, split, dtype=purifier.dtype)
    rule = purifier.rule(models, Context(split.shape, work.settings['seed'], split.class_names))
    size_px, _, channels = split.shape
    features = make_features(size_px, channels, split.class_names, variations=True)
    ids, size = split.ids[where], work.settings['shard_size']

    def fetch(row: int) -> Facts:
        return image_row(split, int(where[row])) | {'variation': np.int32(variations[row])}

    def numbers(row: int) -> dict[str, int]:
        return {'id': int(ids[row]), 'label': int(labels[row]), 'variation': int(variations[row])}

    sink = dataset_sink(work.folder, work.name, features, len(where), size, numbers=numbers)
    asked = {'calls': purifier.network_calls(models), 'dtype': purifier.dtype}
    map_rows(work, rule, weights_of(models), fetch, sink, ids, **asked)


def _wanted(work: Work, split: Split, number: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(positions i64[m], labels i32[m], variations i32[m]) of the images to make."""
    if 'picked' not in work.inputs:
        where = np.arange(len(split)).repeat(number)
        return where, split.labels[where], np.tile(np.arange(number), len(split))
    table = read_table(work.inputs['picked'])
    check_ids(table, split, work.inputs['picked'])
    if number != 1:
        raise UserError(
            f'{work.name}: {number} of each picked image; a candidate replaces one image. Make one.'
        )
    where = np.flatnonzero(table['pick'] & (table['candidate'] >= 0))
    return where, table['labels'][where], table['candidate'][where]


def shape(known: Known, step: Step) -> None:
    """Traces the rule over rows of two images."""
    rows = known.data.rows('label', 'id', 'variation')
    count = known.data.images * step.by.number()
    known.trace(step.name, step.by.rule, known.models(step.inputs), rows, count)
    if 'picked' not in step.inputs:
        known.sizes[step.name] = count


KIND = Kind(run, shape, ('seed', 'shard_size'))
