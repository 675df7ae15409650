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
    'wait_share': ('waiting for data', say_percent),
    'mfu': ('MFU', say_percent),
}


def section(run: Finished) -> Section | None:
    """A line per stage and the total; columns that no stage filled are left out."""
    cost = run.results.cost
    if not cost.stages:
        return None
    columns = [
        key
        for key in _COLUMNS
        if any(getattr(stage, key) is not None for stage in cost.stages.values())
    ]
    lines = [
        (name, stage.reused, _say_costs(stage, columns)) for name, stage in cost.stages.items()
    ]
    total = [
        text if getattr(cost, key, None) is not None else ''
        for key, text in zip(columns, _say_costs(cost, columns), strict=True)
    ]
    return fill(
        'cost',
        'Cost',
        head=[_COLUMNS[key][0] for key in columns],
        lines=lines,
        total=total if any(total) else None,
    )


def _say_costs(cost: StageCost | RunCost, columns: list[str]) -> list[str]:
    return [_COLUMNS[key][1](getattr(cost, key, None)) for key in columns]
