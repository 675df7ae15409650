"""The stage `evaluate`, the only one but `prepare` that opens the truth: classifiers and findings -> numbers."""

from pathlib import Path
from typing import Any

import jax
import numpy as np

from purify.attacks.attack import Attack, apply_rows
from purify.core import devices, preemption
from purify.core.errors import Preempted
from purify.core.files import read_json, write_bytes, write_json
from purify.core.progress import Bar
from purify.data.loader import Record, Split
from purify.data.manifest import Manifest
from purify.metrics.classification import accuracy, attack_success, robust_accuracy
from purify.metrics.detection import detection_rates, label_accuracy
from purify.metrics.intervals import Share, pooled
from purify.pipelines.artifacts import Classifier, check_classes, read_classifier
from purify.pipelines.chain import Work
from purify.pipelines.poisoning import make_rules, read_attacks
from purify.train.inference import map_images

CLASSIFIERS = ('teacher', 'student')


def evaluate(work: Work) -> None:
    """Writes numbers.json: teacher and student (where there is one) on the clean and the triggered test images.

    With several triggers the test images carry each in turn; ASR and RA are over all of them, and listed one by one.
    """
    manifest = Manifest.read(work.inputs['truth'])
    test = Split(work.inputs['truth'] / 'test', 'test')
    attacks = [attack for attack in read_attacks(work.inputs['truth'], manifest) if attack.has_trigger]
    rules = make_rules(manifest.facts['attack'])
    numbers: dict[str, Any] = dict.fromkeys(CLASSIFIERS)
    present = [name for name in CLASSIFIERS if name in work.inputs]
    with Bar(work.name, len(present) * (1 + len(attacks)) * len(test), shown=devices.is_lead()) as bar:
        for name in present:
            model = read_classifier(work.inputs[name])
            check_classes(model, test.class_names, test.shape[-1], f'the {name} {work.inputs[name]}')
            clean = _predict(work, model, test, None, f'{name}-clean', bar)
            shares: dict[str, Share | None] = {'acc': accuracy(clean, test.labels), 'asr': None, 'ra': None}
            triggers = []
            for number, attack in enumerate(attacks):
                hit = _predict(work, model, test, attack, f'{name}-triggered-{number}', bar)
                goals = np.array([attack.goal(int(label)) for label in test.labels], np.int32)
                among = rules.succeeds_on(test.labels, goals)
                triggers.append({'asr': attack_success(hit, goals, among), 'ra': robust_accuracy(hit, test.labels, among)})
            if triggers:
                shares |= {key: pooled([trigger[key] for trigger in triggers]) for key in ('asr', 'ra')}
            numbers[name] = describe_shares(shares)
            if len(triggers) > 1:
                rows = zip(attacks, triggers, strict=True)
                numbers[name]['triggers'] = [{'target': attack.target} | describe_shares(trigger) for attack, trigger in rows]
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


def _predict(work: Work, model: Classifier, test: Split, attack: Attack | None, name: str, bar: Bar) -> np.ndarray:
    """Predicted classes i32[n] of all test images; every host does its rows and leaves them in a file for the others.

    The trigger is stamped on the device, in the program that classifies.
    """
    mesh = devices.local_mesh()
    share = list(range(jax.process_index(), len(test), jax.process_count()))
    constants = devices.put_copy({'model': model.weights, 'trigger': attack.shared(test.shape, 'test') if attack else {}}, mesh)
    rows: list[np.ndarray] = []

    def fetch(position: int) -> Record:
        record = test[position]
        drawn = attack.drawn(test.shape, int(record['id']), 'test') if attack else {}
        return {'image': record['image']} | {f'drawn {key}': value for key, value in drawn.items()}

    def classify(arrays: Any, batch: dict[str, jax.Array]) -> jax.Array:
        images = batch['image']
        if attack:
            drawn = {key.removeprefix('drawn '): value for key, value in batch.items() if key != 'image'}
            images = apply_rows(attack, images, arrays['trigger'], drawn)
        return model.predict(arrays['model'], {'image': images})

    batch = work.run['inference_batch']
    for _, classes in map_images(classify, constants, fetch, share, batch=batch, mesh=mesh, cost=work.cost):
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
