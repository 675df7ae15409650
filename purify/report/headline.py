"""The headline of a report and the lines below it, in sentences made from the numbers."""

from collections.abc import Sequence

from purify.report.amplification import say_amplification, say_groups
from purify.report.classifiers import ClassifierScores
from purify.report.findings import Found
from purify.report.quantities import Line
from purify.report.results import Results
from purify.report.words import say_class, say_percent, say_set

ALARMING_ASR = 0.10  # above it a backdoor counts as working
DEAR_ACC_DROP = 0.05  # clean accuracy lost, from which on the price is named in the headline

_WHERE = 'of triggered test images'
_MADE = {
    'student': ', trained on what the defence made of it',
    'repaired': ': a network made from the teacher, without its backdoor',
    'guarded': ': the guard is a rule that changes test inputs',
}


def write_headline(results: Results) -> str:
    """Writes the headline, which says so if the defence fails, costs much or met no attack.

    Where nobody knows whether anything was, the method's own verdict on the dataset comes first, if
    it has one. Where a generator was dissected a last sentence says whether it amplifies the
    trigger.
    """
    verdict = '' if results.truth_known else say_verdict(results)
    return ' '.join(filter(None, [verdict, _write_backdoor(results), say_amplification(results)]))


def say_verdict(results: Results) -> str:
    """Repeats what the method says of the dataset as a whole; '' where it says nothing."""
    return results.verdict.text if results.verdict else ''


def say_outcome(results: Results, name: str) -> str:
    """Names a classifier after the defence: 'the student', 'the teacher behind the guard blur'."""
    guard = results.guarded.guard if results.guarded else None
    said = {'student': 'the student', 'repaired': 'the repaired classifier'}
    return said.get(name) or f'the teacher behind the guard{f" {guard}" if guard else ""}'


def say_after(results: Results) -> str:
    """Says what the numbers after the defence are of, and how it was made."""
    name = next(iter(results.outcomes), 'student')
    return say_outcome(results, name) + _MADE[name]


def _say_whose(results: Results) -> str:
    """Whose the numbers after the defence are; '' for a student, as everywhere."""
    name = next(iter(results.outcomes), 'student')
    return '' if name == 'student' else f' in {say_outcome(results, name)}'


def _write_backdoor(results: Results) -> str:
    before, after = results.teacher, results.after
    if not before and not after:
        return _write_without_classifier(results)
    b_asr, a_asr = (side.asr if side else None for side in (before, after))
    b_acc, a_acc = (side.acc if side else None for side in (before, after))
    accuracy, dear = _write_accuracy(b_acc, a_acc, 'clean' if results.truth_known else 'test')
    whose = _say_whose(results)
    if not results.truth_known and b_asr is None and a_asr is None:
        lead = _write_unknown(results)
    elif b_asr is None and a_asr is None:
        alarm = ', and the defence raised a false alarm' if results.detection.target_labels else ''
        lead = 'The attack success was not measured'
        lead = lead if results.attack.poisoned else f'The data was not attacked{alarm}'
    elif a_asr is None:
        then = 'was not measured after' if after else 'no purified classifier was trained'
        lead = f'The backdoor fires on {say_percent(b_asr)} {_WHERE} before, and {then}'
    elif b_asr is None:
        now = f'{say_percent(a_asr)} {_WHERE} after the defence{whose}'
        lead = f'The backdoor fires on {now}, and was not measured before'
    else:
        lead = _compare(_interval(before, b_asr), _interval(after, a_asr), b_asr, a_asr, whose)
    return f'{lead}; {"the price is high: " if dear else ""}{accuracy}.' if accuracy else f'{lead}.'


def list_targets(results: Results) -> list[int]:
    """Lists the classes that the attack aims at; older results know those of one trigger only."""
    attack = results.attack
    if isinstance(attack.targets, list | None):
        return attack.targets or []
    return [attack.target] if attack.poisoned and isinstance(attack.target, int) else []


def write_detail(results: Results) -> str:
    """Writes the lines below the headline: attack, defence, and what became of the images."""
    attack, parts = results.attack, []
    if attack.poisoned:
        share, targets = ' training images', list_targets(results)
        if attack.train_images:
            part = say_percent(attack.poisoned / attack.train_images)
            share = f' of {attack.train_images:,} training images ({part})'
        aim = ', with every class a target' if len(targets) == len(results.classes) > 1 else ''
        if targets and not aim:
            aim = f', with {say_set(targets, results.classes, "target class")}'
        parts.append(f'The {attack.name} attack poisoned {attack.poisoned:,}{share}{aim}.')
    elif results.truth_known:
        parts.append('No training image was poisoned.')
    else:
        parts.append(
            'This run added no poison, and nobody vouches for the source. If you know that it is'
            ' clean, say --config.clean_source=True: then flagged images count as false alarms.'
        )
    if results.defender not in ('', 'none'):
        parts.append(f'The defence is {results.defender}{_write_trusted(results)}.')
    if _say_whose(results):
        parts.append(f'After is {say_after(results)}.')
    b_ra, a_ra = (side.ra if side else None for side in (results.teacher, results.after))
    if b_ra is not None and a_ra is not None:
        parts.append(
            f'Triggered images get their true class in {say_percent(b_ra)} of cases before,'
            f' {say_percent(a_ra)} after.'
        )
    if results.truth_known:
        parts.append(say_verdict(results))
    lists = (_write_accused, _write_counts, _write_relabelled, _write_triggers, _write_others)
    parts += [said for write in (*lists, say_groups) for said in write(results)]
    return ' '.join(filter(None, parts))


def list_found(results: Results) -> list[Line]:
    """Lists how many images were flagged, dropped and relabelled, if nobody knows the truth."""
    found = _found(results)
    if found is None or results.truth_known:
        return []
    entries = [
        ('Flagged', found.flagged, 'taken for poisoned; verdicts/verdicts.csv names them by id'),
        ('Dropped', found.dropped, 'left out of the purified dataset'),
        ('Relabelled', found.relabelled, 'kept under another label'),
    ]
    of = f'of {found.images:,} training images'
    return [
        (name, f'{count:,}', f'{of} ({say_percent(count / found.images)}): {meaning}')
        for name, count, meaning in entries
    ]


def _write_others(results: Results) -> list[str]:
    """What else the defence left to classify with, beside what stands after it."""
    found, kind = [], 'clean' if results.truth_known else 'test'
    for name, side in list(results.outcomes.items())[1:]:
        said = []
        if side.asr is not None:
            said.append(f'the backdoor fires on {say_percent(side.asr)} {_WHERE}')
        if side.acc is not None:
            said.append(f'{kind} accuracy is {say_percent(side.acc)}')
        found += [f'With {say_outcome(results, name)} {" and ".join(said)}.'] if said else []
    return found


def _write_relabelled(results: Results) -> list[str]:
    hits, count = (results.detection.counts or {}).get('relabel_accuracy') or (0, 0)
    if not count:
        return []
    return [f'Of {count:,} relabelled images {say_percent(hits / count)} got their true class.']


def _write_accused(results: Results) -> list[str]:
    """Whom the defence accused, where the attack aims at others."""
    named, aims = results.detection.target_labels, list_targets(results)
    if named is None or not results.truth_known or sorted(named) == sorted(aims):
        return []
    accused = f'It accused {say_set(named, results.classes)}'
    if not results.attack.poisoned:
        return [f'{accused}: a false alarm, for nothing is aimed at.']
    return [f'{accused}{f"; the attack aims at {say_set(aims, results.classes)}" if aims else ""}.']


def _write_counts(results: Results) -> list[str]:
    """What became of the images of the accused classes, as the defence counts them."""
    counts, named = results.facts.counts, results.facts.target_labels
    if not counts or not named:
        return []
    dropped, relabelled, kept = (counts[fate] for fate in ('dropped', 'relabelled', 'kept'))
    of = f'Of the {dropped + relabelled + kept:,} images of {say_set(named, results.classes)}'
    return [f'{of}, {dropped:,} were dropped, {relabelled:,} relabelled, {kept:,} kept.']


def _write_trusted(results: Results) -> str:
    images = results.trusted.images if results.trusted else 0
    if not images:
        return ''
    how = 'known to be clean' if results.truth_known else 'that nobody vouches for'
    return f', which was handed {images:,} training image{"" if images == 1 else "s"} {how}'


def _write_triggers(results: Results) -> list[str]:
    """One sentence for each of several triggers."""
    sides = (results.teacher, results.after)
    before, after = ((side.triggers or []) if side else [] for side in sides)
    found = []
    for number, trigger in enumerate(before):
        aim = f'{number + 1} of {len(before)} aims at {say_class(trigger.target, results.classes)}'
        then = f' before, {say_percent(after[number].asr)} after' if after else ''
        found.append(f'Trigger {aim} and fires on {say_percent(trigger.asr)}{then}.')
    return found


def _compare(
    first: Sequence[float], second: Sequence[float], before: float, after: float, whose: str
) -> str:
    """Judges an ASR measured twice, with its 95 % intervals: no difference where these overlap."""
    (b_low, b_high), (a_low, a_high) = first, second
    fires = f'fires on {say_percent(before)} {_WHERE} before, {say_percent(after)} after{whose}'
    worked, works = before >= ALARMING_ASR, after >= ALARMING_ASR
    if a_low > b_high:
        return f'The defence makes it worse: the backdoor {fires}'
    if not worked and not works:
        return f'The backdoor never took hold: it {fires}'
    if b_low <= a_high:
        how = 'fails' if works else 'makes no measurable difference'
        return f'The defence {how}: the backdoor {fires}'
    if works:
        return f'The defence weakens the backdoor and does not remove it: it {fires}'
    return f'The backdoor {fires}'


def _interval(side: ClassifierScores | None, asr: float) -> Sequence[float]:
    return (side and side.intervals.get('asr')) or (asr, asr)


def _write_accuracy(before: float | None, after: float | None, kind: str) -> tuple[str, bool]:
    """How accuracy on such test images moved, and whether it fell by `DEAR_ACC_DROP` or more."""
    old, new = say_percent(before), say_percent(after)
    if before is None and after is None:
        return '', False
    if before is None or after is None:
        return f'{kind} accuracy is {new if before is None else old}', False
    if old == new:
        return f'{kind} accuracy stays at {new}', False
    moved = f'{"falls" if after < before else "rises"} from {old} to {new}'
    return f'{kind} accuracy {moved}', before - after >= DEAR_ACC_DROP


def _write_unknown(results: Results) -> str:
    """Of data that nobody vouches for: what the defence found."""
    found, named = _found(results), results.detection.target_labels
    parts = []
    if found:
        share = say_percent(found.flagged / found.images)
        parts.append(f'flags {found.flagged:,} of {found.images:,} training images ({share})')
    if named is not None:
        parts.append(f'names {say_set(named, results.classes)} as target')
    said = f': the defence {" and ".join(parts)}' if parts else ''
    return f'Nobody knows whether the data are poisoned{said}'


def _found(results: Results) -> Found | None:
    """What the defence did with the images; None where it has a verdict on none."""
    found = results.detection.found
    return found if found and found.images else None


def _write_without_classifier(results: Results) -> str:
    detection = results.detection
    if not results.truth_known:
        return f'{_write_unknown(results)}; no classifier was evaluated.'
    if detection.tpr is None:
        return 'No classifier was evaluated in this run.'
    return (
        f'The defence finds {say_percent(detection.tpr)} of the poisoned samples and accuses '
        f'{say_percent(detection.fpr)} of the clean ones; no classifier was evaluated.'
    )
