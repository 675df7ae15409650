"""Prints the tables of this page from the files in raw/."""

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from tables import print_table, read_json, read_lines, say_number, say_range

RAW = Path(__file__).parent / 'raw'
ATTACKS = ('patch', 'blended', 'warp', 'label_consistent', 'none')


def runs_of(attack: str) -> list[dict[str, Any]]:
    """The runs of one attack by the present rule."""
    return [read_json(path) for path in sorted((RAW / '2026-11-29').glob(f'{attack}-*.json'))]


def say_named(run: dict[str, Any]) -> str:
    """The classes that a run named and their types, or the word it gave the dataset."""
    types = run['findings'].get('types', {}).items()
    return ', '.join(f'{label} {kind}' for label, kind in types) or run['verdict']['word']


def attack_row(attack: str, clean_acc: dict[int, float]) -> list[str]:
    """All seeds of one attack; `clean_acc` is a clean network's ACC by seed."""
    runs = runs_of(attack)
    found = [run['detection'] for run in runs]
    nd = [[row['nd'] for row in run['findings']['labels']] for run in runs]
    disruptive = [[row['disruptive'] for row in run['findings']['labels']] for run in runs]
    behind = [clean_acc[run['seeds']['data']] - run['student']['acc'] for run in runs]
    columns = [(side, name) for side in ('teacher', 'student') for name in ('acc', 'asr')]
    return [
        f'`{attack}`',
        str(len(runs)),
        '; '.join(sorted(set(map(say_named, runs)))),
        f'{say_number(row[0] for row in nd)}; others from {min(min(row[1:]) for row in nd):.2f}',
        f'{say_number(row[0] for row in disruptive)};'
        f' others to {max(max(row[1:]) for row in disruptive):.2f}',
        say_range([row['relabel_accuracy'] for row in found]),
        say_range([row['removed']['tpr'] for row in found]),
        say_range([row['removed']['fpr'] for row in found]),
        *(say_range([run[side][name] for run in runs]) for side, name in columns),
        say_range(behind, unit=''),
    ]


def run_row(path: Path) -> list[str]:
    """One run by itself."""
    run = read_json(path)
    found, scores = run['detection'], run['findings']['labels']
    shares = [found['relabel_accuracy'], found['removed']['tpr'], found['removed']['fpr']]
    shares += [run[side][name] for side in ('teacher', 'student') for name in ('acc', 'asr')]
    return [
        f'`{path.stem}`',
        ', '.join(f'{label} {kind}' for label, kind in run['findings'].get('types', {}).items())
        or 'none',
        f'{scores[0]["nd"]:.3f}; others from {min(row["nd"] for row in scores[1:]):.2f}',
        f'{scores[0]["disruptive"]:.2f}',
        *('–' if share is None else f'{100 * share:.1f} %' for share in shares),
    ]


def flow_row(run: dict[str, Any]) -> list[str]:
    """All flows at once against one class after another, of one size."""
    return [
        *(str(run[name]) for name in ('classes', 'width', 'rows', 'pairs')),
        *(f'{1000 * run[name]:.1f} ms' for name in ('at_once_s', 'one_by_one_s')),
        f'{run["ratio"]:.1f} ({run["low"]:.1f} to {run["high"]:.1f})',
    ]


def main() -> None:
    """Prints all tables."""
    sides = tuple(f'{side} {name}' for side in ('teacher', 'student') for name in ('ACC', 'ASR'))
    moved = ('new labels right', 'poison removed', 'clean removed')
    clean_acc = {run['seeds']['data']: run['teacher']['acc'] for run in runs_of('none')}
    print_table(
        'The present rule (2026-11-29)',
        (
            'attack',
            'seeds',
            'named',
            'S_ND of 0 (limit .6)',
            'S_D of 0 (limit .05)',
            *moved,
            *sides,
            'ACC under a clean network (points)',
        ),
        [attack_row(attack, clean_acc) for attack in ATTACKS],
        left=5,
    )
    old = RAW / '2026-11-21'
    paths = [RAW / '2026-11-29' / 'missed-warp-11.json']
    paths += [*sorted(old.glob('keep15-*.json')), old / 'cifar10-small.json']
    print_table(
        'Single runs by earlier rules',
        ('run', 'named', 'S_ND of 0', 'S_D of 0', *moved, *sides),
        map(run_row, paths),
        left=4,
    )
    print_table(
        'Speed of all flows at once against one class after another',
        (
            'classes',
            'dimensions',
            'images per class',
            'pairs',
            'at once',
            'one after another',
            'ratio, median (range)',
        ),
        map(flow_row, read_lines(old / 'flows.jsonl')),
        left=0,
    )


if __name__ == '__main__':
    main()
