"""Prints the tables of this page from the files in raw/."""

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from tables import print_table, read_json

RAW = Path(__file__).parent / 'raw'
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


def print_labels(title: str, cases: dict[str, Any]) -> None:
    """The table of one rule of DataElixir."""
    names = list(next(iter(cases.values())))
    rows = [[case, *(say_cell(cells[name]) for name in names)] for case, cells in cases.items()]
    print_table(title, ('dataset', *names), rows)


def main() -> None:
    """Prints all tables."""
    worlds = read_json(RAW / 'worlds.json')
    for rule, cases in worlds['labels'].items():
        print_labels(f'DataElixir, rule `{rule}` ({TITLES[rule]})', cases)
    few = read_json(RAW / 'worlds-15-candidates.json')['labels']['significant']
    print_labels('DataElixir, rule `significant`, 15 candidates of an image instead of 25', few)
    cases = worlds['densities']
    names = list(next(iter(cases.values())))
    print_table(
        'Relabelling',
        ('dataset', *names),
        [[case, *(say_changed(cells[name]) for name in names)] for case, cells in cases.items()],
    )


if __name__ == '__main__':
    main()
