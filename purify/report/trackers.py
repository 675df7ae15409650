"""The results of a run in the form that experiment trackers take: numbers by name, and tables."""

from msgspec.structs import asdict

from purify.core.writers import Cell, Sheet
from purify.report.before_after import before_after
from purify.report.results import Results
from purify.report.tables import read_quantities

_COST = ('seconds', 'device_seconds', 'images_per_s', 'network_calls', 'mfu')  # of a stage
_FOUND = ('tpr', 'fpr', 'label_accuracy', 'relabel_accuracy', 'auroc')  # of the part `detection`


def list_numbers(results: Results) -> dict[str, float]:
    """Lists the numbers of tables of many runs, and the seconds of stages as cost/<stage>."""
    numbers = read_quantities(results)
    for name, stage in results.cost.stages.items():
        numbers |= {} if stage.seconds is None else {f'cost/{name}': stage.seconds}
    return numbers


def make_sheets(results: Results) -> list[Sheet]:
    """Makes tables of ACC, ASR and RA before and after, what the defence found, and the costs."""
    columns, rows = ['measure'], []
    for side in ('before', 'after'):
        columns += [side, f'{side}, from', f'{side}, to']
    for measure in before_after(results):
        row: list[Cell] = [measure.title]
        for reading in (measure.before, measure.after):
            row += [None] * 3 if reading is None else [reading.value, reading.low, reading.high]
        rows.append(row)
    # What is None was not measured, or needs a truth that nobody knows.
    found = results.detection.found
    findings: list[list[Cell]] = [[name, getattr(results.detection, name)] for name in _FOUND]
    findings += [[name, count] for name, count in asdict(found).items()] if found else []
    stages = results.cost.stages.items()
    cost = [[name, *(getattr(stage, key) for key in _COST)] for name, stage in stages]
    return [
        Sheet('before_after', columns, rows),
        Sheet('detection', ('quantity', 'value'), findings),
        Sheet('cost', ('stage', *_COST), cost),
    ]
