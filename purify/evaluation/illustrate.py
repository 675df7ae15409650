"""The stage `illustrate`: pictures for the report that explain a purification."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from purify.attacker.manifest import Manifest
from purify.core import devices
from purify.core.errors import UserError
from purify.core.progress import Bar
from purify.core.types import Facts, Tree
from purify.data.loader import Split
from purify.data.table import Table
from purify.defenses.dataelixir.candidates import Candidates
from purify.defenses.method import Context
from purify.engine.gather import look_at_all
from purify.engine.stage import Work
from purify.engine.tables import Columns, read_columns, read_table, write_columns
from purify.evaluation.clean_images import CleanImages
from purify.evaluation.testbench import advise
from purify.stages.models import open_models, weights_of
from purify.stages.networks_on_disk import read_classifier
from purify.train.inference import Rows, Rule
from purify.train.saliency import grad_cam

FILE = 'illustration.npz'
MOST = 8  # samples of a kind that a page can hold
VIEWS = ('original', 'given', 'purified')  # what the teacher's gaze is drawn on
ANSWERING = ('teacher', 'benign', 'student')


@dataclass(frozen=True)
class _Samples:
    """The images to explain: [k ...] of each, as they are described in `illustrate`."""

    ids: np.ndarray
    labels: np.ndarray
    original: np.ndarray
    given: np.ndarray
    purified: np.ndarray
    has_purified: np.ndarray


def illustrate(work: Work, candidates: Candidates) -> None:
    """Writes illustration.npz of k samples: half of `report_images` poisoned, as many clean.

    At most `MOST` of each. 'ids' i64[k], 'poisoned' bool[k];
    'original', 'given', 'purified' u8[k h w c];
    'has_purified' bool[k], false where the defence dropped the image ('purified' is black then);
    'true', 'label' (as given) and 'new' i32[k] classes;
    'rounds' u8[k r h w c], the last candidate of each round;
    'round_labels' i32[k r] and 'raw_labels' i32[k], the teacher's classes of these and of the given
    image;
    'heat' u8[k 3 h w], the teacher's gaze (Grad-CAM of the class it sees, 0 to 255) on the three
    `VIEWS`, 'heat_labels' i32[k 3];
    'answer_teacher', 'answer_benign', 'answer_student' i32[k], of the given image, by the
    classifiers there are.

    Raises `Preempted` when SIGTERM came; nothing is kept, the pictures are few.
    """
    manifest = Manifest.read(work.inputs['truth'])
    findings, table = (read_table(work.inputs[role]) for role in ('findings', 'candidates'))
    count = min(work.run['report_images'] // 2, MOST)
    kinds = [choose_samples(manifest, findings, poisoned, count) for poisoned in (True, False)]
    ids = np.concatenate(kinds)
    truth = np.searchsorted(manifest.ids, ids)
    samples = _collect(work, ids)
    measured = table.of(ids, 'candidates')
    last = np.arange(1, candidates.rounds + 1) * (measured.shape[1] // candidates.rounds) - 1
    found = {
        'ids': ids,
        'poisoned': manifest.poisoned[truth],
        **{name: getattr(samples, name) for name in (*VIEWS, 'has_purified')},
        'true': manifest.true_labels[truth],
        'label': samples.labels,
        'new': findings.of(ids, 'labels'),
        'rounds': _remake(work, candidates, samples, last),
        'round_labels': measured[:, last],
        'raw_labels': table.of(ids, 'raw'),
    }
    found['heat'], found['heat_labels'] = _look(work, samples)
    for role in [role for role in ANSWERING if role in work.inputs]:
        found[f'answer_{role}'] = _ask(work, role, samples.given)
    if devices.is_lead():
        write_columns(work.folder / FILE, found, compressed=True)


def read_illustration(folder: Path) -> dict[str, np.ndarray]:
    """Reads what `illustrate` wrote: arrays by name."""
    return read_columns(folder / FILE)


def choose_samples(manifest: Manifest, findings: Table, poisoned: bool, count: int) -> np.ndarray:
    """Chooses ids i64[<= count] of poisoned or of clean images to show.

    The first poisoned ones as they come: a defence that finds only some must not be shown by these
    alone. Of the clean ones those flagged first, then those not in the benign set, where the
    findings tell sets apart.
    """
    ids = manifest.ids[manifest.poisoned == poisoned]
    if poisoned:
        return ids[:count]
    flagged = findings.of(ids, 'flagged', False)
    anomalous = findings.of(ids, 'set', 0) if 'set' in findings.columns else flagged
    return ids[np.lexsort((ids, anomalous == 0, ~flagged))][:count]


def _collect(work: Work, ids: np.ndarray) -> _Samples:
    """The images of those ids, before the attack, as given, and purified."""
    given, purified = (Split(work.inputs[role], 'train') for role in ('poisoned', 'purified'))
    before, rows = CleanImages(given, work.inputs['truth']), given.position_of(ids)
    has = np.isin(ids, purified.ids)
    original, images, after = (np.zeros((len(ids), *given.shape), np.uint8) for _ in VIEWS)
    for number, row in enumerate(rows):
        original[number], images[number] = before[row], given[row]['image']
    for number, row in zip(np.flatnonzero(has), purified.position_of(ids[has]), strict=True):
        after[number] = purified[row]['image']
    return _Samples(ids, given.labels[rows], original, images, after, has)


def _remake(work: Work, measured: Candidates, samples: _Samples, numbers: np.ndarray) -> np.ndarray:
    """Makes the candidates `numbers` of every sample again as they were measured: u8[k r h w c]."""
    rounds, count, shape = len(numbers), len(samples.ids), samples.given.shape[1:]
    given = Split(work.inputs['poisoned'], 'train')
    models = open_models(work, given, dtype=measured.dtype)
    remake = measured.remake()
    rule = remake.rule(models, Context(given.shape, work.settings['seed'], given.class_names))

    def fetch(position: int) -> Facts:
        row, number = divmod(position, rounds)
        own = {'id': samples.ids[row], 'label': samples.labels[row], 'variation': numbers[number]}
        numbered = {name: np.int32(value) for name, value in own.items()}
        return {'image': samples.given[row]} | numbered

    weights, rows = weights_of(models), count * rounds
    made = _see(work, rule, weights, fetch, rows, 'rounds', 'batch_per_device')
    work.cost.network_calls += remake.network_calls(models) * rows
    if not made:
        return np.zeros((0, rounds, *shape), np.uint8)
    if not made['finite'].all():
        raise UserError(f'the prior gave NaN for a sample of the report. {advise(measured.dtype)}')
    return made['image'].reshape(count, rounds, *shape)


def _look(work: Work, samples: _Samples) -> tuple[np.ndarray, np.ndarray]:
    """Where the teacher looks in each view, u8[k 3 h w], and the classes i32[k 3] it sees there."""
    model = read_classifier(work.inputs['teacher'])
    views = np.stack([getattr(samples, name) for name in VIEWS], 1)
    count, height, width = len(views), *views.shape[2:4]
    flat = views.reshape(-1, *views.shape[2:])

    def look(weights: Tree, rows: Rows) -> Rows:
        labels = model.predict(weights, rows).astype(jnp.int32)
        heat = grad_cam(model.network(weights), rows['image'].astype(jnp.float32) / 255, labels)
        return {'heat': jnp.round(heat * 255).astype(jnp.uint8), 'labels': labels}

    if not count:
        return np.zeros((0, len(VIEWS), height, width), np.uint8), np.zeros((0, 3), np.int32)
    seen = _see(work, look, model.weights, lambda i: {'image': flat[i]}, len(flat), 'heat')
    heat = seen['heat'].reshape(count, len(VIEWS), height, width)
    return heat, seen['labels'].reshape(count, len(VIEWS))


def _ask(work: Work, role: str, images: np.ndarray) -> np.ndarray:
    """The classes i32[k] that the classifier of that role predicts."""
    model = read_classifier(work.inputs[role])
    rule = lambda weights, rows: {'classes': model.predict(weights, rows).astype(jnp.int32)}
    fetch = lambda i: {'image': images[i]}
    seen = _see(work, rule, model.weights, fetch, len(images), f'answer-{role}')
    return seen.get('classes', np.zeros(0, np.int32))


def _see(
    work: Work, rule: Rule, weights: Tree, fetch: Any, count: int, name: str, size: str = ''
) -> Columns:
    """A rule's columns over `count` records, from all hosts; `size` names the rows at a time."""
    batch = work.run[size or 'inference_batch'] * devices.local_mesh().size
    with Bar(f'{work.name} {name}', count, shown=devices.is_lead()) as bar:
        rows, batch = np.arange(count), max(1, min(batch, count))
        return look_at_all(work, rule, weights, fetch, rows, name, bar, batch=batch)
