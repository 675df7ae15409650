"""The stage that makes new images, shard by shard: of the whole poisoned dataset, or of the images that a table picks."""

from typing import Any

import numpy as np

from purify.core import devices
from purify.core.errors import UserError
from purify.data.builders import DatasetWriter, cut, describe
from purify.data.loader import Split
from purify.defenses.registry import PURIFIERS
from purify.pipelines.chain import Work
from purify.pipelines.measuring import image_row, network_calls, open_models, rule_settings, run_shards
from purify.pipelines.tables import check_ids, read_table


def purify(work: Work) -> None:
    """Poisoned dataset + models -> a dataset of `copies` images per image, under the given labels.

    With a table `picked`, of its picked rows alone, one image each: the table's `candidate`, under the table's label. Where it
    picks none, no dataset is written. Shards are fixed ranges of (image, copy), taken round-robin by the hosts and written
    while the devices work on; a restart does the missing ones. A pixel depends on (seed, id, copy) alone.
    """
    split = Split(work.inputs['poisoned'], 'train')
    purifier = PURIFIERS.make(work.settings['name'], **rule_settings(work.settings))
    where, labels, variations = _wanted(work, split, purifier.copies)
    if not len(where):
        return
    models = open_models(work, split)
    rule = purifier.rule(models, split.shape, work.settings['seed'], split.class_names)
    ranges = cut(len(where), work.settings['shard_size'])
    features = describe(split.shape[0], split.shape[2], split.class_names, variations=True)
    writer = DatasetWriter(work.folder, work.name, 'train', features, len(ranges))

    def fetch(row: int) -> dict[str, Any]:
        return image_row(split, int(where[row])) | {'variation': np.int32(variations[row])}

    def write(shard: int, made: list[dict[str, np.ndarray]]) -> None:
        numbers = [{'id': split.ids[where[row]], 'label': labels[row], 'variation': variations[row]} for row in ranges[shard]]
        whole = [image | {name: int(x) for name, x in row.items()} for image, row in zip(made, numbers, strict=True)]
        writer.write(shard, whole)

    constants, calls = {role: model.weights for role, model in models.items()}, network_calls(purifier, models)
    run_shards(work, rule, constants, fetch, ranges, writer.pending(), write, lambda rows: split.ids[where[rows]], calls)
    if devices.is_lead():
        writer.finish([len(r) for r in ranges])


def _wanted(work: Work, split: Split, copies: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(positions i64[m], labels i32[m], variations i32[m]) of the images to make."""
    if 'picked' not in work.inputs:
        where = np.arange(len(split)).repeat(copies)
        return where, split.labels[where], np.tile(np.arange(copies), len(split))
    table = read_table(work.inputs['picked'])
    check_ids(table, split, work.inputs['picked'])
    if copies != 1:
        raise UserError(f'{work.name}: copies={copies} of picked images; a candidate replaces one image. Set copies to 1.')
    where = np.flatnonzero(table['pick'] & (table['candidate'] >= 0))
    return where, table['labels'][where], table['candidate'][where]
