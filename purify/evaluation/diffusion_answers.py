"""The stage `diffused`: a generator classifies the test images, clean and under each trigger."""

from dataclasses import replace
from pathlib import Path
from typing import Any, TypedDict

import numpy as np

from purify.attacker.manifest import Manifest
from purify.attacks.attack import Attack
from purify.core import devices
from purify.core.files import read_json, write_json
from purify.core.randomness import stream_rng
from purify.core.types import Facts, Tree
from purify.defenses.castle_walls.diffusion_classifier import errors_rule
from purify.defenses.method import Context
from purify.engine.shards import map_rows, table_sink
from purify.engine.stage import Work
from purify.engine.tables import read_table
from purify.evaluation.testbench import Bench, stamped
from purify.generative.pixel_generator import open_generator
from purify.train.inference import Rows, Rule

FACTS = 'facts.json'
CLEAN = 'clean'
TRIGGERED = 'triggered-{}'.format
STAGE_OWN = ('seed', 'shard_size')  # among the stage's settings, besides `Outcome.diffusion`


class Asked(TypedDict):
    """The file facts.json: how the generator was asked, and how many images."""

    draws: int
    weighting: str
    images: int
    calls_per_image: float
    p_filter: float
    p_filters: list[float]


# Positions i64[m] of test images, and the classes i32[m] that they are taken for.
Seen = tuple[np.ndarray, np.ndarray]


def write_answers(work: Work) -> None:
    """Classifies the test images with a generator; writes a table of the clean and of each trigger.

    Columns: `ids`, `predictions` i32[m p] for every p_filter, `errors` f32[m k p] (see
    `DenoisingErrors`). Triggered are those that count for the ASR. Shards are fixed ranges of
    images, taken round-robin by the hosts; a restart does the missing ones. A row depends on the
    generator, the seed and its image alone. What was done is said in facts.json.
    """
    bench, seed = Bench.open(work, Manifest.read(work.inputs['truth'])), work.settings['seed']
    settings = {name: value for name, value in work.settings.items() if name not in STAGE_OWN}
    rule, names = errors_rule(settings), bench.test.class_names
    generator = open_generator(
        work.inputs['generator'], dtype=settings['dtype'], vae_slice=work.run['vae_slice']
    )
    measure = rule.rule({'generator': generator}, Context(bench.test.shape, seed, names))
    chosen, calls = choose_images(len(bench.test), settings['images'], seed), rule.calls(len(names))
    sets: dict[str, Attack | None] = {CLEAN: None}
    sets |= {TRIGGERED(k): attack for k, attack in enumerate(bench.attacks)}
    for name, attack in sets.items():
        rows = chosen if attack is None else chosen[bench.aim(attack)[1][chosen]]
        _measure(bench, name, attack, rows, measure, generator.weights, calls)
    if devices.is_lead():
        facts = {'draws': rule.draws, 'weighting': rule.weighting, 'images': len(chosen)}
        facts |= {'calls_per_image': calls, 'p_filter': rule.p_filter}
        write_json(work.folder / FACTS, facts | {'p_filters': list(rule.p_filters)})


def choose_images(count: int, images: int, seed: int) -> np.ndarray:
    """Draws positions i64[m], ascending, of `images` of the `count` test images; 0 means all."""
    if not images or images >= count:
        return np.arange(count)
    return np.sort(stream_rng(seed, 'diffused images').choice(count, images, replace=False))


def _measure(
    bench: Bench,
    name: str,
    attack: Attack | None,
    positions: np.ndarray,
    measure: Rule,
    weights: Tree,
    calls: int,
) -> None:
    """Fills the table `name` with the test images at `positions`, stamped by `attack`."""
    work, ids = bench.work, bench.test.ids[positions]
    if not len(ids):
        return

    def stamp(constants: Tree, rows: Rows) -> Rows:
        images = stamped(attack, constants['trigger'], rows)
        return measure(constants, {'image': images, 'label': rows['label'], 'id': rows['id']})

    def fetch(row: int) -> Facts:
        return bench.record(attack, int(positions[row]))

    constants = {'generator': weights, 'trigger': bench.shared(attack)}
    named = replace(work, name=f'{work.name} {name}')
    sink = table_sink(work.folder / name, ids, work.settings['shard_size'])
    map_rows(named, stamp, constants, fetch, sink, ids, calls=calls, dtype=work.settings['dtype'])


def read_answers(bench: Bench, folder: Path) -> tuple[Facts, list[tuple[Seen, list[Seen]]]]:
    """Reads the stage's facts, and for each p_filter the answers on clean and triggered images."""
    facts: Any = read_json(folder / FACTS, Asked)
    filters = len(facts['p_filters'])
    names = (CLEAN, *map(TRIGGERED, range(len(bench.attacks))))
    sets = [_read(bench, folder / name, filters) for name in names]
    split = [[(where, classes[:, k]) for where, classes in sets] for k in range(filters)]
    return facts, [(clean, triggered) for clean, *triggered in split]


def _read(bench: Bench, folder: Path, filters: int) -> Seen:
    """Positions i64[m] and predictions i32[m filters] of one set; none if it has no folder."""
    if not folder.is_dir():
        return np.zeros(0, np.int64), np.zeros((0, filters), np.int32)
    table = read_table(folder)
    return bench.test.position_of(table['ids']), table['predictions']
