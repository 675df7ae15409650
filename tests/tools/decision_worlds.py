r"""Counts how often the decisions of DataElixir and relabelling err on made-up datasets, and writes
the counts as JSON.

    PYTHONPATH=.:tests python tests/tools/decision_worlds.py OUT.json [datasets per cell, 20] \
        [first seed, 8000] [candidates of an image, 25]

With another number of candidates relabelling, which has none, is left out. The datasets are those
of tests/support/worlds.py. The settings are the defaults, which were chosen on datasets with other
seeds (below 1000). docs/results/decision-worlds/table.py makes the tables.
"""

import json
import sys
from pathlib import Path

import numpy as np
from support import worlds as made
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


def main(out, number=20, first=8000, candidates=made.CANDIDATES):
    """Counts all cells and writes them to `out`."""
    densities, made.CANDIDATES = (DENSITIES if candidates == made.CANDIDATES else {}), candidates
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
    for name, (sizes, shape) in densities.items():
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
    facts = {'datasets': number, 'first_seed': first, 'candidates': candidates}
    out.write_text(json.dumps(facts | rows, indent=1) + '\n')


if __name__ == '__main__':
    main(Path(sys.argv[1]), *map(int, sys.argv[2:]))
