"""Prints the tables of this page from the files in raw/."""

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from tables import print_table, read_json, read_lines, say_range

RAW = Path(__file__).parent / 'raw'
CHAINS = {  # in the names of files: what it is
    'ddim20': 'DDIM, eta 1',
    'sde10': 'SDE-DPM-Solver++(2M)',
    'sde6': 'SDE-DPM-Solver++(2M)',
    'sde4': 'SDE-DPM-Solver++(2M)',
    'dpmpp10': 'DPM-Solver++(2M)',
    'dpmpp5': 'DPM-Solver++(2M)',
    'consistency4': 'consistency, distilled prior',
    'consistency2': 'consistency, distilled prior',
    'consistency1': 'consistency, distilled prior',
}
MEASURES = ('acc', 'asr', 'ra')


def chain_rows(folder: str) -> list[list[str]]:
    """One row for each attack and chain: the students of three seeds."""
    rows = []
    for attack in ('patch', 'blended'):
        for name, chain in CHAINS.items():
            paths = sorted((RAW / folder).glob(f'{name}-{attack}-*.json'))
            if paths:
                runs = [read_json(path)['student'] for path in paths]
                steps = name.lstrip('abcdefghijklmnopqrstuvwxyz')
                shares = [say_range([run[key] for run in runs]) for key in MEASURES]
                rows.append([f'`{attack}`', chain, steps, str(len(runs)), *shares])
    return rows


def verdict_row(run: dict[str, Any]) -> list[str]:
    """One run of DataElixir beside the one with most evaluations."""
    shares = [f'{100 * run[name]:.1f} %' for name in ('same_verdict', 'tpr', 'fpr')]
    targets = ', '.join(map(str, run['targets'])) or 'none'
    sets = ' / '.join(str(run['sets'][name]) for name in ('benign', 'poisoned', 'suspicious'))
    return [str(run['evaluations_per_image']), *shares, targets, sets]


def deep_row(net: dict[str, Any]) -> list[str]:
    """What a call costs where all but the finest level is taken from the call before."""
    finest = net['finest_share']
    cells = [f'{net["gflop"]:.3g}', f'{100 * finest:.0f} %', f'{100 * (1 - finest) / 2:.0f} %']
    return [net['network'], *cells]


def main() -> None:
    """Prints all tables."""
    head = ['attack', 'chain', 'calls', 'runs', 'student ACC', 'student ASR', 'student RA']
    print_table('Students by chain, seeds 0 to 2', head, chain_rows('reported'), left=2)
    print_table('Students by chain, seeds 10 to 12', head, chain_rows('tuning'), left=2)
    head = [
        'evaluations per image',
        'verdicts as with 75',
        'TPR',
        'FPR',
        'targets',
        'sets B / P / S',
    ]
    curve = read_lines(RAW / 'dataelixir.jsonl')
    print_table(
        'DataElixir on 2,000 images of CIFAR-10, patch, seed 0', head, map(verdict_row, curve)
    )
    head = ['network', 'GFLOP a call', 'finest level', 'saved by keeping the rest every other call']
    deep = read_lines(RAW / 'deep_features.jsonl')
    print_table('What keeping deep features would save', head, map(deep_row, deep))


if __name__ == '__main__':
    main()
