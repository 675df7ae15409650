"""The limits of settings, beside their defaults: `draws: Annotated[int, whole(1)] = 100`."""

import functools
import inspect
import math
import operator
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import numpy as np

from purify.core.errors import UserError

_Bound = float | None


@dataclass(frozen=True)
class Limit:
    """What a value may be: part of the type of a setting, see `Limited`.

    Attributes:
      allowed: in words that follow 'must be'.
      keep: a value -> the same as it is kept; None for what is not allowed.
    """

    allowed: str
    keep: Callable[[Any], Any]

    def check(self, name: str, value: Any) -> Any:
        """Checks a value and returns it in its type; a `UserError` for others begins `name=`."""
        kept = self.keep(value)
        if kept is None:
            raise UserError(f'{name}={short(value)} must be {self.allowed}.')
        return kept


def number(
    *, least: _Bound = None, above: _Bound = None, most: _Bound = None, below: _Bound = None
) -> Limit:
    """Allows finite numbers in these bounds, kept as floats; True and False are none."""
    bounds = ((least, 'of at least', operator.ge), (above, 'above', operator.gt))
    bounds += ((most, 'at most', operator.le), (below, 'below', operator.lt))
    asked = [(bound, words, holds) for bound, words, holds in bounds if bound is not None]

    def keep(value: Any) -> float | None:
        try:
            found = math.nan if isinstance(value, bool | np.bool_ | str) else float(value)
        except (TypeError, ValueError, OverflowError):
            return None
        fits = math.isfinite(found) and all(holds(found, bound) for bound, _, holds in asked)
        return found if fits else None

    bounded = most is not None or below is not None
    words = ' and '.join(f'{words} {bound:g}' for bound, words, _ in asked)
    return Limit(f'a {"" if bounded else "finite "}number {words}', keep)


def whole(least: int, most: int | None = None) -> Limit:
    """Allows whole numbers in these bounds, kept as ints; True and False are none."""

    def keep(value: Any) -> int | None:
        try:
            found = None if isinstance(value, bool | np.bool_) else operator.index(value)
        except TypeError:
            return None
        fits = found is not None and found >= least and (most is None or found <= most)
        return found if fits else None

    end = '' if most is None else f' and at most {most}'
    return Limit(f'a whole number of at least {least}{end}', keep)


def one_of(words: Iterable[str]) -> Limit:
    """Allows one of these words."""
    known = sorted(words)
    keep = lambda value: value if isinstance(value, str) and value in known else None
    return Limit(f'one of {", ".join(known)}', keep)


Count = Annotated[int, whole(1)]
Natural = Annotated[int, whole(0)]
Positive = Annotated[float, number(above=0)]
NotNegative = Annotated[float, number(least=0)]
Chance = Annotated[float, number(least=0, most=1)]
Share = Annotated[float, number(above=0, below=1)]  # some, not all
ShareOrZero = Annotated[float, number(least=0, below=1)]
Portion = Annotated[float, number(above=0, most=1)]  # some, or all
_keep_flag = lambda value: bool(value) if isinstance(value, bool | np.bool_) else None
Flag = Annotated[bool, Limit('True or False', _keep_flag)]


class Limited:
    """A base of dataclasses that checks settings when one is made, and keeps them as limits say.

    `class Strip(Limited, Measure, place='strip: ')` with `draws: Count = 100`: `Strip(draws=0)`
    raises the `UserError` 'strip: draws=0 must be a whole number of at least 1.' `place` is what
    stands before the names in messages. Where settings must go together, `__post_init__` checks
    that after `super().__post_init__()`. A subclass that gives a setting another default keeps its
    limit, unless it says another.
    """

    _place: ClassVar[str] = ''

    def __init_subclass__(cls, *, place: str | None = None, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls._place = cls._place if place is None else place

    def __post_init__(self) -> None:
        for name, limit in limits(type(self)).items():
            # The class may be frozen.
            object.__setattr__(self, name, limit.check(f'{self._place}{name}', getattr(self, name)))


@functools.cache
def limits(kind: type) -> dict[str, Limit]:
    """The limits of a dataclass's settings by name, inherited ones among them."""
    found = {}
    for base in reversed(kind.__mro__):
        for name, hint in inspect.get_annotations(base, eval_str=True).items():
            for part in getattr(hint, '__metadata__', ()):
                if isinstance(part, Limit):
                    found[name] = part
    return found


def short(value: Any) -> str:
    """Writes a value as Python does, cut where it would fill a page."""
    try:
        text = repr(value)
    except ValueError:  # Python writes no whole number of more than 4300 digits
        return '(a very large number)'
    return text if len(text) <= 200 else f'{text[:200]}...'
