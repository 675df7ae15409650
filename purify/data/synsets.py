"""English names of classes for captions; ImageNet and TFDS name them by WordNet ids."""

import functools
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from purify.core.errors import UserError

_NUMBER = re.compile(r'^\d{3}\.(?=\D)')
TABLE = Path(__file__).parent / 'synsets.txt'


def readable(name: str) -> str:
    """The words a caption uses for the class `name`, in WordNet's own capitals.

    A WordNet id of ImageNet's 1,000 classes (ILSVRC 2012) becomes its English name: 'n02102040' ->
    'English springer'. Any other name keeps its words, spaces for underscores and none at the ends,
    without the number that Caltech's folders begin with: 'fire_truck' -> 'fire truck',
    '012.binoculars' -> 'binoculars'; an id outside the table stays as it is. The two classes that
    WordNet has but one name for are told apart by a word in brackets, as 'crane (bird)'.
    """
    words = _NUMBER.sub('', name).replace('_', ' ').strip()
    return _names().get(words, words)


def caption_names(class_names: Sequence[str]) -> list[str]:
    """The `readable` names of all classes.

    Raises `UserError` where two classes would be called the same in a caption.
    """
    names = [readable(name) for name in class_names]
    if shared := next((words for words, count in Counter(names).items() if count > 1), None):
        alike = [name for name, words in zip(class_names, names, strict=True) if words == shared]
        raise UserError(
            f'classes {", ".join(map(repr, alike))} would have one caption, {shared!r}. Rename all'
            ' but one.'
        )
    return names


@functools.cache
def _names() -> dict[str, str]:
    """WordNet ids and their names, from the table beside this file (id<TAB>name, `#`: licence)."""
    lines = TABLE.read_text(encoding='utf-8').splitlines()
    return dict(line.split('\t') for line in lines if not line.startswith('#'))
