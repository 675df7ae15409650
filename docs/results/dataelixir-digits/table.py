"""Prints the tables of this page from the files in raw/."""

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from tables import print_table, read_json, read_lines, say_range

RAW = Path(__file__).parent / 'raw'
OLD = RAW / '2026-11-21'
PRESENT = (('patch', '10'), ('patch', '02'), ('patch', '01'), ('none', ''))
EARLIER = tuple((attack, rate) for rate in ('10', '02') for attack in ('blended', 'dct', 'warp'))
BASELINES = {
    'ac': 'activation clustering',
    'spectral': 'spectral signatures',
    'abl': 'ABL',
}
HEAD = ('attack, rate', 'seeds', 'target found (it is 0)', 'TPR', 'FPR', 'label accuracy')
HEAD += tuple(
    f'{side} {name}' for side in ('teacher', 'benign model', 'student') for name in ('ACC', 'ASR')
)


def say_target(run: dict[str, Any]) -> str:
    """The labels that a run named, or the word it gave the dataset."""
    named = ' '.join(map(str, run['detection']['target_labels']))
    return named or f'none (`{run["verdict"]["word"]}`)'


def attack_row(folder: Path, attack: str, rate: str) -> list[str]:
    """All seeds of one attack and rate."""
    name = f'{attack}-{rate}' if rate else attack
    runs = [read_json(path) for path in sorted(folder.glob(f'{name}-*.json'))]
    found = [run['detection'] for run in runs]
    columns = [(side, name) for side in ('teacher', 'benign', 'student') for name in ('acc', 'asr')]
    return [
        f'`{attack}`' + (f', .{rate}' if rate else ''),
        str(len(runs)),
        ', '.join(sorted(set(map(say_target, runs)))),
        say_range([row['tpr'] for row in found]),
        say_range([row['fpr'] for row in found], 2),
        say_range([row['label_accuracy'] for row in found]),
        *(say_range([run[side][name] for run in runs]) for side, name in columns),
    ]


def curve_row(run: dict[str, Any]) -> list[str]:
    """A run with another number of network evaluations, held against exact mode."""
    exact = ' (exact)' if run['run'].startswith('exact') else ''
    sets = (run['sets'][name] for name in ('benign', 'poisoned', 'suspicious'))
    return [
        f'{run["evaluations_per_image"]}{exact}',
        str(run['rounds_kept']),
        *(f'{100 * run[name]:.{places}f} %' for name, places in (('tpr', 1), ('fpr', 2))),
        *(f'{100 * run[name]:.2f} %' for name in ('same_verdict', 'same_label')),
        ' / '.join(map(str, sets)),
    ]


def baseline_row(path: Path) -> list[str]:
    """One run of a baseline."""
    name, rate, _ = path.stem.split('-')
    run = read_json(path)
    shares = [run['detection']['tpr'], run['detection']['fpr']]
    shares += [run['student']['acc'], run['student']['asr']]
    return [BASELINES[name], f'.{rate}', *(f'{100 * share:.1f} %' for share in shares)]


def main() -> None:
    """Prints all tables."""
    print_table(
        'The present rule (2026-11-29)',
        HEAD,
        [attack_row(RAW / '2026-11-29', attack, rate) for attack, rate in PRESENT],
    )
    print_table(
        'The rule of 2026-11-21',
        HEAD,
        [attack_row(OLD, attack, rate) for attack, rate in EARLIER],
    )
    curve = [
        run | {'rounds_kept': run['kept'] * run['evaluations_per_image'] // run['steps']}
        for run in read_lines(OLD / 'curve.jsonl')
    ]
    print_table(
        'Verdicts against network evaluations (patch, rate .10, seed 0, 2026-11-21)',
        (
            'network evaluations per image',
            'candidates kept',
            'TPR',
            'FPR',
            'verdicts as in exact mode',
            'labels as in exact mode',
            'sets B / P / S',
        ),
        map(curve_row, curve),
        left=0,
    )
    print_table(
        'Baselines (patch, seed 0, 2026-11-21)',
        ('defence', 'rate', 'TPR', 'FPR', 'student ACC', 'student ASR'),
        [baseline_row(path) for name in BASELINES for path in sorted(OLD.glob(f'{name}-*'))],
    )


if __name__ == '__main__':
    main()
