"""Prints the tables of this page from the files in raw/."""

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from tables import print_table, read_json, read_lines, say_part, say_range

RAW = Path(__file__).parent / 'raw'
SWEEP = {
    '`attack=patch`': 'attack=patch-seed*.json',
    '`attack=blended`': 'attack=blended-seed*.json',
    '`rate=0` (patch)': 'attack=patch-rate=0.0-seed*.json',
}
OCCASIONS = {
    'jax 0.10.2, Python 3.11, 2026-11-29': '2026-11-29/patch-0.json',
    'jax 0.10.2, Python 3.11, 2026-11-30': '2026-11-30/jax-0.10.json',
    'jax 0.12.0.1, Python 3.13, 2026-11-30': '2026-11-30/jax-0.12.json',
}
TUNING = {  # run -> what it is compared for
    'b10': 'colour transfer on',
    'b10n300': 'colour transfer off',
    'a5t300-s12': 'temperature 5',
    't1.0-a0.9-b-s12': 'temperature 1',
}


def sweep_row(name: str, pattern: str) -> list[str]:
    """Teacher and student of the runs of one point of the sweep."""
    runs = [read_json(path) for path in sorted((RAW / '2026-12-01-sweep').glob(pattern))]
    seconds = [run['cost']['seconds'] for run in runs]
    columns = [('teacher', 'acc'), ('teacher', 'asr')]
    columns += [('student', measure) for measure in ('acc', 'asr', 'ra')]
    return [
        name,
        *(say_range([run[side][measure] for run in runs]) for side, measure in columns),
        f'{min(seconds):.0f} to {max(seconds):.0f} s',
    ]


def latest_row(run: dict[str, Any], measure: str) -> list[str]:
    """One measure of teacher and student with its 95 % interval."""
    cells = [measure.upper()]
    for side in ('teacher', 'student'):
        low, high = run[side]['intervals'][measure]
        cells += [say_part(run[side], measure), f'{100 * low:.1f} to {100 * high:.1f} %']
    return cells


def occasion_row(name: str, path: str) -> list[str]:
    """The student of one start of the same run."""
    run = read_json(RAW / path)
    shares = [say_part(run['student'], measure) for measure in ('acc', 'asr', 'ra')]
    return [name, *shares, f'{run["cost"]["seconds"]:.0f} s']


def ratio_row(path: Path) -> list[str]:
    """A run that blended 10 % of noise."""
    run = read_json(path)
    columns = [(side, measure) for side in ('teacher', 'student') for measure in ('acc', 'asr')]
    return [
        str(run['seeds']['poison']),
        *(f'{100 * run[side][measure]:.1f} %' for side, measure in columns),
    ]


def tuning_row(run: dict[str, Any], compared: str) -> list[str]:
    """A run of the tuning that the text names."""
    return [
        f'`{run["run"]}`',
        compared,
        str(run['seed']),
        str(run['attack']['ratio']),
        str(run['objective']['alpha']),
        f'{run["objective"]["tau"]:.0f}',
        f'{100 * run["student"]["acc"]:.1f} %',
        f'{run["student"]["asr"]:.3f}',
    ]


def main() -> None:
    """Prints all tables."""
    print_table(
        'Sweep over attacks',
        (
            'quickstart',
            'teacher ACC',
            'teacher ASR',
            'student ACC',
            'student ASR',
            'student RA',
            'run',
        ),
        [sweep_row(name, pattern) for name, pattern in SWEEP.items()],
    )
    latest = read_json(RAW / '2026-12-01-sweep' / 'attack=patch-seed0.json')
    print_table(
        'Patch, seed 0',
        ('', 'teacher', '95 % interval', 'student', '95 % interval'),
        [latest_row(latest, measure) for measure in ('acc', 'asr', 'ra')],
    )
    print_table(
        'Patch, seed 0, on three occasions, with the 20 steps of DDIM of before',
        ('run', 'student ACC', 'student ASR', 'student RA', 'time'),
        [occasion_row(run, path) for run, path in OCCASIONS.items()],
    )
    print_table(
        'Blended with 10 % of noise instead of 15 %',
        ('seed', 'teacher ACC', 'teacher ASR', 'student ACC', 'student ASR'),
        [ratio_row(path) for path in sorted((RAW / '2026-11-21-blended-ratio-10').glob('*.json'))],
    )
    runs = {run['run']: run for run in read_lines(RAW / '2026-11-21-tuning' / 'runs.jsonl')}
    print_table(
        f'Four of the {len(runs)} tuning runs (blended, one variation per image)',
        (
            'run',
            'compared for',
            'seed',
            'share of noise',
            'alpha',
            'temperature',
            'student ACC',
            'student ASR',
        ),
        [tuning_row(runs[name], compared) for name, compared in TUNING.items()],
        left=2,
    )


if __name__ == '__main__':
    main()
