"""The stage that looks at every image and writes numbers."""

import jax
import numpy as np

from purify.core import devices
from purify.core.errors import UserError
from purify.core.types import Facts, Tree
from purify.data.loader import Split
from purify.defenses.method import Context, Look, Measure, Step
from purify.engine.shards import map_rows, table_sink
from purify.engine.stage import Work
from purify.engine.tables import check_ids, part_path, read_table, write_columns
from purify.stages.kind import Kind
from purify.stages.known import Known
from purify.stages.models import Drawn, draw_images, open_models, weights_of
from purify.train.inference import Rule


def run(work: Work, measure: Measure, sub: str = '') -> None:
    """Measures every image of the poisoned dataset, or those that the table `picked` leaves open.

    Writes a table in shards into the subfolder `sub`. Shards are fixed ranges of images, taken in
    turn by the hosts; a restart does the missing ones. A row depends on the models, the seed and
    its image alone.
    """
    split, folder = Split(work.inputs['poisoned'], 'train'), work.folder / sub
    chosen = open_rows(work, split)
    models = open_models(work, split, dtype=measure.dtype)
    models |= draw_images(work, measure, split)
    rule = measure.rule(models, Context(split.shape, work.settings['seed'], split.class_names))
    if not len(chosen):
        if devices.is_lead():  # a table of no rows has columns too
            none = _empty_columns(rule, weights_of(models), split.shape)
            write_columns(part_path(folder, 0, 1), none)
        return
    sink = table_sink(folder, split.ids[chosen], work.settings['shard_size'])

    def fetch(row: int) -> Facts:
        return image_row(split, int(chosen[row]))

    asked = {'calls': measure.network_calls(models), 'dtype': measure.dtype}
    map_rows(work, rule, weights_of(models), fetch, sink, split.ids[chosen], **asked)


def open_rows(work: Work, split: Split) -> np.ndarray:
    """Positions i64[m] of the images to look at, ascending: all, or those `open` in `picked`."""
    if 'picked' not in work.inputs:
        return np.arange(len(split))
    table = read_table(work.inputs['picked'])
    check_ids(table, split, work.inputs['picked'])
    return np.flatnonzero(table['open'])


def image_row(split: Split, position: int) -> Facts:
    """Makes the row that a rule gets of one image: 'image', 'label' and 'id'."""
    record = split[position]
    label, identity = np.int32(record['label']), np.int32(record['id'])
    return {'image': record['image'], 'label': label, 'id': identity}


def _empty_columns(
    rule: Rule, constants: Tree, shape: tuple[int, int, int]
) -> dict[str, np.ndarray]:
    """The columns of a rule with no rows: their types and shapes, from tracing it."""
    rows = {'image': jax.ShapeDtypeStruct((2, *shape), np.uint8)}
    rows |= {name: jax.ShapeDtypeStruct((2,), np.int32) for name in ('label', 'id')}
    columns = jax.eval_shape(rule, constants, rows)
    empty = {name: np.zeros((0, *x.shape[1:]), x.dtype) for name, x in columns.items()}
    empty.pop('finite', None)
    return empty | {'ids': np.zeros(0, np.int64)}


def shape(known: Known, step: Step) -> None:
    """Traces the rule over rows of two images; features that it measures are known from then on."""
    measure: Measure = step.by.measure if isinstance(step.by, Look) else step.by
    models, count = known.models(step.inputs), measure.drawn()
    generated = step.inputs['poisoned'] != 'poisoned' and known.config['defense'].get('images')
    if count > (images := generated or known.data.images):
        raise UserError(
            f'draws={count}: the dataset it draws from has {images} images. Choose fewer.'
        )
    if count:
        models['drawn'] = Drawn(jax.ShapeDtypeStruct((count, *known.data.pixels), np.uint8))
    columns = known.trace(step.name, measure.rule, models, known.data.rows('label', 'id'), images)
    if 'features' in columns:
        known.widths[step.name] = columns['features'].shape[-1]


KIND = Kind(run, shape, ('seed', 'shard_size'))
