"""The words after a config file's colon: `configs/quickstart.py:attack=blended,rate=0.05`."""

import difflib
from collections.abc import Collection
from typing import Any

from ml_collections import ConfigDict


def parse_words(arg: str | None, **spec: Any) -> Any:
    """Parses words like 'attack=blended,rate=0.05' to a ConfigDict; `spec` has defaults and types.

    A bare word sets a boolean (`smoke` is `smoke=True`). Raises ValueError for an unknown word,
    with the nearest one, and for a value of another type.
    """
    words = ConfigDict(spec)
    for item in filter(None, (arg or '').split(',')):
        name, equals, text = item.partition('=')
        if name not in spec:
            near = difflib.get_close_matches(name, spec, n=1)
            hint = f' Did you mean {near[0]!r}?' if near else ''
            known = f'This config takes: {", ".join(sorted(spec))}.'
            raise ValueError(f'unknown word {name!r} after the colon.{hint} {known}')
        words[name] = _typed(name, text if equals else 'True', spec[name])
    return words


def check_words(words: Any, **choices: Collection[Any]) -> None:
    """Raises ValueError for a word whose value is none of its choices."""
    for name, offered in choices.items():
        if words[name] not in offered:
            known = ', '.join(map(str, sorted(offered)))
            raise ValueError(f'{name}={words[name]!r}: choose from {known}.')


def _typed(name: str, text: str, default: Any) -> Any:
    if isinstance(default, bool):
        if text.lower() not in ('true', 'false', '1', '0', 'yes', 'no'):
            raise ValueError(f'{name}={text!r} must be True or False.')
        return text.lower() in ('true', '1', 'yes')
    try:
        return type(default)(text)
    except ValueError as error:
        raise ValueError(
            f'{name}={text!r} must be of type {type(default).__name__}, like {default!r}.'
        ) from error
