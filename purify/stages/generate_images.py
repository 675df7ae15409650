"""The stage that generates a labelled dataset, shard by shard, by a class-conditional model."""

import jax
import numpy as np

from purify.core.errors import UserError
from purify.core.types import Facts
from purify.data.builders import make_features
from purify.data.loader import Split
from purify.defenses.castle_walls.generation import Generate
from purify.defenses.method import Context, Step
from purify.engine.shards import dataset_sink, map_rows
from purify.engine.stage import Work
from purify.stages.kind import Kind
from purify.stages.known import Known
from purify.stages.models import open_models, weights_of


def run(work: Work, generate: Generate) -> None:
    """Generates a TFDS dataset of `images` images with ids from 0, of the classes `labels` in turn.

    Of all classes where there are no `labels`, and as many as the poisoned dataset holds where
    `images` is 0; that dataset says their size, channels and class names, and no image of it is
    looked at. Shards are fixed ranges, taken in turn by the hosts; a restart makes the missing
    ones. A pixel depends on the generator, the seed, the id and its label alone: a smaller set is
    the beginning of a larger one.
    """
    settings, split = work.settings, Split(work.inputs['poisoned'], 'train')
    count, classes = settings['images'] or len(split), len(split.class_names)
    labels = wanted_labels(count, settings['labels'], classes, work.name)
    models = open_models(work, split, dtype=generate.dtype)
    rule = generate.rule(models, Context(split.shape, settings['seed'], split.class_names))
    features = make_features(split.shape[0], split.shape[2], split.class_names)

    def fetch(row: int) -> Facts:
        return {'label': labels[row], 'id': np.int32(row)}

    def numbers(row: int) -> dict[str, int]:
        return {'id': row, 'label': int(labels[row])}

    size = settings['shard_size']
    sink = dataset_sink(work.folder, work.name, features, count, size, numbers=numbers)
    ids, calls = np.arange(len(labels)), generate.network_calls(models)
    map_rows(work, rule, weights_of(models), fetch, sink, ids, calls=calls, dtype=generate.dtype)


def wanted_labels(
    images: int, labels: tuple[int, ...] | list[int], classes: int, name: str = 'generated'
) -> np.ndarray:
    """Lists the class i32[images] to generate each image of: the `labels` in turn, or all classes.

    Raises `UserError` for labels that are no classes, and for fewer than one image.
    """
    if wrong := [label for label in labels if not 0 <= label < classes]:
        raise UserError(f'{name}: labels {wrong} are no classes; choose from 0 to {classes - 1}.')
    if images < 1:
        raise UserError(
            f'{name}: images={images} must be 0 (as many as the training images) or more.'
        )
    chosen = np.array(labels or range(classes), np.int32)
    return chosen[np.arange(images) % len(chosen)]


def shape(known: Known, step: Step) -> None:
    """Traces the rule over two rows, and checks which labels are asked for."""
    count, labels = step.settings['images'] or known.data.images, step.settings['labels']
    wanted_labels(count, labels, known.data.classes, step.name)
    rows = {name: jax.ShapeDtypeStruct((2,), np.int32) for name in ('label', 'id')}
    models = known.models({'generator': step.inputs['generator']})
    known.trace(step.name, step.by.rule, models, rows, count)
    known.sizes[step.name] = count


KIND = Kind(run, shape, ('seed', 'shard_size'))
