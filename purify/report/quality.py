"""Numbers that stand beside the before/after table: other classifiers of a run, and how good its purified images are."""

from collections.abc import Mapping
from typing import Any

from purify.report.results import is_known
from purify.report.tables import MEASURES
from purify.report.words import say_interval, say_number, say_percent

Line = tuple[str, str, str]  # name, value, meaning
_ZERO = 0.0005  # numbers nearer to 0 than that are 0


def list_extras(results: Mapping[str, Any]) -> list[Line]:
    """The benign model that a defence trained on its way, and the residual attack on the student."""
    benign, student = results.get('benign') or {}, results.get('student') or {}
    lines = [
        (f'Benign model {name.upper()}', say_percent(benign[name]), f'{meaning}, by the model that the defence trained on its way')
        for name, meaning in MEASURES.items()
        if benign.get(name) is not None
    ]
    if student.get('residual_asr') is not None:
        hits, count = student.get('residual_counts') or (None, None)
        counted = f' ({hits:,} of {count:,}; 95 % interval {say_interval(*student["residual_interval"])})' if count else ''
        meaning = 'of triggered test images that were purified themselves are given the target class'
        lines.append(('Residual ASR', say_percent(student['residual_asr']), f'{meaning}{counted}'))
    return lines


def list_likeness(results: Mapping[str, Any]) -> list[Line]:
    """FID and inception scores of the purified images; none where the defence made no image anew."""
    found, before = _of_remade(results), 'before the attack' if is_known(results) else 'as they were given'
    entries = [
        ('FID', 'fid', f'distance of the purified images from the images {before}; 0 is best'),
        ('IS', 'is', 'inception score of the purified images; higher is better'),
        ('IS before', 'is_raw', f'inception score of the images {before}'),
    ]
    return [(name, _say(found[key]), meaning) for name, key, meaning in entries if found.get(key) is not None]


def say_likeness(results: Mapping[str, Any]) -> str:
    """Which network the numbers come from, what they must not be compared with, and what else to know; '' as `list_likeness`."""
    found = _of_remade(results)
    if not found:
        return ''
    text = f'Features and answers of {found["features"]}, not of Inception: compare them with runs of this network only.'
    return ' '.join([text, *(found.get('notes') or [])])


def _of_remade(results: Mapping[str, Any]) -> Mapping[str, Any]:
    """The numbers; of images that were only dropped or relabelled they would tell nothing but how many are left."""
    found = results.get('purified') or {}
    return found if found.get('remade', True) else {}


def _say(value: float) -> str:
    """A rounding error of the matrix root is no distance."""
    return '0' if abs(value) < _ZERO else say_number(value)
