"""What the table.py of several studies share: reading results, mean and range, Markdown tables."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any


def read_json(path: Path) -> Any:
    """The content of a JSON file."""
    return json.loads(path.read_text(encoding='utf-8'))


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The rows of a file that holds one JSON object per line."""
    return [json.loads(line) for line in path.read_text(encoding='utf-8').splitlines()]


def say_range(
    values: Iterable[float | None], places: int = 1, scale: float = 100, unit: str = ' %'
) -> str:
    """Mean (smallest to largest) of the values that are known; the mean alone where all agree."""
    known = [scale * value for value in values if value is not None]
    if not known:
        return '–'
    mean, low, high = (
        f'{value:.{places}f}' for value in (sum(known) / len(known), min(known), max(known))
    )
    return f'{mean}{unit}' + ('' if low == high else f' ({low} to {high})')


def say_number(values: Iterable[float | None], places: int = 2) -> str:
    """As `say_range`, without a unit."""
    return say_range(values, places, 1, '')


def say_part(side: dict[str, Any], name: str) -> str:
    """A share of test images and the images it counts, such as 97.6 % (290 of 297)."""
    part, whole = side['counts'][name]
    return f'{100 * side[name]:.1f} % ({part} of {whole})'


def print_table(
    title: str, head: Sequence[str], rows: Iterable[Sequence[str]], left: int = 1
) -> None:
    """Prints a heading and a Markdown table, whose first `left` columns are aligned left."""
    print(f'### {title}\n')
    print(f'| {" | ".join(head)} |')
    print(f'|{"---|" * left}{"--:|" * (len(head) - left)}')
    for row in rows:
        if len(row) != len(head):
            raise ValueError(f'{title}: {len(row)} cells under {len(head)} titles: {row}')
        print(f'| {" | ".join(row)} |')
    print()
