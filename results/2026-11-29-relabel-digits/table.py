"""The table of the README from the results.json files beside this script: python table.py [seeds,
such as 11,12,13].
"""

import json
import re
import sys
from pathlib import Path

import numpy as np

NAME = re.compile(r'(patch|blended|warp|label_consistent|none)-(\d+)')
SEEDS = {int(seed) for seed in (sys.argv[1] if len(sys.argv) > 1 else '11,12,13,14,15').split(',')}
runs: dict[str, dict[int, dict]] = {}
for path in sorted(Path(__file__).parent.glob('*.json')):
    if (match := NAME.fullmatch(path.stem)) and int(match[2]) in SEEDS:
        runs.setdefault(match[1], {})[int(match[2])] = json.loads(path.read_text())


def say(values, digits=1, unit=' %', scale=100):
    """Mean (smallest to largest)."""
    known = [scale * value for value in values if value is not None]
    if not known:
        return '–'
    spread = (
        f' ({min(known):.{digits}f} to {max(known):.{digits}f})' if max(known) > min(known) else ''
    )
    return f'{np.mean(known):.{digits}f}{unit}{spread}'


for attack in sorted(runs, key=['patch', 'blended', 'warp', 'label_consistent', 'none'].index):
    some = runs[attack]
    found = [run['detection'] for run in some.values()]
    named = {
        ', '.join(f'{label} {kind}' for label, kind in run['findings']['types'].items())
        or run['findings']['verdict']['word']
        for run in some.values()
    }
    clean = [
        runs['none'][seed]['teacher']['acc'] if seed in runs.get('none', {}) else None
        for seed in some
    ]
    behind = [
        a - run['student']['acc']
        for a, run in zip(clean, some.values(), strict=True)
        if a is not None
    ]
    scores = [[row['nd'] for row in run['findings']['labels']] for run in some.values()]
    tails = [[row['disruptive'] for row in run['findings']['labels']] for run in some.values()]
    first = [row[0] for row in scores], [row[0] for row in tails]
    rest = min(min(row[1:]) for row in scores), max(max(row[1:]) for row in tails)
    cells = [
        f'`{attack}`',
        str(len(some)),
        '; '.join(sorted(named)),
        f'{say(first[0], 2, "", 1)}; others from {rest[0]:.2f}',
        f'{say(first[1], 2, "", 1)}; others to {rest[1]:.2f}',
        say([row['relabel_accuracy'] for row in found]),
        say([row['removed']['tpr'] for row in found]),
        say([row['removed']['fpr'] for row in found]),
        *(
            say([run[side][name] for run in some.values()])
            for side in ('teacher', 'student')
            for name in ('acc', 'asr')
        ),
        say(behind, 1, ''),
    ]
    print('| ' + ' | '.join(cells) + ' |')
