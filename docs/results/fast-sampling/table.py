"""Prints the tables of this page from the files in raw/."""

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from tables import print_table, read_json, read_lines, say_part, say_range

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
RATES = {'patch': '.10', 'blended': '.02'}  # of the runs of DataElixir on digits


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


def digits_rows() -> list[list[str]]:
    """DataElixir on digits: one row for each attack and number of evaluations, over its seeds."""
    groups: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for run in read_lines(RAW / 'dataelixir-digits.jsonl'):
        attack = run['run'].split('-')[0]
        groups.setdefault(
            (f'`{attack}`, {RATES[attack]}', run['evaluations_per_image']), []
        ).append(run)
    rows = []
    for (attack, calls), runs in groups.items():
        shares = [
            say_range([run[name] for run in runs], 2)
            for name in ('same_verdict', 'same_label', 'tpr', 'fpr')
        ]
        targets = {', '.join(map(str, run['targets'])) or 'none' for run in runs}
        rows.append([attack, str(calls), str(len(runs)), *shares, ' or '.join(sorted(targets))])
    return rows


def named_row(attack: str, rate: float, runs: list[dict[str, Any]]) -> list[str]:
    """How often each label was named as a target, over the seeds."""
    named = [', '.join(map(str, run['targets'])) or 'none' for run in runs]
    cells = [f'{name} ({named.count(name)} of {len(named)})' for name in sorted({*named})]
    return [f'`{attack}`, {rate:g}', ', '.join(str(run['seed']) for run in runs), ', '.join(cells)]


def guided_row(name: str) -> list[str]:
    """What a guided generator made, and the student that was trained on it."""
    run = read_json(RAW / 'guidance' / f'{name}.json')
    made = run['dissection']['sets']['generated']
    images = sum(row['images'] for row in made)
    missed = sum(row['counts'][0] + row['counts'][2] for row in made) / images
    target = next(row for row in made if row['target'])
    calls = run['cost']['stages']['generated']['network_calls'] / images
    shares = [f'{100 * share:.1f} %' for share in (target['triggered'], missed)]
    student = [say_part(run['student'], part) for part in ('acc', 'asr')]
    low_high = run['defense']['sampling']['guidance_interval']
    where = 'everywhere' if not low_high else f'from {low_high[0]:g} to {low_high[1]:g}'
    return [where, f'{calls:.0f}', *shares, *student]


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
    head = ['attack, rate', 'evaluations per image', 'seeds', 'verdicts as in exact mode']
    head += ['labels as in exact mode', 'TPR', 'FPR', 'targets']
    print_table('DataElixir on digits, beside exact mode (750)', head, digits_rows(), left=1)
    groups: dict[tuple[str, float], list[dict[str, Any]]] = {}
    for run in read_lines(RAW / 'dataelixir-targets.jsonl'):
        groups.setdefault((run['attack'], run['rate']), []).append(run)
    print_table(
        'Target labels that 35 evaluations name',
        ['attack, rate', 'seeds', 'named'],
        [named_row(*key, runs) for key, runs in groups.items()],
    )
    head = ['guided at noise levels', 'evaluations per image', 'trigger in the target class']
    head += ['images not of their class', 'student ACC', 'student ASR']
    guided = map(guided_row, ('whole-0', 'interval-0'))
    print_table('Castle walls on digits, rate .05, guidance 6, seed 0', head, guided)
    head = ['network', 'GFLOP a call', 'finest level', 'saved by keeping the rest every other call']
    deep = read_lines(RAW / 'deep_features.jsonl')
    print_table('What keeping deep features would save', head, map(deep_row, deep))


if __name__ == '__main__':
    main()
