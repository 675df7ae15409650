"""What the values of a config.json may be, whoever wrote it: JSON tells 1 from 1.0, true and "1", and knows infinities."""

import sys
from typing import Any, TypeGuard

MOST, DEEPEST = (
    2**20,
    1000,
)  # of any axis, and of the layers one behind the other: what is larger would fill or stall any machine
LEVELS = 16  # of sizes, each half the one before
COUNT, DEPTH = f'a positive integer up to {MOST}', f'a positive integer up to {DEEPEST}'


def is_count(value: Any) -> TypeGuard[int]:
    """`COUNT`."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value <= MOST


def is_depth(value: Any) -> bool:
    """`DEPTH`."""
    return is_count(value) and value <= DEEPEST


def is_number(value: Any) -> bool:
    """A finite number; integers beyond all floats are none."""
    return (
        isinstance(value, int | float)
        and not isinstance(value, bool)
        and abs(value) <= sys.float_info.max
    )


def is_positive(value: Any) -> bool:
    """A finite number above 0."""
    return is_number(value) and value > 0


def is_size(value: Any) -> bool:
    """A height and width: one positive integer for both, or two."""
    return is_count(value) or (
        isinstance(value, tuple) and len(value) == 2 and all(map(is_count, value))
    )
