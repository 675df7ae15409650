"""The table of the README from results.json files: python table.py [folder; without, the script's
own].
"""

import json
import re
import sys
from pathlib import Path

import numpy as np

NAME = re.compile(r'(patch|blended|dct|warp|none)(?:-(10|02|01))?-\d+')
runs: dict[tuple[str, str], list] = {}
for path in sorted(
    Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parent).glob('*.json')
):
    if match := NAME.fullmatch(path.stem):
        runs.setdefault((match[2] or '', match[1]), []).append(json.loads(path.read_text()))


def say(values, digits=1):
    """Mean (smallest to largest), in per cent."""
    known = [100 * value for value in values if value is not None]
    if not known:
        return '–'
    spread = (
        f' ({min(known):.{digits}f} to {max(known):.{digits}f})' if max(known) > min(known) else ''
    )
    return f'{np.mean(known):.{digits}f} %{spread}'


for rate, attack in sorted(runs, key=lambda key: (['10', '02', '01', ''].index(key[0]), key[1])):
    some = runs[rate, attack]
    found = [run['detection'] for run in some]
    named = {' '.join(map(str, row['target_labels'])) or 'none' for row in found}
    columns = [(side, name) for side in ('teacher', 'benign', 'student') for name in ('acc', 'asr')]
    sides = [[run[side] and run[side][name] for run in some] for side, name in columns]
    cells = [
        f'`{attack}`' + (f', .{rate}' if rate else ''),
        str(len(some)),
        ', '.join(sorted(named)),
    ]
    cells += [
        say([row['tpr'] for row in found]),
        say([row['fpr'] for row in found], 2),
        say([row['label_accuracy'] for row in found]),
    ]
    print('| ' + ' | '.join(cells + [say(side) for side in sides]) + ' |')
