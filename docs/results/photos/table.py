"""Prints the tables of this page from the files in raw/."""

import itertools
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from tables import print_table, read_lines

RAW = Path(__file__).parent / 'raw'
STEPS = (50, 100, 150, 200, 300, 400)
OTHERS = ('blur', 'non-local means')


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


def measured(data: str, what: str) -> list[dict[str, Any]]:
    """The measurements of one kind on one dataset."""
    lines = read_lines(RAW / 'photo_prior.jsonl')
    return [line for line in lines if (line['data'], line['what']) == (data, what)]


def datasets() -> list[str]:
    """The datasets, as they come."""
    return list(dict.fromkeys(line['data'] for line in read_lines(RAW / 'photo_prior.jsonl')))


def call_rows() -> list[list[str]]:
    """What one call makes of noised images, by timestep."""
    rows = []
    for data in datasets():
        found = {line['timestep']: line['psnr'] for line in measured(data, 'one call')}
        rows.append([data, *decibels(found.values())])
    return rows


def round_rows() -> list[list[str]]:
    """What one round makes of images, and of each start the blurs of the same PSNR."""
    rows = []
    for data in datasets():
        for line in measured(data, 'round'):
            cells = [data, str(line['start']), f'{line["psnr"]:.1f}', percent(line['same_answer'])]
            for kind in OTHERS:
                (other,) = (row for row in measured(data, kind) if row['like'] == line['start'])
                cells.append(f'{percent(other["same_answer"])} ({other["psnr"]:.1f})')
            rows.append(cells)
    return rows


def main() -> None:
    """Prints all tables."""
    head = ['channels', 'predicts', 'optimiser', 'rate', 'parameters', 'steps', 'processor s']
    head += [f't = {t}' for t in STEPS]
    print_table('Short trainings: PSNR of one call', head, trial_rows(), 3)
    print_table('The final training', ['steps', 'loss'], curve_rows())
    times = [str(line['timestep']) for line in measured(datasets()[0], 'one call')]
    print_table('PSNR of one call, by timestep', ['data', *times], call_rows())
    head = ['data', 'T', 'PSNR', 'same answer', *(f'{kind} (PSNR)' for kind in OTHERS)]
    print_table('One round of photos32, and blurs of the same PSNR', head, round_rows())


if __name__ == '__main__':
    main()
