"""Class names: finding those that look alike or cannot be stored, and showing the invisible."""

import unicodedata
from collections import Counter, defaultdict
from collections.abc import Sequence

from purify.core.errors import UserError

# Letters without shape, nor change to another's.
UNSEEN = {0xAD, 0x34F, 0x200B, 0x2060, 0x3164, 0xFEFF, *range(0xFE00, 0xFE10)}


def looks(name: str) -> str:
    """A name as the eye sees it: composed (NFC), twin letters unified, invisible ones left out."""
    seen = ''.join(letter for letter in name if ord(letter) not in UNSEEN)
    forms = [unicodedata.normalize('NFKC', one) if _is_twin(one) else one for one in seen]
    return unicodedata.normalize('NFC', ''.join(forms))


def _is_twin(letter: str) -> bool:
    return unicodedata.decomposition(letter).startswith(('<compat>', '<wide>', '<narrow>'))


def check_class_names(source: str, names: Sequence[str]) -> None:
    """Raises `UserError` for class names of `source` that repeat, look alike, or are no text."""
    if broken := [name for name in names if not _is_text(name)]:
        raise UserError(
            f'source {source}: the class name {_bytes_of(broken[0])} is not UTF-8, and the results'
            f' could not name it ({len(broken)} like it). Rename it.'
        )
    times = Counter(names)
    bad = lambda name: name != name.strip() or not looks(name) or _has_control(name)
    if odd := [name for name in names if bad(name) or times[name] > 1]:
        raise UserError(
            f'source {source}: class names {odd[:10]}: each must be there once, without space'
            ' around it or control characters. Rename them.'
        )
    alike = defaultdict(list)
    for name in names:
        alike[looks(name)].append(name)
    if twins := next((group for group in alike.values() if len(group) > 1), None):
        raise UserError(
            f'source {source}: class names that differ in their Unicode form alone:'
            f' {tell_apart(twins)}. Rename all but one.'
        )


def tell_apart(names: Sequence[str]) -> str:
    """The names in one line, with code points or bytes for those that look alike or are no text."""
    forms = Counter(map(looks, names))

    def show(name: str) -> str:
        if not _is_text(name):
            return _bytes_of(name)
        return name if forms[looks(name)] == 1 else f'{name} ({_code_points(name)})'

    return ', '.join(map(show, names))


def _code_points(name: str) -> str:
    return ' '.join(letter if ' ' < letter <= '~' else f'U+{ord(letter):04X}' for letter in name)


def _is_text(name: str) -> bool:
    return not any('\ud800' <= letter <= '\udfff' for letter in name)


def _has_control(name: str) -> bool:
    return any(unicodedata.category(letter) == 'Cc' for letter in name)


def _bytes_of(name: str) -> str:
    """The bytes on disk that Python read as `name`; escapes where it did not come from there."""
    try:
        return str(name.encode('utf-8', 'surrogateescape'))
    except UnicodeEncodeError:
        return ascii(name)
