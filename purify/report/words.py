"""Numbers and settings as people read them."""

import math
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

MISSING = '–'


def say_percent(share: float | None) -> str:
    """Writes a share in 0..1 as '99.0 %'; only exactly 0 and 1 are '0 %' and '100 %'."""
    if share is None or not math.isfinite(share):
        return MISSING
    if share in (0.0, 1.0):
        return f'{share:.0%}'.replace('%', ' %')
    if 0 < share < 0.0005:
        return '<0.1 %'
    if 0.9995 <= share < 1:
        return '>99.9 %'
    return f'{100 * share:.1f} %'


def say_interval(low: float | None, high: float | None) -> str:
    """Writes an interval of shares as '98.9 to 99.3 %'."""
    if low is None or high is None:
        return MISSING
    return f'{say_percent(low).removesuffix(" %")} to {say_percent(high)}'


def say_number(value: float | None) -> str:
    """Writes three significant digits, or a whole number: '0.0123', '12.3', '12,345'."""
    if value is None or not math.isfinite(value):
        return MISSING
    if float(value).is_integer() or abs(value) >= 100:
        return f'{value:,.0f}'
    return f'{value:.3g}'


def say_duration(seconds: float | None) -> str:
    """Writes seconds as '0.42 s', '12.3 s', '4 min 12 s' or '3 h 05 min'."""
    if seconds is None or not math.isfinite(seconds):
        return MISSING
    if seconds < 1:
        return f'{seconds:.2f} s'
    if seconds < 59.95:
        return f'{seconds:.1f} s'
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f'{minutes} min {rest:02d} s'
    return f'{minutes // 60:,} h {minutes % 60:02d} min'


def say_class(label: Any, classes: Sequence[str]) -> str:
    """Names a class index beside its number; anything else is said as it is."""
    if isinstance(label, int) and not isinstance(label, bool) and 0 <= label < len(classes):
        name = str(classes[label])
        return name if name == str(label) else f'{name} ({label})'
    return MISSING if label is None else str(label)


def say_classes(labels: Any, classes: Sequence[str]) -> str:
    """Names one label or a list of labels; an empty list is 'none'."""
    if isinstance(labels, list | tuple):
        return ', '.join(say_class(label, classes) for label in labels) or 'none'
    return say_class(labels, classes)


def say_set(labels: Sequence[int], classes: Sequence[str], kind: str = 'class') -> str:
    """Names classes in a sentence: 'class one (1)', 'every class', 'no class'; `kind`: the noun."""
    if len(labels) == len(classes) > 1:
        return 'every class'
    said = f'{kind}{"es" if len(labels) > 1 else ""} {say_classes(list(labels), classes)}'
    return said if labels else f'no {kind}'


def say_value(value: Any) -> str:
    """Writes a setting: 'yes' and 'no', numbers short, lists with commas."""
    if value is None:
        return MISSING
    if isinstance(value, bool):
        return 'yes' if value else 'no'
    if isinstance(value, float):
        return f'{value:.6g}'
    if isinstance(value, list | tuple):
        return ', '.join(say_value(item) for item in value) or 'none'
    return str(value)


def say_command(command: Any) -> str:
    """Writes a command line; a list of words is quoted for the shell."""
    return shlex.join(map(str, command)) if isinstance(command, list | tuple) else str(command)


def flatten(settings: Mapping[str, Any], prefix: str = '') -> list[tuple[str, str]]:
    """Lists nested settings as (dotted name, text) pairs, in their own order."""
    pairs = []
    for name, value in settings.items():
        if isinstance(value, Mapping):
            pairs += flatten(value, f'{prefix}{name}.')
        else:
            pairs.append((f'{prefix}{name}', say_value(value)))
    return pairs


def shorten(name: str, most: int) -> str:
    """Cuts a name to `most` characters."""
    return name if len(name) <= most else f'{name[: most - 1]}…'
