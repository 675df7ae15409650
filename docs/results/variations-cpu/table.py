"""Prints the table of this page from the files in raw/."""

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from tables import print_table, read_lines

RAW = Path(__file__).parent / 'raw'


def precision_row(run: dict[str, Any]) -> list[str]:
    """bfloat16 against float32."""
    return [
        f'`{run["kind"]}`',
        str(run['steps']),
        f'{run["mean_difference_of_255"]:.1f}',
        f'{run["max"]:.1f}',
        f'{100 * run["share_above_8_of_255"]:.2f} %',
    ]


def main() -> None:
    """Prints the table."""
    print_table(
        'bfloat16 against float32, in grey levels of 255',
        ('kind', 'steps', 'mean difference', 'largest', 'pixels that differ by more than 8'),
        [precision_row(run) for run in read_lines(RAW / 'precision.jsonl')],
    )


if __name__ == '__main__':
    main()
