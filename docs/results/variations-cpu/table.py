"""Prints the tables of this page from the files in raw/."""

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from tables import print_table, read_lines

RAW = Path(__file__).parent / 'raw'


def say_speed(side: dict[str, float]) -> str:
    """Median (slowest to fastest) images per second."""
    return f'{side["images_per_second"]:.2f} ({side["slowest"]:.2f} to {side["fastest"]:.2f})'


def speed_row(run: dict[str, Any]) -> list[str]:
    """The speed of purify and of PyTorch, turn by turn."""
    kind = f'`{run["kind"]}`, {run["dtype"]}, {run["guidance"]:g}'
    return [kind, say_speed(run['purify']), say_speed(run['pytorch']), f'{run["ratio"]:.2f}']


def bench_row(run: dict[str, Any]) -> list[str]:
    """The speed of purify alone."""
    speed = [run['images_per_s'], run['images_per_s_min'], run['images_per_s_max']]
    return [
        f'`{run["kind"]}`, {run["dtype"]}, {run["guidance"]:g}',
        '{:.2f} ({:.2f} to {:.2f})'.format(*speed),
        f'{run["compile_s"]:.1f} s',
        f'{run["unet_ms"]:.0f} ms',
    ]


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
    """Prints all tables."""
    speed = read_lines(RAW / 'side_by_side.jsonl')
    speed.sort(key=lambda run: (run['dtype'] != 'float32', run['kind'] != 'sd_variation'))
    print_table(
        'Images per second of whole chains, 128 px, median (range) of 5',
        ('kind, precision, guidance', 'purify', 'PyTorch', 'ratio'),
        [speed_row(run) for run in speed],
    )
    print_table(
        'purify alone: images per second, compiling, one call of the UNet',
        ('kind, precision, guidance', 'images per second', 'compiling', 'UNet'),
        [bench_row(run) for run in read_lines(RAW / 'bench.jsonl')],
    )
    print_table(
        'bfloat16 against float32, in grey levels of 255',
        ('kind', 'steps', 'mean difference', 'largest', 'pixels that differ by more than 8'),
        [precision_row(run) for run in read_lines(RAW / 'precision.jsonl')],
    )


if __name__ == '__main__':
    main()
