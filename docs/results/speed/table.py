"""Prints the tables of this page from the files in raw/."""

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from tables import print_table, read_lines

RAW = Path(__file__).parent / 'raw'
WORK = {
    'variations': 'image variations, a quarter of SD',
    'edit': 'DDPM at 32 px, editing',
    'classifier': 'ResNet-18, a training step',
    'contrast': 'SimCLR on ResNet-18, a step',
    'denoise': 'DDPM at 32 px, a training step',
}


def say_ratio(run: dict[str, Any], kind: str) -> str:
    """The median of the ratios of all rounds, and the smallest and largest."""
    low, high = run[f'{kind}_ratios']
    return f'{run[f"{kind}_ratio"]:.2f} ({low:.2f} to {high:.2f})'


def row(run: dict[str, Any]) -> list[str]:
    """One workload on so many threads."""
    median = lambda side: sorted(run[side]['processor_s'])[len(run[side]['processor_s']) // 2]
    spent = [f'{median(side):.2f} s' for side in ('purify', 'pytorch')]
    ratios = [say_ratio(run, kind) for kind in ('processor', 'wall')]
    return [WORK[run['workload']], str(run['batch']), str(run['threads']), *spent, *ratios]


def convolution_row(run: dict[str, Any]) -> list[str]:
    """GFLOP/s of the formulations, for one size."""
    names = ('convolution', 'row_pairs', 'derived_gradient', 'products_gradient')
    loops = [f'{name}_looped' for name in names[2:]]
    rates = [f'{run[name]:.0f}' for name in names]
    looped = [f'{run[name]:.1f}' if name in run else '' for name in loops]
    size = f'{run["batch"]} x {run["side"]} px, {run["channels"]}'
    return [size, *rates, *looped, f'{run["difference"]:.0e}']


def main() -> None:
    """Prints all tables."""
    head = ['work', 'batch', 'threads', 'purify', 'PyTorch', 'by processor time', 'by wall time']
    runs = read_lines(RAW / 'side_by_side.jsonl')
    order = {name: place for place, name in enumerate(WORK)}
    runs.sort(key=lambda run: (order[run['workload']], run['threads']))
    print_table("PyTorch's time over purify's, float32, median (range) of 7", head, map(row, runs))
    head = ['batch, side, channels', 'XLA', 'pairs of rows', "XLA's gradient", 'products']
    head += ["XLA's gradient, in a loop", 'products, in a loop', 'largest difference']
    convolutions = read_lines(RAW / 'convolutions.jsonl')
    rows = map(convolution_row, convolutions)
    print_table('GFLOP/s of 3x3 convolutions and gradients of kernels, one core', head, rows)


if __name__ == '__main__':
    main()
