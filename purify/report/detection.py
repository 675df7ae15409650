"""What the defence found, held against the truth: shares of images, the classes it named, what became of these."""

from collections.abc import Mapping
from typing import Any

from purify.report.headline import list_found, list_relabelled, list_targets
from purify.report.results import is_known
from purify.report.words import say_class, say_classes, say_percent

MOST_FATES = 6  # classes whose images are counted
FOUND = ('Verdict', 'Target', 'Flagged', 'Dropped', 'Relabelled')  # the lines that say what was found, and not how right it is
_FATES = ('kept', 'dropped', 'relabelled')
Line = tuple[str, str, str]  # name, value, meaning


def list_detection(results: Mapping[str, Any]) -> list[Line]:
    """What was not measured is left out; who left a label comes first, for where few can be flagged that is what counts.

    Where nobody knows the truth, what the defence did with the images stands for how right that was.
    """
    found, classes = results.get('detection') or {}, results.get('classes') or []
    where = 'anywhere' if (results.get('findings') or {}).get('comparable') else 'in a class it names'
    alpha = ((results.get('findings') or {}).get('thresholds') or {}).get('alpha')
    most = '' if alpha is None else f'; only the top {say_percent(alpha)} of a class can be'
    entries = [
        ('TPR', 'tpr', f'of the poisoned training images were flagged{most}'),
        ('FPR', 'fpr', 'of the clean training images were flagged'),
        ('Label accuracy', 'label_accuracy', 'of the labels after the defence are the true class'),
        ('AUROC', 'auroc', f'chance that {where} a poisoned image scores as likelier poisoned than a clean one'),
    ]
    verdict = results.get('verdict')
    lines = [('Verdict', verdict['word'].capitalize(), verdict['text'])] if verdict else []
    lines += list_found(results) + _list_removed(found)
    lines += [(name, say_percent(found[key]), meaning) for name, key, meaning in entries if found.get(key) is not None]
    lines += list_relabelled(found)
    if found.get('target_labels') is not None:
        poisoned, targets = (results.get('attack') or {}).get('poisoned'), list_targets(results)
        truth = f'the attack aims at {say_classes(targets, classes)}' if targets else ''
        truth = truth if poisoned or truth else 'nothing is aimed at, for no image was poisoned'
        truth = truth if is_known(results) else 'nobody knows whether there is one'
        meaning = f'named as target of the attack{f"; {truth}" if truth else ""}'
        lines.append(('Target', say_classes(found['target_labels'], classes), meaning))
    return lines


def list_fates(results: Mapping[str, Any]) -> dict[str, Any] | None:
    """Head and lines of the table of images kept, dropped and relabelled, clean and poisoned, of classes named or aimed at.

    Where nobody knows which are poisoned, a class has one line. Named classes come first where there are many; None for methods
    that name none.
    """
    detection = results.get('detection') or {}
    rows, named = detection.get('fates') or [], detection.get('target_labels') or []
    if not rows:
        return None
    shown = sorted(rows, key=lambda row: (row['label'] not in named, row['label']))[:MOST_FATES]
    kinds = {'clean': ', clean', 'poisoned': ', poisoned'} if is_known(results) else {'every': ''}
    lines = [
        (f'{say_class(row["label"], results.get("classes") or [])}{what}', [f'{row[kind][fate]:,}' for fate in _FATES])
        for row in shown
        for kind, what in kinds.items()
        if row.get(kind)
    ]
    return {'head': list(_FATES), 'lines': lines, 'left_out': len(rows) - len(shown)}


def _list_removed(found: Mapping[str, Any]) -> list[Line]:
    """Who lost the label they were given, where that is not who was flagged."""
    removed = found.get('removed')
    if not removed or removed == {name: found.get(name) for name in ('tpr', 'fpr')}:
        return []
    how = 'lost the label they were given: dropped or relabelled'
    if removed['tpr'] is None:
        return [('Removed', say_percent(removed['fpr']), f'of the clean training images {how}')]
    clean = '' if removed['fpr'] is None else f'; {say_percent(removed["fpr"])} of the clean ones did too'
    return [('Removed', say_percent(removed['tpr']), f'of the poisoned training images {how}{clean}')]
