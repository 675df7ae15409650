"""What the values of a config.json may be, whoever wrote it: JSON tells 1 from 1.0, true and "1", and knows infinities."""

import sys
from dataclasses import fields
from typing import Any, TypeGuard

from purify.core.errors import UserError

MOST, DEEPEST = 2**20, 1000  # of any axis, and of the layers one behind the other: what is larger would fill or stall any machine
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
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def is_positive(value: Any) -> bool:
    """A finite number above 0."""
    return is_number(value) and value > 0


def is_size(value: Any) -> bool:
    """A height and width: one positive integer for both, or two."""
    return is_count(value) or (isinstance(value, tuple) and len(value) == 2 and all(map(is_count, value)))


def freeze_lists(config: Any) -> None:
    """Makes tuples of the lists in a frozen dataclass: JSON and ml_collections give lists, and a config must be hashable."""
    for field in fields(config):
        value = getattr(config, field.name)
        if isinstance(value, list):
            object.__setattr__(config, field.name, tuple(value))


def check_switches(owner: str, config: Any, *, but: tuple[str, ...] = ()) -> None:
    """Raises `UserError` where a field that is true or false by default holds anything else (None counts as false)."""
    for field in fields(config):
        value = getattr(config, field.name)
        if isinstance(field.default, bool) and field.name not in but and not (value is None or isinstance(value, bool)):
            raise UserError(f'{owner}: {field.name} = {value!r} must be true or false.')


def check_widths(owner: str, widths: Any) -> None:
    """Raises `UserError` unless `block_out_channels` lists a positive integer for each level."""
    if not isinstance(widths, tuple) or not 0 < len(widths) <= LEVELS or not all(map(is_count, widths)):
        raise UserError(f'{owner}: block_out_channels = {widths!r} must list {COUNT} for each of 1 to {LEVELS} levels.')
