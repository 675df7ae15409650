r"""How often the decisions of DataElixir and relabelling err on made-up datasets; writes
worlds.json and prints the tables.

    PYTHONPATH=.:tests python results/2026-11-29-decision-worlds/table.py [datasets for each cell, \
        20] [first seed, 8000]

The worlds are those of tests/support/worlds.py, the settings the defaults, chosen on worlds of
other seeds (below 1000).
"""

import json
import sys
from pathlib import Path

import numpy as np
from support.worlds import (
    classes_of,
    decide_densities,
    decide_labels,
    density_cases,
    density_world,
    equal,
    label_cases,
    label_world,
    long_tailed,
)

from purify.defenses.dataelixir.target_labels import TARGETS
from purify.defenses.registry import DEFENSES

HERE = Path(__file__).parent
TITLES = {'significant': 'the default', 'mad': "the paper's"}
LABELS = {
    '2 of 500': equal(2, 500),
    '2 of 5000': equal(2, 5000),
    '5 of 200': equal(5, 200),
    '10 of 8': equal(10, 8),
    '10 of 80': equal(10, 80),
    '10 of 1000': equal(10, 1000),
    '10, long-tailed': long_tailed(10, 2000),
    '43, long-tailed': long_tailed(43, 500),
    '62 of 20': equal(62, 20),
    '100 of 500': equal(100, 500),
    '200 of 100': equal(200, 100),
}
DENSITIES = {
    '3 of 200': (equal(3, 200), {}),
    '10 of 80': (equal(10, 80), {}),
    '10 of 500': (equal(10, 500), {'dimensions': 32, 'apart': 8.0}),
    '10 of 500, close': (equal(10, 500), {'apart': 4.0}),
    '10, long-tailed': (long_tailed(10, 500, ratio=10), {}),
    '43 of 60': (equal(43, 60), {'dimensions': 32}),
}
RULES = {
    'significant': TARGETS.part('significant'),
    'mad': TARGETS.part('mad'),
}
NAMES = ('nondisruptive', 'strangers', 'disruptive', 'alpha', 'keep', 'narrow')
RELABEL = {name: DEFENSES.part('relabel')[name] for name in NAMES}


def count(found, targets, words):
    """Of one cell: how often the targets and nothing else were named, the share of targets found,
    how often a name was wrong.
    """
    exact = float(np.mean([set(named) == targets for named in found]))
    hits = (
        float(np.mean([len(set(named) & targets) / len(targets) for named in found]))
        if targets
        else None
    )
    false = float(np.mean([bool(set(named) - targets) for named in found]))
    return {
        'exact': exact,
        'found': hits,
        'false_alarm': false,
        'words': {word: words.count(word) for word in sorted(set(words))},
    }


def main(number, first):
    """All cells, also written to worlds.json."""
    rows = {'labels': {}, 'densities': {}}
    for name, sizes in LABELS.items():
        for case, (changes, targets) in label_cases(sizes).items():
            worlds = [
                label_world(np.random.default_rng(first + seed), sizes, **changes)
                for seed in range(number)
            ]
            for rule, settings in RULES.items():
                facts = [decide_labels(world, settings) for world in worlds]
                words = [one['verdict']['word'] for one in facts]
                rows['labels'].setdefault(rule, {}).setdefault(case, {})[name] = count(
                    [one['target_labels'] for one in facts], targets, words
                )
            assert all(classes_of(world) <= len(sizes) for world in worlds)
        print(name, file=sys.stderr, flush=True)
    for name, (sizes, shape) in DENSITIES.items():
        for case, (changes, targets) in density_cases(sizes).items():
            worlds = [
                density_world(np.random.default_rng(first + seed), sizes, **changes | shape)
                for seed in range(number)
            ]
            tables = [decide_densities(world, RELABEL) for world in worlds]
            cell = count(
                [one.facts['target_labels'] for one in tables],
                targets,
                [one.facts['verdict']['word'] for one in tables],
            )
            pairs = list(zip(tables, worlds, strict=True))
            changed = [
                ((~t['keep'] | (t['labels'] != w.labels)) & ~w.poisoned).sum() / int(sizes[0])
                for t, w in pairs
            ]
            stays = [
                (t['keep'] & (t['labels'] == w.labels))[w.poisoned].mean()
                for t, w in pairs
                if w.poisoned.any()
            ]
            cell |= {
                'clean_changed': float(np.mean(changed)),
                'poison_left': float(np.mean(stays)) if stays else None,
            }
            rows['densities'].setdefault(case, {})[name] = cell
        print(name, file=sys.stderr, flush=True)
    (HERE / 'worlds.json').write_text(
        json.dumps({'datasets': number, 'first_seed': first} | rows, indent=1) + '\n'
    )
    return rows


def show(rows):
    """Prints the tables as they stand in docs/decisions.md."""
    for rule, cases in rows['labels'].items():
        names = list(LABELS)
        print(
            f'\n## DataElixir, rule `{rule}` ({TITLES[rule]})\n\n| dataset | {" | ".join(names)}'
            f' |\n|---|{"--:|" * len(names)}'
        )
        for case, cells in cases.items():
            print(f'| {case} | {" | ".join(tell(cells[name]) for name in names)} |')
    names = list(DENSITIES)
    print(f'\n## Relabelling\n\n| dataset | {" | ".join(names)} |\n|---|{"--:|" * len(names)}')
    for case, cells in rows['densities'].items():
        told = [f'{tell(cells[name])}; {cells[name]["clean_changed"]:.2f}' for name in names]
        print(f'| {case} | {" | ".join(told)} |')


def tell(cell):
    """Targets found / datasets with a false name, and where most were not found the word that was
    said most.
    """
    word = max(cell['words'], key=lambda name: cell['words'][name])
    found = '–' if cell['found'] is None else f'{cell["found"]:.2f}'
    return f'{found} / {cell["false_alarm"]:.2f}' + (
        f' ({word})' if (cell['found'] or 0) < 0.5 else ''
    )


if __name__ == '__main__':
    show(main(*(int(word) for word in sys.argv[1:] + ['20', '8000'][len(sys.argv) - 1 :])))
