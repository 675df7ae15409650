"""Holds the verdicts of DataElixir runs that differ in network evaluations against the truth and
against the run named last. Prints one line of JSON for each run.

    python tests/tools/evaluation_curve.py STORE RUN [RUN ...] EXACT_RUN

The runs are work folders, all made with --store STORE.
"""

import json
import sys
from pathlib import Path

import numpy as np

from purify.attacker.manifest import Manifest
from purify.core.files import read_json
from purify.engine.tables import read_table
from purify.metrics.detection import detection_rates

store, *runs = map(Path, sys.argv[1:])
found = {}
for run in runs:
    prints = read_json(run / 'environment.json')['fingerprints']
    table = read_table(store / f'verdicts-{prints["verdicts"]}')
    manifest = Manifest.read(store / f'prepare-{prints["prepare"]}' / 'truth')
    rates = detection_rates(table['ids'], table['flagged'], manifest.ids[manifest.poisoned])
    part = read_json(run / 'config.json')['defense']
    seconds = read_json(store / f'candidates-{prints["candidates"]}' / 'DONE')['cost']['seconds']
    found[run.name] = (
        table,
        {
            'run': run.name,
            'steps': part['steps'],
            'kept': part['kept'],
            'evaluations_per_image': part['rounds'] * part['steps'],
            'tpr': rates.tpr.value,
            'fpr': rates.fpr.value,
            'targets': table.facts['target_labels'],
            'sets': table.facts['sets'],
            'candidates_seconds': seconds,
        },
    )
last = found[runs[-1].name][0]
for table, row in found.values():
    flags, labels = table.of(last['ids'], 'flagged', False), table.of(last['ids'], 'labels', 0)
    row['same_verdict'] = float(np.mean(flags == last['flagged']))
    row['same_label'] = float(np.mean(labels == last['labels']))
    print(json.dumps(row))
