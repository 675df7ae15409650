"""What every attack is: a rule on one image and a rule on one label."""

import abc
import dataclasses
import hashlib
import json
import math
import operator
from typing import Any

import numpy as np

from purify.core.errors import UserError


@dataclasses.dataclass(frozen=True)
class Attack(abc.ABC):
    """`stamp` puts the trigger on one image, `relabel` gives the label it gets; both depend on (seed, id) alone.

    `target` is the class that triggered images shall be taken for. Raises `UserError` for values out of range.
    """

    target: int
    seed: int

    def __post_init__(self) -> None:
        self._keep(target=whole_number('target', self.target, 0), seed=whole_number('seed', self.seed, 0))

    def _keep(self, **values: Any) -> None:
        """Store checked values; only for `__post_init__`, as the class is frozen afterwards."""
        for name, value in values.items():
            object.__setattr__(self, name, value)

    @abc.abstractmethod
    def stamp(self, image: np.ndarray, id: int) -> np.ndarray:
        """`image: u8[h w c]`, c = 1 (grey) or 3 (RGB) -> a new `u8[h w c]` that carries the trigger."""

    @abc.abstractmethod
    def pattern_pixels(self) -> np.ndarray:
        """The trigger itself as `u8[...]`, at its own or at a reference size; enters the digest."""

    def relabel(self, label: int) -> int:
        """The label a poisoned sample gets."""
        del label
        return self.target

    def parameters(self) -> dict[str, Any]:
        """All settings as plain values, as they go into a manifest."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self) if field.init}

    def digest(self) -> str:
        """SHA-256 over the kind of attack, its parameters and the pixels of its pattern.

        Paths are left out: what a picture shows counts, not where it lies.
        """
        parameters = {name: value for name, value in self.parameters().items() if name != 'path'}
        pattern = np.ascontiguousarray(self.pattern_pixels())
        head = json.dumps([type(self).__name__, parameters, pattern.shape, str(pattern.dtype)], sort_keys=True)
        return hashlib.sha256(head.encode() + b'\0' + pattern.tobytes()).hexdigest()


def whole_number(name: str, value: Any, low: int) -> int:
    """`value` as an int; `UserError` unless it is a whole number of at least `low`."""
    try:
        number = operator.index(value)
    except TypeError:
        number = None
    if number is None or isinstance(value, bool | np.bool_) or number < low:
        raise UserError(f'{name}={value!r} is not a whole number of at least {low}. Set {name} to {low} or more.')
    return number


def share_of_one(name: str, value: Any, *, zero: bool) -> float:
    """`value` as a float; `UserError` unless it lies in [0, 1], or in (0, 1] where `zero` is false."""
    try:
        number = math.nan if isinstance(value, bool | np.bool_ | str) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not (0 < number <= 1 or (zero and number == 0)):
        allowed = '[0, 1]' if zero else '(0, 1]'
        raise UserError(f'{name}={value!r} is outside {allowed}. Set {name} to a number in {allowed}.')
    return number


def word_of(name: str, value: Any, words: tuple[str, ...]) -> str:
    """`value`; `UserError` unless it is one of `words`."""
    if value not in words:
        raise UserError(f'unknown {name} {value!r}. Choose from: {", ".join(sorted(words))}.')
    return value
