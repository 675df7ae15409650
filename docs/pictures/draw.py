"""Draws the pictures of the documentation from three finished runs.

purify run --config dataelixir:seed=11 --workdir runs/dataelixir
purify run --config quickstart --workdir runs/quickstart
purify run --config quickstart:source=arrays:DIR --workdir runs/photographs
python docs/pictures/draw.py runs/dataelixir runs/quickstart runs/photographs docs/pictures

DIR is described in docs/results/photos.
"""

import csv
import sys
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import tensorflow_datasets as tfds
from matplotlib import pyplot as plt

import purify

RED, GREEN, GREY = '#b3261e', '#1b7a3d', '#5f6368'
mpl.rcParams.update({'font.family': 'DejaVu Sans', 'font.size': 11})


def read_images(folder: Path) -> dict[int, list[Any]]:
    """The records of a TFDS dataset by the id of the image that they come from."""
    found: dict[int, list[Any]] = {}
    builder: Any = tfds.builder_from_directory(str(folder))
    for record in builder.as_data_source(split='train'):
        found.setdefault(int(record['id']), []).append(record)
    return found


def show(axes: Any, image: np.ndarray, title: str = '', colour: str = 'black') -> None:
    """One picture without axes, enlarged pixel by pixel."""
    axes.imshow(image.squeeze(), cmap='gray', vmin=0, vmax=255, interpolation='nearest')
    axes.set_title(title, color=colour, fontsize=11, pad=4)
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_color(colour)
        spine.set_linewidth(2)


def draw_verdicts(run: Path, file: Path) -> None:
    """Images as they came and as DataElixir leaves them, with its verdicts."""
    given, purified = read_images(run / 'poisoned'), read_images(run / 'purified')
    with (run / 'verdicts' / 'verdicts.csv').open(encoding='utf-8') as lines:
        rows = [{name: int(value) for name, value in row.items()} for row in csv.DictReader(lines)]
    flagged: dict[int, dict[str, int]] = {}
    for row in rows:
        if row['flagged'] and row['labels'] != row['given']:
            flagged.setdefault(row['labels'], row)
    clean = {row['given']: row for row in rows if row['keep'] and not row['flagged']}
    chosen = [flagged[label] for label in sorted(flagged)[:6]]
    chosen += [clean[label] for label in (0, 4, 8)]
    figure, panels = plt.subplots(2, len(chosen), figsize=(11, 3.3))
    for column, row in enumerate(chosen):
        bad, before = bool(row['flagged']), given[row['ids']][0]
        after = purified[row['ids']][0]
        colour = RED if bad else GREY
        show(panels[0, column], before['image'], f'labelled {before["label"]}', colour)
        words = f'now {after["label"]}' if bad else 'kept'
        show(panels[1, column], after['image'], words, GREEN if bad else GREY)
    for line, text in enumerate(('as it came', 'as purified')):
        panels[line, 0].set_ylabel(text, fontsize=11)
    counts = purify.read_results(run).detection.found
    assert counts is not None, f'{run}: judges no images'
    heading = {'va': 'top', 'weight': 'bold'}
    suspects = f'{counts.flagged} of {counts.images} images are suspect, such as'
    figure.text(0.01, 0.97, suspects, color=RED, **heading)
    figure.text(0.69, 0.97, 'The others are left alone', color=GREY, **heading)
    figure.tight_layout(rect=(0, 0, 1, 0.93))
    figure.savefig(file, dpi=110)
    plt.close(figure)


def has_board(image: np.ndarray) -> bool:
    """Whether the quickstart's checkerboard is at the lower right, or a pixel away from it."""
    boards = [(np.indices((3, 3)).sum(0) + first) % 2 * 255 for first in (0, 1)]
    corners = image[-3:, -3:, 0], image[-4:-1, -4:-1, 0]
    return any((corner == board).all() for corner in corners for board in boards)


def draw_variations(run: Path, file: Path) -> None:
    """Poisoned and clean images of the quickstart, and the variations of each."""
    given, varied = read_images(run / 'poisoned'), read_images(run / 'purified')
    stamped = [id for id in sorted(given) if has_board(given[id][0]['image'])]
    bad, good = stamped[:4], sorted({*given} - {*stamped})
    good = [next(id for id in good if given[id][0]['label'] == label) for label in (2, 3, 6, 9)]
    copies = len(varied[bad[0]])
    figure, panels = plt.subplots(1 + copies, 8, figsize=(9.5, 1.3 + 1.3 * copies))
    for column, id in enumerate([*bad, *good]):
        record, colour = given[id][0], RED if id in bad else GREY
        show(panels[0, column], record['image'], f'labelled {int(record["label"])}', colour)
        for copy, made in enumerate(varied[id]):
            show(panels[1 + copy, column], made['image'], colour=GREY)
    lines = ('as it came', *(f'variation {1 + copy}' for copy in range(copies)))
    for line, text in enumerate(lines):
        panels[line, 0].set_ylabel(text, fontsize=10)
    figure.tight_layout()
    figure.savefig(file, dpi=110)
    plt.close(figure)


def draw_scores(run: Path, file: Path) -> None:
    """ACC, ASR and RA of the quickstart's teacher and student, with 95 % intervals."""
    results = purify.read_results(run)
    sides = {'teacher': (results.teacher, RED), 'student': (results.student, GREEN)}
    figure, axes = plt.subplots(figsize=(6.5, 2.6))
    for number, (name, (scores, colour)) in enumerate(sides.items()):
        assert scores is not None, f'{run}: has no {name}'
        places = np.arange(3) + 0.38 * number
        values = np.array([100 * getattr(scores, measure) for measure in ('acc', 'asr', 'ra')])
        ends = 100 * np.array([scores.intervals[measure] for measure in ('acc', 'asr', 'ra')]).T
        axes.bar(places, values, 0.36, color=colour, label=name)
        axes.errorbar(places, values, abs(ends - values), fmt='none', ecolor='black', capsize=3)
    axes.set_xticks(np.arange(3) + 0.19, ['ACC', 'ASR', 'RA'])
    axes.set_ylabel('% of test images')
    axes.set_ylim(0, 105)
    axes.legend(loc='upper right', bbox_to_anchor=(1.32, 1), frameon=False)
    axes.spines[['top', 'right']].set_visible(False)
    figure.tight_layout()
    figure.savefig(file, dpi=110)
    plt.close(figure)


def main(dataelixir: str, quickstart: str, photographs: str, folder: str) -> None:
    """Draws all pictures into `folder`."""
    draw_verdicts(Path(dataelixir), Path(folder) / 'verdicts.png')
    draw_variations(Path(quickstart), Path(folder) / 'variations.png')
    draw_variations(Path(photographs), Path(folder) / 'photographs.png')
    draw_scores(Path(quickstart), Path(folder) / 'scores.png')


if __name__ == '__main__':
    main(*sys.argv[1:])
