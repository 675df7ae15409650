"""The stage `evaluate`: holds classifiers, findings and purified images against the truth."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from purify.attacker.manifest import Manifest
from purify.attacks.attack import Attack
from purify.core import devices
from purify.core.errors import UserError
from purify.core.files import write_json
from purify.core.progress import Bar
from purify.core.randomness import stream_seed
from purify.core.types import Facts, Tree
from purify.data.table import Table
from purify.defenses.dataelixir.candidates import Candidates
from purify.defenses.method import Context, Guard
from purify.engine.stage import Work
from purify.engine.tables import read_table
from purify.evaluation.diffusion_answers import Seen, read_answers
from purify.evaluation.image_quality import describe_likeness
from purify.evaluation.residual_attack import measure_residual
from purify.evaluation.testbench import BROKEN, Bench, advise
from purify.metrics.classification import accuracy, attack_success, robust_accuracy
from purify.metrics.detection import auroc, detection_rates, label_accuracy
from purify.metrics.intervals import Rate, pooled
from purify.stages.models import open_models, weights_of
from purify.train.inference import Rows, Rule

CLASSIFIERS = ('teacher', 'benign', 'student')
REPAIRED = 'repaired'
GUARD = 'guard '  # before the roles of a guard's models, among the inputs
FATES = ('kept', 'dropped', 'relabelled')


def evaluate(work: Work, candidates: Candidates | None = None, guard: Guard | None = None) -> None:
    """Writes numbers.json: how classifiers, findings and purified images compare with the truth.

    Classifiers see the clean and the triggered test images. With several triggers the test images
    carry each in turn; ASR and RA are over all of them, and listed one by one. A generator that
    classifies stands for the student where the method trains none.

    Args:
      work: the stage's.
      candidates: what measured the candidates that an attacker may hand in himself, where that is
        asked for.
      guard: what is done to the teacher's inputs at test time; its models are the inputs called
        'guard ' and the role.
    """
    manifest = Manifest.read(work.inputs['truth'])
    numbers: Facts = dict.fromkeys((*CLASSIFIERS, 'diffusion'))
    bench = Bench.open(work, manifest)
    present = [name for name in (*CLASSIFIERS, REPAIRED) if name in work.inputs]
    looks = (len(present) + (guard is not None)) * (1 + len(bench.attacks))
    with Bar(work.name, looks * len(bench.test), shown=devices.is_lead()) as bar:
        for name in present:
            numbers[name] = _judge(bench, name, bar)
        if guard is not None:
            name = {'guard': work.settings['guard']['by']['name']}
            numbers['guarded'] = _judge(bench, 'teacher', bar, guard) | name
    if 'diffused' in work.inputs:
        numbers['diffusion'], headline = describe_diffusion(bench, work.inputs['diffused'])
        numbers['student'] = numbers['student'] or headline
    if candidates is not None and numbers['student'] is not None:
        numbers['student'] |= measure_residual(bench, candidates)
    numbers['detection'] = describe_findings(work.inputs.get('findings'), manifest)
    numbers['purified'] = describe_likeness(work)
    if devices.is_lead():
        write_json(work.folder / 'numbers.json', numbers)


def _judge(bench: Bench, name: str, bar: Bar, guard: Guard | None = None) -> Facts:
    """ACC, ASR and RA of one classifier, whose inputs a guard changes before, if so.

    Raises `UserError` where that makes no images.
    """
    model, every, label = bench.classifier(name), bench.everyone, 'guarded' if guard else name
    change = open_guard(bench, guard) if guard else None

    def ask(attack: Attack | None, what: str) -> Seen:
        classes = bench.predict(model, f'{label}-{what}', bar, attack, change=change)
        if guard and (broken := int((classes == BROKEN).sum())):
            raise UserError(
                f'the guard gave no image for {broken} test images. {advise(guard.dtype)}'
            )
        return every, classes

    clean = ask(None, 'clean')
    triggered = [ask(attack, f'triggered-{k}') for k, attack in enumerate(bench.attacks)]
    return describe_answers(bench, clean, triggered)


def open_guard(bench: Bench, guard: Guard) -> tuple[Any, Rule]:
    """Opens a guard as (constants, rule); its noise has its own stream, and it sees no label."""
    work = bench.work
    models = open_models(work, bench.test, dtype=guard.dtype, prefix=GUARD)
    seed = stream_seed(work.settings['seed'], 'guard')
    rule = guard.rule(models, Context(bench.test.shape, seed, bench.test.class_names))

    def change(constants: Tree, rows: Rows) -> Rows:
        return rule(constants, {'image': rows['image'], 'id': rows['id']})

    return weights_of(models), change


def describe_answers(bench: Bench, clean: Seen, triggered: Sequence[Seen]) -> Facts:
    """Computes a classifier's ACC, ASR and RA from its answers on clean and triggered images."""
    where, classes = clean
    labels = bench.test.labels
    shares: dict[str, Rate | None] = {'acc': accuracy(classes, labels[where])}
    shares |= {'asr': None, 'ra': None}
    triggers = []
    for attack, (where, hit) in zip(bench.attacks, triggered, strict=True):
        goals, among = (column[where] for column in bench.aim(attack))
        asr, ra = attack_success(hit, goals, among), robust_accuracy(hit, labels[where], among)
        triggers.append({'asr': asr, 'ra': ra})
    if triggers:
        shares |= {key: pooled([trigger[key] for trigger in triggers]) for key in ('asr', 'ra')}
    numbers = describe_shares(shares)
    if len(triggers) > 1:
        rows = zip(bench.attacks, triggers, strict=True)
        numbers['triggers'] = [
            {'target': attack.target} | describe_shares(trigger) for attack, trigger in rows
        ]
    return numbers


def describe_diffusion(bench: Bench, folder: Path) -> tuple[Facts, Facts]:
    """Describes a generator as a classifier: all its numbers, and those of the headline."""
    facts, answers = read_answers(bench, folder)
    shares = facts.pop('p_filters')
    numbers = [describe_answers(bench, clean, triggered) for clean, triggered in answers]
    filters = [{'p_filter': share} | row for share, row in zip(shares, numbers, strict=True)]
    return facts | {'filters': filters}, numbers[shares.index(facts['p_filter'])]


def describe_shares(shares: dict[str, Rate | None]) -> Facts:
    """Turns shares into values, 'counts' [hits, n] and 'intervals' [low, high]; None if empty."""
    values: Facts = dict.fromkeys(shares)
    counts, intervals = values.copy(), values.copy()
    for name, share in shares.items():
        if share is not None:
            values[name], counts[name] = share.value, [share.hits, share.count]
            intervals[name] = list(share.interval()) if share.count else None
    return values | {'counts': counts, 'intervals': intervals}


def describe_findings(folder: Path | None, manifest: Manifest) -> Facts:
    """Compares a method's findings with the truth; None for what it does not claim or cannot count.

    'found', whatever the truth: {'images' that it has a verdict on, 'flagged', 'dropped',
    'relabelled' and kept}. 'tpr' and 'fpr' of its verdicts, its 'target_labels', 'label_accuracy'
    of what it keeps. 'removed': {'tpr', 'fpr'} of the images that do not stay under the label they
    were given, dropped or relabelled. 'relabel_accuracy': the share of the images taken for
    poisoned and kept under another label whose new label is the true one;
    'relabel_accuracy_poisoned' the same among those that are poisoned; 'counts' of both. 'auroc' of
    the score (bigger: likelier poisoned) inside the classes it names; over all images, of a method
    that names none and whose scores are `comparable`. 'fates', of a method that names classes: of
    each one named or aimed at how many images, clean, poisoned or 'every', were kept under their
    label, dropped, or relabelled and kept.
    """
    parts = ('found', 'tpr', 'fpr', 'target_labels', 'label_accuracy', 'removed')
    relabelled = ('relabel_accuracy', 'relabel_accuracy_poisoned')
    found: Facts = dict.fromkeys((*parts, *relabelled, 'counts', 'auroc', 'fates'))
    if folder is None:
        return found
    table = read_table(folder)
    ids, flagged = table['ids'], table['flagged']
    labels = table.columns.get('labels')
    keep = table.columns.get('keep', np.ones(len(ids), np.bool_))
    poisoned = manifest.ids[manifest.poisoned]
    found |= _rates(ids, flagged, poisoned)
    found['target_labels'] = table.facts.get('target_labels')
    found['auroc'] = _separation(table, manifest)
    moved = np.zeros(len(ids), np.bool_)
    if labels is not None:
        moved = labels != _given_and_poisoned(manifest, ids)[0]
    counted = {'flagged': flagged, 'dropped': ~keep, 'relabelled': keep & moved}
    sums = {name: int(column.sum()) for name, column in counted.items()}
    found['found'] = {'images': len(ids)} | sums
    if labels is None:
        return found
    truth = manifest.ids, manifest.true_labels
    found['label_accuracy'] = label_accuracy(ids[keep], labels[keep], *truth).value
    found['removed'] = _rates(ids, ~keep | moved, poisoned)
    if found['target_labels'] is not None:
        fates = np.where(~keep, 1, np.where(moved, 2, 0))
        found['fates'] = _count_fates(manifest, ids, fates, found['target_labels'])
    shares = {}
    for name, among in zip(relabelled, (moved, moved & np.isin(ids, poisoned)), strict=True):
        new = flagged & keep & among
        shares[name] = label_accuracy(ids[new], labels[new], *truth)
    counts = {name: [share.hits, share.count] for name, share in shares.items()}
    return found | {name: share.value for name, share in shares.items()} | {'counts': counts}


def _count_fates(
    manifest: Manifest, ids: np.ndarray, fate: np.ndarray, named: list[int]
) -> list[Facts]:
    """What became of the images i64[n], positions in `FATES`, of each class named or aimed at.

    {'label', 'every': {fate: images}, 'clean': .., 'poisoned': ..}.
    """
    given, poisoned = _given_and_poisoned(manifest, ids)
    rows = []
    for label in sorted({*named, *np.unique(given[poisoned]).tolist()}):
        own = given == label
        kinds = {'every': own, 'clean': own & ~poisoned, 'poisoned': own & poisoned}
        row: Facts = {'label': label}
        for kind, among in kinds.items():
            counts = np.bincount(fate[among], minlength=len(FATES)).tolist()
            row[kind] = dict(zip(FATES, counts, strict=True))
        rows.append(row)
    return rows


def _rates(ids: np.ndarray, verdicts: np.ndarray, poisoned: np.ndarray) -> dict[str, float | None]:
    rates = detection_rates(ids, verdicts, poisoned)
    return {'tpr': rates.tpr.value, 'fpr': rates.fpr.value}


def _separation(table: Table, manifest: Manifest) -> float | None:
    """AUROC of `poison_score`, or else `score`, over the pairs within each class that is named.

    Where the fact `comparable` says that scores of two classes may be compared, over all pairs.
    """
    name = next((name for name in ('poison_score', 'score') if name in table.columns), None)
    if name is None:
        return None
    given, poisoned = _given_and_poisoned(manifest, table['ids'])
    if table.facts.get('comparable'):
        return auroc(table[name], poisoned)
    if not table.facts.get('target_labels'):
        return None
    rows = np.isin(given, table.facts['target_labels'])
    return auroc(table[name][rows], poisoned[rows], given[rows])


def _given_and_poisoned(manifest: Manifest, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The given labels i32[n] and the poisoned bool[n] of those ids, all in the manifest."""
    rows = np.searchsorted(manifest.ids, ids)
    return manifest.given_labels[rows], manifest.poisoned[rows]
