"""The stage `evaluate`, the only one but `prepare` that opens the truth: classifiers and findings -> numbers."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from purify.core import devices, preemption
from purify.core.errors import Preempted
from purify.core.files import read_json, write_bytes, write_json
from purify.core.progress import Bar
from purify.data.loader import Record, Split
from purify.data.manifest import Manifest
from purify.metrics.classification import accuracy, attack_success, robust_accuracy
from purify.metrics.detection import detection_rates, label_accuracy
from purify.metrics.intervals import Share
from purify.pipelines.artifacts import Classifier, check_classes, read_classifier
from purify.pipelines.chain import Work
from purify.pipelines.prepare import make_attack
from purify.train.inference import map_images

CLASSIFIERS = ('teacher', 'student')


def evaluate(work: Work) -> None:
    """Writes numbers.json: teacher and student (where there is one) on the clean and the triggered test images."""
    manifest = Manifest.read(work.inputs['truth'])
    test = Split(work.inputs['truth'] / 'test', 'test')
    rule = manifest.facts['attack']
    attack = None if rule['name'] == 'none' else make_attack(rule, manifest.facts['seed'])

    def triggered(position: int) -> Record:
        record = test[position]
        return record | {'image': attack.stamp(record['image'], int(record['id']))} if attack else record

    numbers: dict[str, Any] = dict.fromkeys(CLASSIFIERS)
    present = [name for name in CLASSIFIERS if name in work.inputs]
    views = 2 if attack else 1
    with Bar(work.name, len(present) * views * len(test), shown=devices.is_lead()) as bar:
        for name in present:
            model = read_classifier(work.inputs[name])
            check_classes(model, test.class_names, test.shape[-1], f'the {name} {work.inputs[name]}')
            clean = _predict(work, model, test, test.__getitem__, f'{name}-clean', bar)
            shares = {'acc': accuracy(clean, test.labels), 'asr': None, 'ra': None}
            if attack:
                hit = _predict(work, model, test, triggered, f'{name}-triggered', bar)
                shares['asr'] = attack_success(hit, test.labels, attack.target)
                shares['ra'] = robust_accuracy(hit, test.labels, attack.target)
            numbers[name] = describe_shares(shares)
    numbers['detection'] = describe_findings(work.inputs.get('findings'), manifest)
    if devices.is_lead():
        write_json(work.folder / 'numbers.json', numbers)


def describe_shares(shares: dict[str, Share | None]) -> dict[str, Any]:
    """Shares -> {'acc': .., 'counts': {'acc': [hits, n]}, 'intervals': {'acc': [low, high]}}; None where nothing was counted."""
    values = {name: share.value if share else None for name, share in shares.items()}
    counts = {name: [share.hits, share.count] if share else None for name, share in shares.items()}
    intervals = {name: list(share.interval()) if share and share.count else None for name, share in shares.items()}
    return values | {'counts': counts, 'intervals': intervals}


def describe_findings(folder: Path | None, manifest: Manifest) -> dict[str, Any]:
    """A method's findings held against the truth: TPR and FPR of its verdicts, its target labels, its new labels."""
    found: dict[str, Any] = dict.fromkeys(('tpr', 'fpr', 'target_labels', 'label_accuracy'))
    if folder is None:
        return found
    with np.load(folder / 'findings.npz', allow_pickle=False) as arrays:
        ids, flagged = arrays['ids'], arrays['flagged']
        labels = arrays.get('labels', None)
    rates = detection_rates(ids, flagged, manifest.ids[manifest.poisoned])
    found |= {'tpr': rates.tpr.value, 'fpr': rates.fpr.value}
    found['target_labels'] = read_json(folder / 'findings.json')['target_labels']
    if labels is not None:
        found['label_accuracy'] = label_accuracy(ids, labels, manifest.ids, manifest.true_labels).value
    return found


def _predict(work: Work, model: Classifier, test: Split, fetch: Callable[[int], Record], name: str, bar: Bar) -> np.ndarray:
    """Predicted classes i32[n] of all test images; every host does its rows and leaves them in a file for the others."""
    mesh = devices.local_mesh()
    share = list(range(jax.process_index(), len(test), jax.process_count()))
    constants = devices.put_copy(model.weights, mesh)
    rows: list[np.ndarray] = []

    def image_only(position: int) -> Record:
        return {'image': fetch(position)['image']}

    batch = work.run['inference_batch']
    for _, classes in map_images(model.predict, constants, image_only, share, batch=batch, mesh=mesh, cost=work.cost):
        rows.append(classes)
        bar.advance(len(classes) * jax.process_count())
        if preemption.asked():
            break
    if devices.any_host(preemption.asked()):
        raise Preempted
    mine = np.concatenate(rows).astype(np.int32) if rows else np.zeros(0, np.int32)
    if jax.process_count() == 1:
        return mine
    file = '{}-{}.i32'.format
    write_bytes(work.folder / file(name, jax.process_index()), mine.tobytes())
    devices.barrier(f'predictions {name}')
    every = np.zeros(len(test), np.int32)
    for host in range(jax.process_count()):
        every[host :: jax.process_count()] = np.frombuffer((work.folder / file(name, host)).read_bytes(), np.int32)
    return every
