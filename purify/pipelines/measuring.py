"""The stage that looks at every image and writes numbers, and how stages open models and take shards in turn."""

import concurrent.futures
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np

from purify.core import devices, preemption
from purify.core.errors import Preempted, UserError
from purify.core.progress import Bar
from purify.core.randomness import stream_rng
from purify.data.builders import cut
from purify.data.loader import Split
from purify.defenses.generators import open_generator
from purify.defenses.method import Rule
from purify.defenses.registry import MEASURES
from purify.defenses.variation_models import load_variation_model
from purify.pipelines.artifacts import check_classes, read_classifier
from purify.pipelines.chain import Work
from purify.pipelines.encoding import open_encoder
from purify.pipelines.tables import check_ids, part_path, read_table, write_columns
from purify.train.inference import map_images

WRITES = 4  # shards that may wait for being written
STAGE_SETTINGS = ('name', 'seed', 'shard_size')  # the rest of a step's settings are its rule's attributes


def measure(work: Work) -> None:
    """Numbers of every image of the poisoned dataset, or of those that the table `picked` picks, as a table of shards.

    Shards are fixed ranges of images, taken round-robin by the hosts; a restart does the missing ones. A row depends on the
    models, the seed and its image alone.
    """
    split = Split(work.inputs['poisoned'], 'train')
    chosen = picked_rows(work, split)
    numbers = MEASURES.make(work.settings['name'], **rule_settings(work.settings))
    models = open_models(work, split) | draw_images(numbers, split, work.settings['seed'])
    rule = numbers.rule(models, split.shape, work.settings['seed'], split.class_names)
    constants, calls = {role: model.weights for role, model in models.items()}, network_calls(numbers, models)
    ranges = cut(len(chosen), work.settings['shard_size']) or [range(0)]  # a table of no rows has columns too
    paths = [part_path(work.folder, part, len(ranges)) for part in range(len(ranges))]
    pending = [part for part, path in enumerate(paths) if not path.exists()]
    if not len(chosen):
        empty = empty_columns(rule, constants, split.shape)
        pending = []
        if devices.is_lead():
            write_columns(paths[0], empty | {'ids': np.zeros(0, np.int64)})

    def write(part: int, rows: list[dict[str, np.ndarray]]) -> None:
        columns = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
        write_columns(paths[part], columns | {'ids': split.ids[chosen[ranges[part]]]})

    def fetch(position: int) -> dict[str, Any]:
        return image_row(split, int(chosen[position]))

    run_shards(work, rule, constants, fetch, ranges, pending, write, lambda rows: split.ids[chosen[rows]], calls)


def rule_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The attributes of a step's rule among the step's settings."""
    return {name: value for name, value in settings.items() if name not in STAGE_SETTINGS}


def open_models(work: Work, split: Split) -> dict[str, Any]:
    """The models among a stage's inputs, by role: 'prior', 'generator', 'classifier' and 'encoder'."""
    models: dict[str, Any] = {}
    if 'prior' in work.inputs:
        dtype = work.settings.get('dtype', 'float32')
        models['prior'] = load_variation_model(work.inputs['prior'], dtype=dtype, vae_slice=work.run['vae_slice'])
    if 'generator' in work.inputs:
        dtype = work.settings.get('dtype', 'float32')
        models['generator'] = open_generator(work.inputs['generator'], dtype=dtype, vae_slice=work.run['vae_slice'])
    if 'classifier' in work.inputs:
        models['classifier'] = read_classifier(work.inputs['classifier'])
        check_classes(models['classifier'], split.class_names, split.shape[-1], f'the classifier {work.inputs["classifier"]}')
    if 'encoder' in work.inputs:
        models['encoder'] = open_encoder(work.inputs['encoder'])
    return models


@dataclass(frozen=True, eq=False)
class Drawn:
    """Images u8[n h w c] that a rule compares others with, as `weights`, for they go to the devices with those of the models."""

    weights: Any


def draw_images(rule: Any, split: Split, seed: int) -> dict[str, Drawn]:
    """{'drawn': ..} for a rule with `draws` > 0: so many images of `split`, none twice, by the seed; else nothing.

    Raises `UserError` where there are too few.
    """
    count = getattr(rule, 'draws', 0)
    if not count:
        return {}
    if count > len(split):
        raise UserError(f'draws={count}: the dataset {split.folder} has {len(split)} images. Choose fewer.')
    chosen = stream_rng(seed, 'drawn').permutation(len(split))[:count]
    return {'drawn': Drawn(split.images(np.sort(chosen).tolist()))}


def network_calls(rule: Any, models: Mapping[str, Any]) -> int:
    """How often a rule asks its prior's network for one row."""
    return rule.network_calls(models) if 'prior' in models else 0


def picked_rows(work: Work, split: Split) -> np.ndarray:
    """Positions i64[m] of the images to look at, in order: all, or those that the input `picked` picks."""
    if 'picked' not in work.inputs:
        return np.arange(len(split))
    table = read_table(work.inputs['picked'])
    check_ids(table, split, work.inputs['picked'])
    return np.flatnonzero(table['pick'])


def image_row(split: Split, position: int) -> dict[str, Any]:
    """What a rule gets of one image."""
    record = split[position]
    return {'image': record['image'], 'label': np.int32(record['label']), 'id': np.int32(record['id'])}


def empty_columns(rule: Rule, constants: Any, shape: tuple[int, int, int]) -> dict[str, np.ndarray]:
    """The columns of a rule with no rows: their types and shapes, from tracing it."""
    rows = abstract_rows(shape, 'label', 'id')
    columns = jax.eval_shape(rule, constants, rows)
    return {name: np.zeros((0, *x.shape[1:]), x.dtype) for name, x in columns.items() if name != 'finite'}


def abstract_rows(shape: tuple[int, int, int], *numbers: str, count: int = 2) -> dict[str, jax.ShapeDtypeStruct]:
    """Rows of `count` images and of i32 numbers, as shapes."""
    image = {'image': jax.ShapeDtypeStruct((count, *shape), jnp.uint8)}
    return image | {name: jax.ShapeDtypeStruct((count,), jnp.int32) for name in numbers}


def run_shards(
    work: Work,
    rule: Rule,
    constants: Any,
    fetch: Callable[[int], dict[str, Any]],
    ranges: Sequence[range],
    pending: Sequence[int],
    write: Callable[[int, list[dict[str, np.ndarray]]], None],
    ids_of: Callable[[np.ndarray], np.ndarray],
    calls: int,
) -> None:
    """Runs a rule over the rows of the pending shards, this host's share of them, and writes each as soon as it is whole.

    Args:
      work: the stage's.
      rule: see `purify.defenses.method.Rule`.
      constants: its weights by role, NumPy.
      fetch: row number -> what the rule gets of it.
      ranges: the row numbers of every shard.
      pending: which shards are not there yet.
      write: shard, outputs of its rows -> a file; called in a thread.
      ids_of: row numbers -> ids, to name the rows that come out broken.
      calls: of a prior's network for one row, to be counted.

    Raises:
      UserError: where `finite` is false.
      Preempted: when SIGTERM came; what is whole is written.
    """
    devices.barrier(f'pending shards of {work.name}')  # all look before any writes
    mine = pending[jax.process_index() :: jax.process_count()]
    numbers, total = [i for shard in mine for i in ranges[shard]], sum(map(len, ranges))
    mesh = devices.local_mesh()
    batch = work.run['batch_per_device'] * mesh.size
    with Bar(work.name, total, shown=devices.is_lead()) as bar, _ShardStore(ranges, write) as store:
        bar.skip(total - len(numbers) * jax.process_count())
        placed = devices.put_copy(constants, mesh) if numbers else None
        for where, out in map_images(rule, placed, fetch, numbers, batch=batch, mesh=mesh, cost=work.cost):
            finite = out.pop('finite', np.ones(len(where), bool))
            _refuse_broken(ids_of(where[~finite]), work.settings.get('dtype', 'float32'))
            store.put(where, out)
            done = len(where) * jax.process_count()
            work.cost.network_calls += calls * done
            bar.advance(done)
            if preemption.asked():
                break
    if devices.any_host(preemption.asked()):  # all hosts leave together, none waits for one that is gone
        raise Preempted


def _refuse_broken(ids: np.ndarray, dtype: str) -> None:
    """`UserError` naming images that the models could make nothing of; no shard with one of them is written."""
    if len(ids):
        raise UserError(
            f'the models gave NaN for {len(ids)} images of a batch (ids {", ".join(map(str, ids[:8].tolist()))}). Computing in '
            f'{dtype} may overflow: try defense.dtype=float32; or the weights of the prior or the classifier are broken.'
        )


class _ShardStore:
    """Collects results and writes each shard, in a thread, as soon as its last row is there."""

    def __init__(self, ranges: Sequence[range], write: Callable[[int, list[dict[str, np.ndarray]]], None]):
        self.ranges, self.write = ranges, write
        self.held: dict[int, dict[str, np.ndarray]] = {}
        self.pool = concurrent.futures.ThreadPoolExecutor(2)
        self.writing: list[concurrent.futures.Future[None]] = []

    def put(self, numbers: np.ndarray, columns: dict[str, np.ndarray]) -> None:
        rows = [{name: column[k] for name, column in columns.items()} for k in range(len(numbers))]
        self.held.update(zip(numbers.tolist(), rows, strict=True))
        for shard in sorted({i // len(self.ranges[0]) for i in numbers.tolist()}):
            if all(i in self.held for i in self.ranges[shard]):
                whole = [self.held.pop(i) for i in self.ranges[shard]]
                self.writing.append(self.pool.submit(partial(self.write, shard, whole)))
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
