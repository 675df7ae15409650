"""What the values of a config.json may be: JSON tells 1 from 1.0 and true, and knows infinities."""

import sys
from typing import Any, TypeGuard

MOST, DEEPEST = (
    2**20,
    1000,
)  # of any axis, and of the layers one behind the other: what is larger would fill or stall any machine
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
    return (
        isinstance(value, int | float)
        and not isinstance(value, bool)
        and abs(value) <= sys.float_info.max
    )


def is_positive(value: Any) -> bool:
    """Whether a value is a finite number above 0."""
    return is_number(value) and value > 0


def is_size(value: Any) -> bool:
    """Whether a value is a height and width: one positive integer for both, or two."""
    return is_count(value) or (
        isinstance(value, tuple) and len(value) == 2 and all(map(is_count, value))
    )
