"""Prints the tables of this page from the files in raw/."""

import itertools
import sys
from collections.abc import Iterable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from tables import print_table, read_json, read_lines, say_part

RAW = Path(__file__).parent / 'raw'
STEPS = (50, 100, 150, 200, 300, 400)


def decibels(values: Iterable[float | None]) -> list[str]:
    """PSNRs as cells."""
    return ['–' if value is None else f'{value:.1f}' for value in values]


def percent(share: float) -> str:
    """A share as a cell."""
    return f'{100 * share:.1f} %'


def trial_rows() -> list[list[str]]:
    """One row for each short training."""
    rows = []
    for trial in read_lines(RAW / 'prior_trials.jsonl'):
        cells = [trial['channels'].replace('-', ', '), trial['prediction'], trial['optimizer']]
        cells += [f'{trial["lr"]:g}', f'{trial["parameters"] / 1e6:.1f} M', str(trial['steps'])]
        cells += [str(trial['processor_seconds'])]
        rows.append(cells + decibels(trial['psnr'].get(str(t)) for t in STEPS))
    return rows


def curve_rows() -> list[list[str]]:
    """The mean loss of parts of the final training."""
    curve = read_lines(RAW / 'photos32-curve.jsonl')
    edges = [0, 200, 500, 1000, 2000, 3000, 4000, 5000, curve[-1]['step']]
    rows = []
    for first, last in itertools.pairwise(edges):
        losses = [row['loss'] for row in curve if first < row['step'] <= last]
        rows.append([f'{first + 1} to {last}', f'{sum(losses) / len(losses):.4f}'])
    return rows


def survival_rows() -> list[list[str]]:
    """What a poisoned teacher says of varied training images, by attack and chain."""
    folder = RAW / '2026-12-01-tuning'
    lines = read_lines(folder / 'survival.jsonl') + read_lines(folder / 'survival-blended.jsonl')
    rows = []
    for line in {(line['attack'], line['chain']): line for line in lines}.values():
        sampler, start, steps = [*line['chain'].split(':'), '', ''][:3]
        shares = [percent(line[name]) for name in ('target', 'true_poisoned', 'true_others')]
        attack = f'{line["attack"]}, {line["seed"]}'
        rows.append([attack, sampler, start or '–', steps or '–', *shares])
    return rows


def tuning_rows() -> list[list[str]]:
    """One row for each student of the tuning."""
    rows = []
    for run in read_lines(RAW / '2026-12-01-tuning' / 'students.jsonl'):
        cells = [f'{run["attack"]}, {run["seed"]}', run['start'], run['steps'], run['copies']]
        cells += ['on' if run['colour_transfer'] else 'off', run['alpha'], f'{run["epochs"]:g}']
        cells += [percent(run['teacher'][name]) for name in ('acc', 'asr')]
        cells += [percent(run['student'][name]) for name in ('acc', 'asr', 'ra')]
        rows.append([str(cell) for cell in cells])
    return rows


def report_rows(folder: str) -> list[list[str]]:
    """One row for each run of the quickstart whose results.json lies in that folder of raw/."""
    rows = []
    for path in sorted((RAW / folder).glob('*.json')):
        run = read_json(path)
        cells = [run['attack']['name'], str(run['seeds']['poison'])]
        cells += [say_part(run['teacher'], name) for name in ('acc', 'asr')]
        cells += [say_part(run['student'], name) for name in ('acc', 'asr', 'ra')]
        rows.append([*cells, f'{run["cost"]["seconds"] / 60:.0f} min'])
    return rows


def network_rows() -> list[list[str]]:
    """One row for each network that was trained as a teacher, by data."""
    rows = []
    for run in read_lines(RAW / '2026-12-01-networks' / 'networks.jsonl'):
        cells = [run['network'], run['data'], f'{run["training_images"]:,}', f'{run["epochs"]:g}']
        cells += [f'{run["attack"]}, {run["seed"]}' if run['rate'] else f'none, {run["seed"]}']
        cells += [f'{run["seconds"] / 60:.1f} min', say_part(run['teacher'], 'acc')]
        asr = say_part(run['teacher'], 'asr') if run['attack'] != 'none' else '–'
        rows.append([*cells, asr])
    return rows


def main() -> None:
    """Prints all tables."""
    sides = ['teacher ACC', 'teacher ASR', 'student ACC', 'student ASR', 'student RA']
    head = ['attack', 'seed', *sides, 'run']
    print_table('The quickstart', head, report_rows('2026-12-01-quickstart'))
    print_table('The same with alpha = .9', head, report_rows('2026-12-01-with-labels'))
    head = ['attack, seed', 'T', 'steps', 'copies', 'colour transfer', 'alpha', 'epochs']
    print_table('Students of the tuning', [*head, *sides], tuning_rows())
    head = ['channels', 'predicts', 'optimiser', 'rate', 'parameters', 'steps', 'processor s']
    head += [f't = {t}' for t in STEPS]
    print_table('Short trainings: PSNR of one call', head, trial_rows(), 3)
    print_table('The final training', ['steps', 'loss'], curve_rows())
    head = ['network', 'data', 'images', 'epochs', 'attack, seed', 'time of a core', 'ACC', 'ASR']
    print_table('Networks', head, network_rows(), 2)
    head = ['attack, seed', 'sampler', 'T', 'steps']
    head += ['poisoned: target', 'poisoned: true', 'others: true']
    print_table('What a teacher says of varied training images', head, survival_rows())


if __name__ == '__main__':
    main()
