"""The stage `dissect`: judges that saw clean images say what generated images are made of."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from purify.attacker.manifest import Manifest
from purify.attacker.poison_plan import targets_of
from purify.core import devices
from purify.core.files import read_json, write_json
from purify.core.progress import Bar
from purify.core.types import Facts, Tree
from purify.data.loader import Split
from purify.engine.gather import look_at_all
from purify.engine.stage import Work
from purify.engine.tables import Columns, check_ids, read_columns, read_table, write_columns
from purify.evaluation.evaluate import describe_shares
from purify.evaluation.image_quality import sum_up, warn
from purify.evaluation.trigger_dataset import CLASSES
from purify.metrics.classification import accuracy
from purify.metrics.composition import Composition, poisoned_share, sort_out
from purify.metrics.detection import auroc
from purify.metrics.distribution import Moments, frechet_distance
from purify.metrics.intervals import Rate, rate_of
from purify.report.dissection import Dissection
from purify.stages.networks_on_disk import open_classifier, read_classifier
from purify.train.inference import Rows

ARRAYS = 'dissection.npz'
SETS = ('generated', 'probe')
# Roles of the tables of a score: one of these and its name.
TRAINING, GENERATED = 'training ', 'generated '
# Columns and their kinds.
OF_A_SET = {'ids': 'iu', 'label': 'iu', 'predicted': 'iu', 'trigger': 'f', 'group': 'u'}


def dissect(work: Work) -> None:
    """Judges the datasets `generated` and `probe`; writes numbers.json and dissection.npz.

    The `labeller` was trained on the `clean` training images; the `detector`, which is missing
    where the attack has no trigger, on `marked` ones. Numbers: 'judges' on test images; 'sets', of
    each a row per condition; 'auroc' of every score on the training set, by the truth, and on the
    generated set, by the detector's verdict; 'fid' of the generated set against the clean training
    images by the labeller's features; and the settings of the stage, which say how images were
    drawn. Arrays of each set: ids i64[n], label i32[n] as asked for, predicted i32[n], trigger
    f32[n] (probability), group u8[n] (1 to 4).
    """
    manifest = Manifest.read(work.inputs['truth'])
    sets = {name: Split(work.inputs[name], 'train') for name in SETS if name in work.inputs}
    numbers: Facts = {'judges': _judge_judges(work)}
    arrays = {name: _sort(work, name, split) for name, split in sets.items()}
    numbers['sets'] = {name: describe_set(columns, manifest) for name, columns in arrays.items()}
    triggered = arrays['generated']['trigger'] > 0.5
    numbers['auroc'] = _separations(work, manifest, sets['generated'], triggered)
    numbers['fid'] = _compare(work, sets['generated'], aims(manifest.facts))
    if devices.is_lead():
        columns = {f'{s}_{name}': x for s, own in arrays.items() for name, x in own.items()}
        write_columns(work.folder / ARRAYS, columns)
        write_json(work.folder / 'numbers.json', numbers | work.settings)


def read_dissection(folder: Path) -> tuple[Facts, dict[str, Columns]]:
    """Reads what `dissect` wrote: its numbers, and the columns of each set by name."""
    numbers: Any = read_json(folder / 'numbers.json', Dissection)
    names = {s: {f'{s}_{name}': name for name in OF_A_SET} for s in numbers['sets']}
    kinds = [{whole: OF_A_SET[name] for whole, name in own.items()} for own in names.values()]
    arrays = read_columns(folder / ARRAYS, *kinds)
    return numbers, {s: {x: arrays[whole] for whole, x in own.items()} for s, own in names.items()}


def aims(facts: Facts) -> list[int]:
    """Lists the classes that the attack aims at, ascending, even if no image is poisoned."""
    rule, classes = facts['attack'], len(facts['class_names'])
    if rule['scheme'] == 'all_to_all':
        return sorted({(source + 1) % classes for source in rule['sources'] or range(classes)})
    return sorted(set(targets_of(rule).values()))


def describe_set(columns: Columns, manifest: Manifest) -> list[Facts]:
    """Describes a set by a row for every class that images were generated of, ascending.

    {'label', 'target': whether the attack aims at it, 'images', 'counts' and 'shares' of groups 1
    to 4, 'triggered': the share with a trigger, 'interval' of that, 'p_t': the share of stamped
    images, covers too, of the training images given this label}.
    """
    targets, rows = aims(manifest.facts), []
    for label in np.unique(columns['label']).tolist():
        made = Composition.of(columns['group'][columns['label'] == label])
        row = {'label': label, 'target': label in targets, 'images': made.images}
        row |= {'counts': list(made.counts)}
        row |= {'shares': [share.value for share in made.shares], 'triggered': made.triggered.value}
        before = poisoned_share(manifest.given_labels, manifest.poisoned | manifest.cover, label)
        rows.append(row | {'interval': list(made.triggered.interval()), 'p_t': before.value})
    return rows


def _judge_judges(work: Work) -> Facts:
    """Rates the judges on clean test images, and the detector on triggered ones too."""
    test = Split(work.inputs['truth'] / 'test', 'test')
    seen, _ = _see(work, 'labeller', test, 'test')
    judges = {'labeller': describe_shares({'acc': accuracy(seen, test.labels)})}
    if 'detector' not in work.inputs:
        return judges | {'detector': None}
    marked = Split(work.inputs['marked'], 'test')
    said = _see(work, 'detector', marked, 'marked')[0] == 1
    clean, stamped, faint = (said[marked.variations == kind] for kind in range(3))
    right = np.concatenate([~clean, stamped])
    shares: dict[str, Rate | None] = {'acc': rate_of(right), 'tpr': rate_of(stamped)}
    shares |= {'tpr_faint': rate_of(faint), 'fpr': rate_of(clean)}
    return judges | {'detector': describe_shares(shares) | {'count': len(clean) + len(stamped)}}


def _sort(work: Work, name: str, split: Split) -> Columns:
    """The verdicts on one set. Without a detector no image carries a trigger."""
    predicted, _ = _see(work, 'labeller', split, f'{name}-labels')
    trigger = np.zeros(len(split), np.float32)
    if 'detector' in work.inputs:
        side, certainty = _see(work, 'detector', split, f'{name}-triggers')
        trigger = np.where(side == 1, certainty, 1 - certainty).astype(np.float32)
    group = sort_out(trigger > 0.5, predicted == split.labels)
    columns = {'ids': split.ids, 'label': split.labels, 'predicted': predicted}
    return columns | {'trigger': trigger, 'group': group}


def _see(work: Work, role: str, split: Split, name: str) -> tuple[np.ndarray, np.ndarray]:
    """What a judge takes every image for, i32[n], and how certainly, f32[n].

    Hosts take every so-many-th image and leave what they saw in files, called after `name`, for
    each other.
    """
    names = split.class_names if role == 'labeller' else list(CLASSES)
    model = open_classifier(work.inputs[role], role, split, names)

    def judge(weights: Tree, rows: Rows) -> Rows:
        logits = model.logits(weights, rows['image'].astype(jnp.float32) / 255)
        certainty = jax.nn.softmax(logits.astype(jnp.float32)).max(-1)
        return {'classes': logits.argmax(-1).astype(jnp.int32), 'certainty': certainty}

    def fetch(position: int) -> Facts:
        return {'image': split[position]['image']}

    with Bar(f'{work.name} {name}', len(split), shown=devices.is_lead()) as bar:
        seen = look_at_all(work, judge, model.weights, fetch, np.arange(len(split)), name, bar)
    return seen['classes'], seen['certainty']


def _separations(work: Work, manifest: Manifest, made: Split, triggered: np.ndarray) -> list[Facts]:
    """AUROC of every score, by the truth on training images, by the detector on generated ones."""
    names = [role.removeprefix(TRAINING) for role in work.inputs if role.startswith(TRAINING)]
    rows, judged = [], 'detector' in work.inputs
    for name in names:
        folder = work.inputs[GENERATED + name]
        before, after = read_table(work.inputs[TRAINING + name]), read_table(folder)
        check_ids(after, made, folder)
        poisoned = np.isin(before['ids'], manifest.ids[manifest.poisoned])
        row = {'score': name, 'training': auroc(before['score'], poisoned)}
        row |= {'poisoned': int(poisoned.sum())}
        after_all = auroc(after['score'], triggered) if judged else None
        rows.append(row | {'generated': after_all, 'triggered': int(triggered.sum())})
    return rows


def _compare(work: Work, made: Split, targets: Iterable[int]) -> Facts:
    """FID by the labeller's features over 'all' classes and those not aimed at ('others')."""
    model = read_classifier(work.inputs['labeller'])
    sides: dict[str, list[Moments]] = {'others': [], 'targets': []}
    for name, split in (('generated', made), ('clean', Split(work.inputs['clean'], 'train'))):
        aimed = np.isin(split.labels, list(targets))
        for side, mask in (('others', ~aimed), ('targets', aimed)):
            chosen, title = np.flatnonzero(mask), f'{work.name} features of {name}'
            fetch = lambda row, split=split, chosen=chosen: split[int(chosen[row])]['image']
            with Bar(title, len(chosen), shown=devices.is_lead()) as bar:
                rest = (len(chosen), split.shape, f'{name}-{side}', bar)
                sides[side].append(sum_up(work, model, fetch, *rest).moments)
    every = [a + b for a, b in zip(*sides.values(), strict=True)]
    pairs = {'all': every, 'others': sides['others']}
    found = {name: frechet_distance(*pair) for name, pair in pairs.items()}
    warned = {name: warn({name: found[name]}, *pair) for name, pair in pairs.items()}
    notes = [f'{name}: {note}' for name, own in warned.items() for note in own]
    return found | {'network': f'labeller ({model.describe()})', 'notes': notes}
