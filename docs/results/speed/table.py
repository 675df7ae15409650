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


head = ['work', 'batch', 'threads', 'purify', 'PyTorch', 'by processor time', 'by wall time']
runs = read_lines(RAW / 'side_by_side.jsonl')
order = {name: place for place, name in enumerate(WORK)}
runs.sort(key=lambda run: (order[run['workload']], run['threads']))
print_table("PyTorch's time over purify's, float32, median (range) of 7", head, map(row, runs))
