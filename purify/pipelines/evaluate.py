"""The stage `evaluate`, one of few that open the truth: classifiers, findings and purified images -> numbers."""

from pathlib import Path
from typing import Any

import numpy as np

from purify.core import devices
from purify.core.files import write_json
from purify.core.progress import Bar
from purify.data.manifest import Manifest
from purify.metrics.classification import accuracy, attack_success, robust_accuracy
from purify.metrics.detection import detection_rates, label_accuracy
from purify.metrics.intervals import Share, pooled
from purify.pipelines.chain import Work
from purify.pipelines.likeness import describe_likeness
from purify.pipelines.residual import measure_residual
from purify.pipelines.tables import read_table
from purify.pipelines.triggered import Bench

CLASSIFIERS = ('teacher', 'benign', 'student')


def evaluate(work: Work) -> None:
    """Writes numbers.json: every classifier there is on the clean and the triggered test images, findings, purified images.

    With several triggers the test images carry each in turn; ASR and RA are over all of them, and listed one by one.
    """
    manifest = Manifest.read(work.inputs['truth'])
    numbers: dict[str, Any] = dict.fromkeys(CLASSIFIERS)
    bench = Bench.open(work, manifest)
    present = [name for name in CLASSIFIERS if name in work.inputs]
    with Bar(work.name, len(present) * (1 + len(bench.attacks)) * len(bench.test), shown=devices.is_lead()) as bar:
        for name in present:
            numbers[name] = _judge(bench, name, bar)
    if 'prior' in work.inputs and numbers['student'] is not None:
        numbers['student'] |= measure_residual(bench)
    numbers['detection'] = describe_findings(work.inputs.get('findings'), manifest)
    numbers['purified'] = describe_likeness(work, manifest)
    if devices.is_lead():
        write_json(work.folder / 'numbers.json', numbers)


def _judge(bench: Bench, name: str, bar: Bar) -> dict[str, Any]:
    """ACC, ASR and RA of one classifier."""
    model = bench.classifier(name)
    labels = bench.test.labels
    clean = bench.predict(model, f'{name}-clean', bar)
    shares: dict[str, Share | None] = {'acc': accuracy(clean, labels), 'asr': None, 'ra': None}
    triggers = []
    for number, attack in enumerate(bench.attacks):
        hit = bench.predict(model, f'{name}-triggered-{number}', bar, attack)
        goals, among = bench.aim(attack)
        triggers.append({'asr': attack_success(hit, goals, among), 'ra': robust_accuracy(hit, labels, among)})
    if triggers:
        shares |= {key: pooled([trigger[key] for trigger in triggers]) for key in ('asr', 'ra')}
    numbers = describe_shares(shares)
    if len(triggers) > 1:
        rows = zip(bench.attacks, triggers, strict=True)
        numbers['triggers'] = [{'target': attack.target} | describe_shares(trigger) for attack, trigger in rows]
    return numbers


def describe_shares(shares: dict[str, Share | None]) -> dict[str, Any]:
    """Shares -> {'acc': .., 'counts': {'acc': [hits, n]}, 'intervals': {'acc': [low, high]}}; None where nothing was counted."""
    values = {name: share.value if share else None for name, share in shares.items()}
    counts = {name: [share.hits, share.count] if share else None for name, share in shares.items()}
    intervals = {name: list(share.interval()) if share and share.count else None for name, share in shares.items()}
    return values | {'counts': counts, 'intervals': intervals}


def describe_findings(folder: Path | None, manifest: Manifest) -> dict[str, Any]:
    """A method's findings held against the truth: TPR and FPR of its verdicts, its target labels, the labels of what it keeps."""
    found: dict[str, Any] = dict.fromkeys(('tpr', 'fpr', 'target_labels', 'label_accuracy'))
    if folder is None:
        return found
    table = read_table(folder)
    ids, flagged = table['ids'], table['flagged']
    labels = table.columns.get('labels')
    keep = table.columns.get('keep', np.ones(len(ids), np.bool_))
    rates = detection_rates(ids, flagged, manifest.ids[manifest.poisoned])
    found |= {'tpr': rates.tpr.value, 'fpr': rates.fpr.value}
    found['target_labels'] = table.facts.get('target_labels')
    if labels is not None:
        found['label_accuracy'] = label_accuracy(ids[keep], labels[keep], manifest.ids, manifest.true_labels).value
    return found
