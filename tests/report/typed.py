"""Plain data of tests as the types that a report is made from."""

import msgspec

from purify.report.findings import Findings
from purify.report.results import Results

BLANK = {
    'version': 1,
    'name': 'run',
    'config': 'run',
    'seeds': {'poison': 0, 'model': 0, 'data': 0},
    'defense': {'name': 'none'},
    'attack': {'name': 'none', 'rate': 0.0, 'poisoned': 0, 'train_images': 100},
    'classes': [],
    'teacher': None,
    'student': None,
    'detection': dict.fromkeys(('tpr', 'fpr', 'target_labels', 'label_accuracy')),
    'cost': {'stages': {}, 'seconds': None, 'device_seconds': None},
}


def typed(value):
    """A results.json as `Results`; parts that a test leaves out, or sets to None, are those of a
    run without anything.
    """
    filled = BLANK | {
        name: part
        for name, part in value.items()
        if part is not None or name not in BLANK or BLANK[name] is None
    }
    for name in ('detection', 'cost'):
        filled[name] = BLANK[name] | filled[name]
    return msgspec.convert(filled, Results)


def findings_of(value):
    """The facts of a method's verdicts as `Findings`."""
    return msgspec.convert(value, Findings)


def typed_runs(runs):
    """Runs of a sweep (point, seed, results.json), their results as `Results`."""
    return [(point, seed, typed(value)) for point, seed, value in runs]


def list_lost(value, kept, place=''):
    """Where a JSON value holds what another one does not."""
    if isinstance(value, dict) and isinstance(kept, dict):
        for key, inner in value.items():
            yield from (
                list_lost(inner, kept[key], f'{place}.{key}') if key in kept else [f'{place}.{key}']
            )
    elif isinstance(value, list) and isinstance(kept, list) and len(value) == len(kept):
        for inner, other in zip(value, kept, strict=True):
            yield from list_lost(inner, other, place)
    elif value != kept:
        yield place
