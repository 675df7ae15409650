"""What the defence found and how right it was: shares of images, named classes, their images."""

from purify.core.types import Settings
from purify.report.findings import DetectionScores, Rates
from purify.report.headline import list_found, list_targets
from purify.report.markup import MarkupTable, Section, fill
from purify.report.quantities import Line
from purify.report.results import Results
from purify.report.run import Finished
from purify.report.targets import draw_targets, list_sets, say_chart
from purify.report.words import say_class, say_classes, say_percent

MOST_FATES = 6  # classes whose images are counted
# The lines that say what was found, and not how right it is.
FOUND = ('Verdict', 'Target', 'Flagged', 'Dropped', 'Relabelled')
_FATES = ('kept', 'dropped', 'relabelled')


def section(run: Finished) -> Section | None:
    """Shows scores, what became of single classes, the evidence against labels, sets of images."""
    results, facts = run.results, run.results.facts
    parts: Settings = {'detection': list_detection(results), 'fates': list_fates(results)}
    parts |= {'targets': draw_targets(facts, results.classes, 'targets'), 'sets': list_sets(facts)}
    if not any(parts.values()):
        return None
    parts |= {'known': results.truth_known, 'targets_note': say_chart(facts)}
    return fill('detection', 'Detection', **parts)


def list_detection(results: Results) -> list[Line]:
    """Lists the scores of the verdicts that were measured.

    Who lost a label comes first: that is what counts where few can be flagged. Where nobody knows
    the truth, what the defence did with the images stands for how right that was.
    """
    found, classes, facts = results.detection, results.classes, results.facts
    where = 'anywhere' if facts.comparable else 'in a class it names'
    alpha = facts.thresholds.alpha
    most = '' if alpha is None else f'; only the top {say_percent(alpha)} of a class can be'
    chance = f'chance that {where} a poisoned image scores as likelier poisoned than a clean one'
    right = 'of the labels after the defence are the true class'
    entries = [
        ('TPR', found.tpr, f'of the poisoned training images were flagged{most}'),
        ('FPR', found.fpr, 'of the clean training images were flagged'),
        ('Label accuracy', found.label_accuracy, right),
        ('AUROC', found.auroc, chance),
    ]
    verdict, known = results.verdict, [entry for entry in entries if entry[1] is not None]
    lines = [('Verdict', verdict.word.capitalize(), verdict.text)] if verdict else []
    lines += list_found(results) + _list_removed(found)
    lines += [(name, say_percent(value), meaning) for name, value, meaning in known]
    lines += list_relabelled(found)
    if found.target_labels is not None:
        poisoned, targets = results.attack.poisoned, list_targets(results)
        truth = f'the attack aims at {say_classes(targets, classes)}' if targets else ''
        truth = truth if poisoned or truth else 'nothing is aimed at, for no image was poisoned'
        truth = truth if results.truth_known else 'nobody knows whether there is one'
        meaning = f'named as target of the attack{f"; {truth}" if truth else ""}'
        lines.append(('Target', say_classes(found.target_labels, classes), meaning))
    return lines


def list_relabelled(detection: DetectionScores) -> list[Line]:
    """Lists how many of the images that the defence relabelled got their true class."""
    lines = []
    for key, name, what in (
        ('relabel_accuracy', 'Relabelling accuracy', 'relabelled images'),
        ('relabel_accuracy_poisoned', 'Of those poisoned', 'relabelled images that are poisoned'),
    ):
        hits, count = (detection.counts or {}).get(key) or (0, 0)
        if count:
            meaning = f'{hits:,} of {count:,} {what} got their true class'
            lines.append((name, say_percent(getattr(detection, key)), meaning))
    return lines


def list_fates(results: Results) -> MarkupTable | None:
    """Makes the table of images kept, dropped and relabelled, of classes named or aimed at.

    Where nobody knows which are poisoned, a class has one line. Named classes come first where
    there are many; None for methods that name none.
    """
    rows, named = results.detection.fates or [], results.detection.target_labels or []
    if not rows:
        return None
    shown = sorted(rows, key=lambda row: (row.label not in named, row.label))[:MOST_FATES]
    kinds = {'clean': ', clean', 'poisoned': ', poisoned'} if results.truth_known else {'every': ''}
    lines = [
        (f'{say_class(row.label, results.classes)}{what}', [f'{images[fate]:,}' for fate in _FATES])
        for row in shown
        for kind, what in kinds.items()
        if (images := getattr(row, kind))
    ]
    return MarkupTable(list(_FATES), lines, left_out=len(rows) - len(shown))


def _list_removed(found: DetectionScores) -> list[Line]:
    """Who lost the label they were given, where that is not who was flagged."""
    removed = found.removed
    if not removed or removed == Rates(tpr=found.tpr, fpr=found.fpr):
        return []
    how = 'lost the label they were given: dropped or relabelled'
    if removed.tpr is None:
        return [('Removed', say_percent(removed.fpr), f'of the clean training images {how}')]
    clean = '' if removed.fpr is None else f'; {say_percent(removed.fpr)} of the clean ones did too'
    return [('Removed', say_percent(removed.tpr), f'of the poisoned training images {how}{clean}')]
