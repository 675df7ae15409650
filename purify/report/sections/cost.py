"""What the stages cost: time, throughput, network calls."""

from purify.report.markup import Section, fill
from purify.report.results import RunCost, StageCost
from purify.report.run import Finished
from purify.report.words import say_duration, say_number, say_percent

_COLUMNS = {
    'seconds': ('time', say_duration),
    'device_seconds': ('device time', say_duration),
    'devices': ('devices', say_number),
    'images_per_s': ('images/s', say_number),
    'images_per_s_per_device': ('images/s per device', say_number),
    'network_calls': ('network calls', say_number),
    'network_calls_per_s': ('network calls/s', say_number),
    'compile_seconds': ('compiling', say_duration),
    'programs': ('programs', say_number),
    'from_cache': ('found in the cache', say_number),
    'wait_share': ('waiting for data', say_percent),
    'mfu': ('MFU', say_percent),
}


def section(run: Finished) -> Section | None:
    """Shows a line per stage and the total; columns that no stage filled are left out."""
    cost, stages = run.results.cost, run.results.cost.stages
    if not stages:
        return None
    filled = lambda key: any(getattr(stage, key) is not None for stage in stages.values())
    columns = [key for key in _COLUMNS if filled(key)]
    lines = []
    for name, stage in stages.items():
        lines.append((name, stage.reused, [_say_cost(stage, key) for key in columns]))
    total = [
        _say_cost(cost, key) if getattr(cost, key, None) is not None else '' for key in columns
    ]
    head = [_COLUMNS[key][0] for key in columns]
    return fill('cost', 'Cost', head=head, lines=lines, total=total if any(total) else None)


def _say_cost(cost: StageCost | RunCost, key: str) -> str:
    return _COLUMNS[key][1](getattr(cost, key))
