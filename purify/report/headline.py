"""What went in and what came out, in two sentences made from the numbers."""

from collections.abc import Mapping, Sequence
from typing import Any

from purify.report.amplification import say_amplification, say_groups
from purify.report.results import is_known
from purify.report.words import say_class, say_classes, say_percent

ALARMING_ASR = 0.10  # above it a backdoor counts as working
DEAR_ACC_DROP = 0.05  # clean accuracy lost, from which on the price is named in the headline

_WHERE = 'of triggered test images'


def write_headline(results: dict[str, Any]) -> str:
    """The first sentence of the report. It says so when the defence fails, when it costs much, and when nothing was attacked.

    Where nobody knows whether anything was, the method's own verdict on the dataset comes first, if it has one. Where a generator
    was dissected a last sentence says whether it amplifies the trigger.
    """
    verdict = '' if is_known(results) else say_verdict(results)
    return ' '.join(filter(None, [verdict, _write_backdoor(results), say_amplification(results)]))


def say_verdict(results: Mapping[str, Any]) -> str:
    """What the method says of the dataset as a whole; '' where it says nothing."""
    return (results.get('verdict') or {}).get('text', '')


def _write_backdoor(results: dict[str, Any]) -> str:
    before, after = results.get('teacher') or {}, results.get('student') or {}
    if not before and not after:
        return _write_without_classifier(results)
    b_asr, a_asr = before.get('asr'), after.get('asr')
    accuracy, dear = _write_accuracy(before.get('acc'), after.get('acc'), 'clean' if is_known(results) else 'test')
    if not is_known(results) and b_asr is None and a_asr is None:
        lead = _write_unknown(results)
    elif b_asr is None and a_asr is None:
        attacked = (results.get('attack') or {}).get('poisoned')
        lead = 'The attack success was not measured' if attacked else f'The data was not attacked{_write_alarm(results)}'
    elif a_asr is None:
        lead = f'The backdoor fires on {say_percent(b_asr)} {_WHERE} before'
        lead += ', and was not measured after' if after else ', and no purified classifier was trained'
    elif b_asr is None:
        lead = f'The backdoor fires on {say_percent(a_asr)} {_WHERE} after the defence, and was not measured before'
    else:
        lead = _compare(before, after)
    return f'{lead}; {"the price is high: " if dear else ""}{accuracy}.' if accuracy else f'{lead}.'


def list_targets(results: Mapping[str, Any]) -> list[int]:
    """The classes that the poison aims at; those of results of an older version from its first trigger alone."""
    attack = results.get('attack') or {}
    if 'targets' in attack:
        return attack['targets'] or []
    return [attack['target']] if attack.get('poisoned') and attack.get('target') is not None else []


def write_detail(results: dict[str, Any]) -> str:
    """The lines below the headline: what was poisoned and how, who defended, and what became of the triggered images."""
    attack, defense = results.get('attack') or {}, results.get('defense') or {}
    parts = []
    if attack.get('poisoned'):
        poisoned, images = attack['poisoned'], attack.get('train_images')
        share = f' of {images:,} training images ({say_percent(poisoned / images)})' if images else ' training images'
        targets, classes = list_targets(results), results.get('classes') or []
        aim = ', with every class a target' if len(targets) == len(classes) > 1 else ''
        if targets and not aim:
            aim = f', with target class{"es" if len(targets) > 1 else ""} {say_classes(targets, classes)}'
        parts.append(f'The {attack.get("name", "unnamed")} attack poisoned {poisoned:,}{share}{aim}.')
    elif is_known(results):
        parts.append('No training image was poisoned.')
    else:
        parts.append(
            'This run added no poison, and nobody vouches for the source. If you know that it is clean, say '
            '--config.clean_source=True: then flagged images count as false alarms.'
        )
    if defense.get('name') and defense['name'] != 'none':
        parts.append(f'The defence is {defense["name"]}{_write_trusted(results)}.')
    b_ra, a_ra = ((results.get(side) or {}).get('ra') for side in ('teacher', 'student'))
    if b_ra is not None and a_ra is not None:
        parts.append(f'Triggered images get their true class in {say_percent(b_ra)} of cases before, {say_percent(a_ra)} after.')
    parts += [said] if is_known(results) and (said := say_verdict(results)) else []
    parts += _write_accused(results)
    parts += _write_counts(results)
    parts += _write_relabelled(results.get('detection') or {})
    parts += _write_triggers(results)
    parts += say_groups(results)
    return ' '.join(parts)


def list_relabelled(detection: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Name, value and meaning of what became of the images that a defence took for poisoned and kept under another label."""
    counts, lines = detection.get('counts') or {}, []
    for key, name, what in (
        ('relabel_accuracy', 'Relabelling accuracy', 'relabelled images'),
        ('relabel_accuracy_poisoned', 'Of those poisoned', 'relabelled images that are poisoned'),
    ):
        hits, count = counts.get(key) or (0, 0)
        if count:
            lines.append((name, say_percent(detection[key]), f'{hits:,} of {count:,} {what} got their true class'))
    return lines


def list_found(results: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Name, value and meaning of what a defence did with the images, for data of which nobody knows the truth."""
    found = _found(results)
    if found is None or is_known(results):
        return []
    meanings = {
        'flagged': 'taken for poisoned; verdicts/verdicts.csv names them by id',
        'dropped': 'left out of the purified dataset',
        'relabelled': 'kept under another label',
    }
    of = f'of {found["images"]:,} training images'
    return [
        (name.capitalize(), f'{found[name]:,}', f'{of} ({say_percent(found[name] / found["images"])}): {meaning}')
        for name, meaning in meanings.items()
    ]


def _write_relabelled(detection: Mapping[str, Any]) -> list[str]:
    hits, count = (detection.get('counts') or {}).get('relabel_accuracy') or (0, 0)
    return [f'Of {count:,} relabelled images {say_percent(hits / count)} got their true class.'] if count else []


def _write_alarm(results: Mapping[str, Any]) -> str:
    """Of data that was not attacked: whether the defence accused a class all the same."""
    return ', and the defence raised a false alarm' if (results.get('detection') or {}).get('target_labels') else ''


def _write_accused(results: Mapping[str, Any]) -> list[str]:
    """Whom the defence accused, where the attack aims at others."""
    named, aims = (results.get('detection') or {}).get('target_labels'), list_targets(results)
    if named is None or not is_known(results) or sorted(named) == sorted(aims):
        return []
    if not (results.get('attack') or {}).get('poisoned'):
        return [f'It accused {_name(named, results)}: a false alarm, for nothing is aimed at.']
    aimed = f'; the attack aims at {_name(aims, results)}' if aims else ''
    return [f'It accused {_name(named, results)}{aimed}.']


def _write_counts(results: Mapping[str, Any]) -> list[str]:
    """What became of the images of the accused classes, as the defence counts them."""
    facts = results.get('findings') or {}
    counts, named = facts.get('counts'), facts.get('target_labels')
    if not counts or not named:
        return []
    whole = sum(counts[fate] for fate in ('dropped', 'relabelled', 'kept'))
    said = f'{counts["dropped"]:,} were dropped, {counts["relabelled"]:,} relabelled, {counts["kept"]:,} kept'
    return [f'Of the {whole:,} images of {_name(named, results)}, {said}.']


def _name(labels: Sequence[int], results: Mapping[str, Any]) -> str:
    classes = results.get('classes') or []
    if len(labels) == len(classes) > 1:
        return 'every class'
    return f'class{"es" if len(labels) > 1 else ""} {say_classes(list(labels), classes)}' if labels else 'no class'


def _write_trusted(results: Mapping[str, Any]) -> str:
    images = (results.get('trusted') or {}).get('images')
    how = 'known to be clean' if is_known(results) else 'that nobody vouches for'
    return f', which was handed {images:,} training image{"" if images == 1 else "s"} {how}' if images else ''


def _write_triggers(results: dict[str, Any]) -> list[str]:
    """One sentence for each of several triggers."""
    sides = [(results.get(side) or {}).get('triggers') or [] for side in ('teacher', 'student')]
    found = []
    for number, before in enumerate(sides[0]):
        aim = say_class(before['target'], results.get('classes') or [])
        after = f' before, {say_percent(sides[1][number]["asr"])} after' if sides[1] else ''
        found.append(f'Trigger {number + 1} of {len(sides[0])} aims at {aim} and fires on {say_percent(before["asr"])}{after}.')
    return found


def _compare(before: dict[str, Any], after: dict[str, Any]) -> str:
    """The verdict on a backdoor measured twice; 'no difference' means that the 95 % intervals overlap."""
    (b_low, b_high), (a_low, a_high) = _interval(before), _interval(after)
    fires = f'fires on {say_percent(before["asr"])} {_WHERE} before, {say_percent(after["asr"])} after'
    worked, works = before['asr'] >= ALARMING_ASR, after['asr'] >= ALARMING_ASR
    if a_low > b_high:
        return f'The defence makes it worse: the backdoor {fires}'
    if not worked and not works:
        return f'The backdoor never took hold: it {fires}'
    if b_low <= a_high:
        return f'The defence {"fails" if works else "makes no measurable difference"}: the backdoor {fires}'
    if works:
        return f'The defence weakens the backdoor and does not remove it: it {fires}'
    return f'The backdoor {fires}'


def _write_accuracy(before: float | None, after: float | None, kind: str) -> tuple[str, bool]:
    """How accuracy on test images of that kind moved, and whether it fell by `DEAR_ACC_DROP` or more."""
    old, new = say_percent(before), say_percent(after)
    if before is None or after is None:
        return ('' if before is None and after is None else f'{kind} accuracy is {new if before is None else old}'), False
    if old == new:
        return f'{kind} accuracy stays at {new}', False
    return f'{kind} accuracy {"falls" if after < before else "rises"} from {old} to {new}', before - after >= DEAR_ACC_DROP


def _write_unknown(results: Mapping[str, Any]) -> str:
    """Of data that nobody vouches for: what the defence found."""
    found, named = _found(results), (results.get('detection') or {}).get('target_labels')
    parts = []
    if found:
        share = say_percent(found['flagged'] / found['images'])
        parts.append(f'flags {found["flagged"]:,} of {found["images"]:,} training images ({share})')
    if named is not None:
        parts.append(f'names {_name(named, results)} as target')
    return 'Nobody knows whether the data are poisoned' + (f': the defence {" and ".join(parts)}' if parts else '')


def _found(results: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """How many images the defence flagged, dropped and relabelled; None where it has a verdict on none."""
    found = (results.get('detection') or {}).get('found')
    return found if found and found['images'] else None


def _write_without_classifier(results: Mapping[str, Any]) -> str:
    detection = results.get('detection') or {}
    if not is_known(results):
        return f'{_write_unknown(results)}; no classifier was evaluated.'
    if detection.get('tpr') is None:
        return 'No classifier was evaluated in this run.'
    return (
        f'The defence finds {say_percent(detection["tpr"])} of the poisoned samples and accuses '
        f'{say_percent(detection.get("fpr"))} of the clean ones; no classifier was evaluated.'
    )


def _interval(side: dict[str, Any]) -> tuple[float, float]:
    low, high = (side.get('intervals') or {}).get('asr') or (side['asr'], side['asr'])
    return low, high
