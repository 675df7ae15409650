"""Says which target labels DataElixir named in some runs. Prints one line of JSON for each run.

    python tests/tools/named_targets.py STORE RUN [RUN ...]

The runs are work folders, all made with --store STORE; their stage `targets` is finished.
"""

import json
import sys
from pathlib import Path

from purify.core.files import read_json
from purify.engine.tables import read_table

store, *runs = map(Path, sys.argv[1:])
for run in runs:
    config = read_json(run / 'config.json')
    prints = read_json(run / 'environment.json')['fingerprints']
    facts = read_table(store / f'targets-{prints["targets"]}').facts
    attack, seed = config['attack'], config['seeds']['poison']
    row = {'attack': attack['name'], 'rate': attack['rate'], 'seed': seed}
    row['evaluations_per_image'] = config['defense']['rounds'] * config['defense']['steps']
    row |= {'targets': facts['target_labels'], 'verdict': facts['verdict']['word']}
    print(json.dumps(row))
