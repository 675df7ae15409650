"""Tables of many runs over their seeds, as Markdown, CSV and HTML."""

import csv
import io
import json
from collections.abc import Iterable
from dataclasses import dataclass, field

from markupsafe import Markup
from msgspec import UNSET

from purify.core.errors import UserError
from purify.core.types import Settings
from purify.metrics.intervals import SeedSpread, over_seeds
from purify.report import amplification
from purify.report.before_after import MEASURES
from purify.report.markup import render
from purify.report.results import Results
from purify.report.words import MISSING, say_duration, say_number, say_percent, say_value

_SIDES = ('teacher', 'student', 'repaired', 'guarded')
QUANTITIES = {f'{side}_{name}': f'{side} {name.upper()}' for side in _SIDES for name in MEASURES}
# Columns of a CSV where some run measured them.
_RARE = {f'{side}_{name}' for side in _SIDES[2:] for name in MEASURES}
_FOUND = {'tpr': 'TPR', 'fpr': 'FPR', 'label_accuracy': 'label accuracy'}  # of the part `detection`
_FOUND |= {'relabel_accuracy': 'relabel accuracy', 'auroc': 'AUROC'}
_IMAGES = {'fid': 'FID', 'is': 'IS'}  # of the part `purified`
QUANTITIES |= _FOUND | {'residual_asr': 'residual ASR'} | _IMAGES | amplification.QUANTITIES
QUANTITIES |= {'seconds': 'time'}
# Of a run, by which points are told apart in figures.
FACTS: tuple[str, ...] = ('config', 'attack', 'defense', 'rate', 'guidance')


@dataclass(frozen=True)
class SweepPoint:
    """The runs of one point of a sweep, summed up over seeds.

    `spreads`: `over_seeds` of each quantity, None where unmeasured. `trusted`: how many clean
    images `defense` was handed; such rows get a star. `facts`: the `FACTS` of its first run.
    """

    overrides: Settings
    seeds: list[int]
    spreads: dict[str, SeedSpread | None]
    defense: str = 'none'
    trusted: int = 0
    facts: Settings = field(default_factory=dict)

    @property
    def n(self) -> int:
        """How many runs."""
        return len(self.seeds)


def collect(runs: Iterable[tuple[Settings, int, Results]]) -> list[SweepPoint]:
    """Groups finished runs (overrides, seed, results) by point, in order of first appearance.

    Every quantity gets n, mean, range and Student-t interval over the seeds that measured it.
    Raises `UserError` when a seed of a point comes twice: it would count one run as two.
    """
    groups: dict[str, tuple[Settings, dict[int, Results]]] = {}
    for overrides, seed, results in runs:
        key = json.dumps(overrides, sort_keys=True, default=str)
        _, by_seed = groups.setdefault(key, (dict(overrides), {}))
        if seed in by_seed:
            raise UserError(
                f'seed {seed} of {_say_point(overrides)} is given twice. Leave one of the two runs'
                ' out.'
            )
        by_seed[seed] = results
    return [_make_point(overrides, by_seed) for overrides, by_seed in groups.values()]


def _make_point(overrides: Settings, by_seed: dict[int, Results]) -> SweepPoint:
    seeds, runs = list(by_seed), list(by_seed.values())
    first, trusted = runs[0], max((run.trusted.images for run in runs if run.trusted), default=0)
    guidance = first.dissection.guidance if first.dissection else None
    own = (first.config, first.attack.name, first.defender, first.attack.rate, guidance)
    facts = dict(zip(FACTS, own, strict=True))
    return SweepPoint(overrides, seeds, _summarise(runs), first.defender, trusted, facts)


def to_markdown(rows: list[SweepPoint]) -> str:
    """Makes a Markdown table of points: 'mean (range) [interval]' of what was measured."""
    head, body, texts = _lay_out(rows)
    lines = [head, [':--' if i < texts else '--:' for i in range(len(head))]]
    lines += [[' '.join(cell) for cell in line] for line in body]
    note = _say_trusted(rows)
    table = ''.join('| ' + ' | '.join(map(_escape_markdown, line)) + ' |\n' for line in lines)
    return f'{table}\n\\{note}.\n' if note else table


def to_csv(rows: list[SweepPoint]) -> str:
    """Makes a CSV of raw numbers: the same columns for every sweep, empty where not measured.

    Columns of repaired and guarded classifiers are there where a run has one.
    """
    out = io.StringIO()
    there = {name for name in QUANTITIES if any(row.spreads[name] for row in rows)}
    quantities = [name for name in QUANTITIES if name not in _RARE or name in there]
    names = list(dict.fromkeys(name for row in rows for name in row.overrides))
    fields = ['n', 'mean', 'min', 'max', 'low', 'high']
    columns = [f'{quantity}_{field}' for quantity in quantities for field in fields]
    writer = csv.writer(out, lineterminator='\n')
    writer.writerow([*names, 'runs', 'seeds', 'trusted', *columns])
    for row in rows:
        cells = [row.overrides.get(name, '') for name in names]
        cells += [row.n, ' '.join(map(str, row.seeds)), row.trusted]
        for quantity in quantities:
            # csv writes None as nothing.
            cells += [getattr(row.spreads[quantity], field, None) for field in fields]
        writer.writerow(cells)
    return out.getvalue()


def to_html(rows: list[SweepPoint]) -> Markup:
    """Makes the table of `to_markdown` as an escaped HTML `<table>`."""
    head, body, texts = _lay_out(rows)
    return render('runs.html', head=head, body=body, texts=texts, note=_say_trusted(rows))


def read_quantities(results: Results) -> dict[str, float]:
    """Lists the numbers of `QUANTITIES` that a run measured."""
    values = {name: getattr(results.detection, name) for name in _FOUND}
    for side, found in {'teacher': results.teacher, **results.outcomes}.items():
        values |= {f'{side}_{name}': getattr(found, name) for name in MEASURES} if found else {}
    if results.purified:
        values |= {'fid': results.purified.fid, 'is': results.purified.inception}
    if results.student and results.student.residual_asr is not UNSET:
        values['residual_asr'] = results.student.residual_asr
    values |= {'seconds': results.cost.seconds} | amplification.read_set_quantities(results)
    return {name: value for name in QUANTITIES if (value := values.get(name)) is not None}


def _summarise(runs: list[Results]) -> dict[str, SeedSpread | None]:
    """`over_seeds` of each quantity over the runs that have it."""
    every = [read_quantities(run) for run in runs]
    values = {name: [run[name] for run in every if name in run] for name in QUANTITIES}
    return {name: over_seeds(numbers) if numbers else None for name, numbers in values.items()}


def _lay_out(rows: list[SweepPoint]) -> tuple[list[str], list[list[list[str]]], int]:
    """Head and body of the readable table, and how many columns hold words.

    Unmeasured quantities are left out. A cell is a list: the value, then what is said about it.
    """
    names = list(dict.fromkeys(name for row in rows for name in row.overrides))
    shown = [name for name in QUANTITIES if any(row.spreads[name] for row in rows)]
    body = []
    for row in rows:
        own = {name: say_value(value) for name, value in row.overrides.items()}
        cells = [[own.get(name, MISSING)] for name in names]
        named = [i for i, cell in enumerate(cells) if row.defense in cell[0]]
        cells += [[str(row.n)], *(_say_spread(name, row) for name in shown)]
        if row.trusted:
            # At the name of the defence, or where the row begins.
            cells[(named or [0])[0]][0] += '*'
        body.append(cells)
    return [*names, 'runs', *(QUANTITIES[name] for name in shown)], body, len(names)


def _say_spread(name: str, row: SweepPoint) -> list[str]:
    """['99.0 %', '(98.5 to 99.4 %)', '[97.9 to 100 %]']: mean, range and interval over seeds."""
    spread, say = row.spreads[name], _SAID.get(name, _say_share_of_one)
    if spread is None:
        return [MISSING]
    parts = [say(spread.mean)]
    if spread.n > 1:
        pairs = [('({} to {})', spread.min, spread.max), ('[{} to {}]', spread.low, spread.high)]
        parts += [form.format(say(low).removesuffix(' %'), say(high)) for form, low, high in pairs]
    if spread.n < row.n:
        parts.append(f'{spread.n} of {row.n} runs')
    return parts


def _say_share_of_one(value: float) -> str:
    """A percentage; Student's t knows no bounds, a share does."""
    return say_percent(min(max(value, 0.0), 1.0))


_SAID = {'seconds': say_duration} | dict.fromkeys((*_IMAGES, *amplification.NUMBERS), say_number)


def _say_trusted(rows: list[SweepPoint]) -> str:
    """What the star means: how many clean images defences were handed; '' where none was."""
    counts = dict.fromkeys(f'{row.trusted:,} ({row.defense})' for row in rows if row.trusted)
    return f'* was handed training images as clean ones: {", ".join(counts)}' if counts else ''


def _say_point(overrides: Settings) -> str:
    return ' '.join(f'{name}={value}' for name, value in overrides.items()) or 'the only point'


def _escape_markdown(text: str) -> str:
    clean = ' '.join(text.split()).replace('\\', '\\\\').replace('|', '\\|')
    return clean.replace('&', '&amp;').replace('<', '&lt;').replace('>', '&gt;')
