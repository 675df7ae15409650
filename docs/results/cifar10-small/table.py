"""Prints the table of this page from the file in raw/."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from tables import print_table, read_json, say_part

RESULTS = Path(__file__).parent / 'raw' / 'results.json'


def main() -> None:
    """Prints the table."""
    run = read_json(RESULTS)
    rows = [
        [side, *(say_part(run[side], measure) for measure in ('acc', 'asr', 'ra'))]
        for side in ('teacher', 'student')
    ]
    minutes = run['cost']['seconds'] / 60
    print_table(f'Teacher and student, {minutes:.0f} minutes', ('', 'ACC', 'ASR', 'RA'), rows)


if __name__ == '__main__':
    main()
