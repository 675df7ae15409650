"""What the values of a config.json may be: JSON tells 1 from 1.0 and true, and knows infinities."""

import sys
from typing import Any, TypeGuard

# Of any axis, and of the layers one behind the other: more would fill or stall any machine.
MOST, DEEPEST = 2**20, 1000
LEVELS = 16  # of sizes, each half the one before
COUNT, DEPTH = f'a positive integer up to {MOST}', f'a positive integer up to {DEEPEST}'


def is_count(value: Any) -> TypeGuard[int]:
    """Whether a value is a positive integer up to `MOST`."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value <= MOST


def is_depth(value: Any) -> bool:
    """Whether a value is a positive integer up to `DEEPEST`."""
    return is_count(value) and value <= DEEPEST


def is_number(value: Any) -> bool:
    """Whether a value is a finite number; integers beyond all floats are not."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and abs(value) <= sys.float_info.max


def is_positive(value: Any) -> bool:
    """Whether a value is a finite number above 0."""
    return is_number(value) and value > 0


def is_size(value: Any) -> bool:
    """Whether a value is a height and width: one positive integer for both, or two."""
    two = isinstance(value, tuple) and len(value) == 2
    return is_count(value) or (two and all(map(is_count, value)))
