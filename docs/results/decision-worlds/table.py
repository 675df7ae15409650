"""Prints the tables of this page from raw/worlds.json."""

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from tables import print_table, read_json

WORLDS = Path(__file__).parent / 'raw' / 'worlds.json'
TITLES = {'significant': 'the default', 'mad': "the paper's"}


def say_cell(cell: dict[str, Any]) -> str:
    """Share of targets found / share of datasets with a false name, and the most frequent word
    where fewer than half of the targets were found.
    """
    word = max(cell['words'], key=lambda name: cell['words'][name])
    found = '–' if cell['found'] is None else f'{cell["found"]:.2f}'
    missed = (cell['found'] or 0) < 0.5
    return f'{found} / {cell["false_alarm"]:.2f}' + (f' ({word})' if missed else '')


def say_changed(cell: dict[str, Any]) -> str:
    """As `say_cell`, with the number of clean images that were dropped or relabelled."""
    return f'{say_cell(cell)}; {cell["clean_changed"]:.2f}'


def main() -> None:
    """Prints all tables."""
    worlds = read_json(WORLDS)
    for rule, cases in worlds['labels'].items():
        names = list(next(iter(cases.values())))
        print_table(
            f'DataElixir, rule `{rule}` ({TITLES[rule]})',
            ('dataset', *names),
            [[case, *(say_cell(cells[name]) for name in names)] for case, cells in cases.items()],
        )
    cases = worlds['densities']
    names = list(next(iter(cases.values())))
    print_table(
        'Relabelling',
        ('dataset', *names),
        [[case, *(say_changed(cells[name]) for name in names)] for case, cells in cases.items()],
    )


if __name__ == '__main__':
    main()
