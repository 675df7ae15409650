"""Prints the table of this page from pytest's log in raw/."""

import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from tables import print_table

LOG = Path(__file__).parent / 'raw' / 'log.txt'


def find(pattern: str, text: str) -> str:
    """What the group of the pattern holds in the log."""
    match = re.search(pattern, text)
    if match is None:
        raise ValueError(f'{LOG}: nothing like {pattern}')
    return match[1]


def main() -> None:
    """Prints the table."""
    text = LOG.read_text(encoding='utf-8')
    dots = re.search(r'_test\.py ([.FEsxX\[\]%\s\d]+?)=', text)
    if dots is None:
        raise ValueError(f'{LOG}: no progress of tests')
    marks = re.sub(r'\[ *\d+%\]', '', dots[1])
    print_table(
        "Outcome of pytest over every point of the paper's tables",
        ('tests collected', 'passed', 'failed', 'wall time'),
        [
            [
                find(r'collected (\d+) items', text),
                find(r'(\d+) passed', text),
                str(marks.count('F') + marks.count('E')),
                find(r'passed in [\d.]+s \(([\d:]+)\)', text),
            ]
        ],
        left=0,
    )


if __name__ == '__main__':
    main()
