"""The report: one HTML file that opens from disk, offline, with everything inside."""

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from purify.core.files import write_bytes
from purify.report.amplification import list_amplification
from purify.report.atlas import Atlas, draw_map, say_map
from purify.report.composition import Shown, draw_sets, list_auroc, make_groups, say_dissection
from purify.report.copies import Copies, draw_copies, list_copies, make_triplets, say_copies
from purify.report.densities import draw_foreign, draw_scores, list_tests
from purify.report.detection import list_detection, list_fates
from purify.report.diffusion import draw_filters, list_filters
from purify.report.grids import make_grids
from purify.report.headline import list_targets, write_detail, write_headline
from purify.report.plots import draw_before_after, draw_curves
from purify.report.quality import list_extras, list_likeness, say_likeness
from purify.report.results import is_known
from purify.report.rounds import Pictures, make_heats, make_rounds
from purify.report.sweeps import draw_sweeps
from purify.report.tables import Point, before_after, to_csv, to_html, to_markdown
from purify.report.targets import draw_targets, list_sets, say_chart
from purify.report.words import (
    MISSING,
    flatten,
    say_classes,
    say_command,
    say_duration,
    say_number,
    say_percent,
)

_COST_COLUMNS = {
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


def write_report(
    folder: Path,
    results: Mapping[str, Any],
    curves: Mapping[str, Sequence[Mapping[str, Any]]],
    samples: Sequence[Mapping[str, Any]],
    environment: Mapping[str, Any],
    pictures: Pictures | None = None,
    atlas: Atlas | None = None,
    shown: Shown | None = None,
    copies: Copies | None = None,
) -> Path:
    """Writes `folder/index.html`, whole or not at all, and returns its path.

    `results` is what results.json holds (`purify.report.results`); `curves` the rows of metrics.jsonl by stage; `samples` dicts of
    id, kind ('poisoned', 'clean', or where nobody knows 'flagged', 'other'), `original`, `poisoned`, `purified: u8[h w c]` (all
    but the second may be None), true_label (or None) and given_label; `environment` says what ran where, with the `command` that
    ran it; `pictures` are those that explain a purification (`purify.report.rounds`), `atlas` maps its features
    (`purify.report.atlas`), `shown` are generations (`purify.report.composition.make_groups`), `copies` their likest training
    images (`purify.report.copies`). Raises `UserError` for a folder that cannot be written and for images of another kind.
    """
    classes, facts, known = results.get('classes') or [], results.get('findings') or {}, is_known(results)
    measures = before_after(results)
    drawings = {stage: draw_curves(rows, f'curve{i}') for i, (stage, rows) in enumerate(curves.items())}
    page = render(
        'report.html',
        known=known,
        name=results.get('name') or 'unnamed run',
        headline=write_headline(dict(results)),
        detail=write_detail(dict(results)),
        measures=measures,
        bars=draw_before_after(measures, 'bars'),
        extras=list_extras(results),
        warning=(results.get('prior') or {}).get('warning'),
        galleries=[(kind, *make_grids(samples, kind)) for kind in dict.fromkeys(sample['kind'] for sample in samples)],
        curves={stage: drawing for stage, drawing in drawings.items() if drawing},
        detection=list_detection(results),
        fates=list_fates(results),
        targets=draw_targets(facts, classes, 'targets'),
        targets_note=say_chart(facts),
        sets=list_sets(facts),
        map=draw_map(atlas, classes, 'map'),
        map_note=say_map(atlas, classes) if atlas else '',
        tests=list_tests(facts, list_targets(results) if known else None, classes),
        foreign=draw_foreign(atlas, facts, classes, 'foreign'),
        scores=draw_scores(atlas, facts, classes, 'scores'),
        rounds=make_rounds(pictures, classes),
        heats=make_heats(pictures, classes),
        likeness=list_likeness(results),
        likeness_note=say_likeness(results),
        **_lay_out_generations(results, classes, shown, copies),
        cost=_lay_out_cost(results.get('cost') or {}),
        settings=_list_settings(results, environment),
        command=say_command(environment['command']) if environment.get('command') else None,
    )
    path = Path(folder) / 'index.html'
    write_bytes(path, page)
    return path


def write_table(folder: Path, rows: list[Point]) -> Path:
    """Writes the runs of a sweep as table.md, table.csv and table.html; returns the path of the last."""
    folder = Path(folder)
    page = render(
        'table.html', table=to_html(rows), points=len(rows), runs=sum(row.n for row in rows), lines=draw_sweeps(rows, 'line')
    )
    write_bytes(folder / 'table.md', _encode(to_markdown(rows)))
    write_bytes(folder / 'table.csv', _encode(to_csv(rows)))
    write_bytes(folder / 'table.html', page)
    return folder / 'table.html'


def render(template: str, **values: Any) -> bytes:
    """A page of `templates/` with its values, escaped; UTF-8."""
    return _encode(_make_environment().get_template(template).render(values))


def _encode(text: str) -> bytes:
    """UTF-8; a folder name that is not text (Python reads it with lone surrogates) gets question marks."""
    return text.encode('utf-8', 'replace')


@functools.cache  # compiling the templates takes longer than filling them
def _make_environment() -> Environment:
    """Templates that escape whatever they are given: class names come from folders of strangers."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / 'templates'),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters['units'] = _bind_units
    environment.globals['missing'] = MISSING
    return environment


def _bind_units(text: str) -> Markup:
    """Keeps '99.0 %' on one line."""
    return Markup(str(escape(text)).replace(' %', '\N{NO-BREAK SPACE}%'))


def _lay_out_generations(
    results: Mapping[str, Any], classes: Sequence[str], shown: Shown | None, copies: Copies | None
) -> dict[str, Any]:
    """What there is to say of a generator: what it makes, what it copies, what it takes images for."""
    return {
        'filters': list_filters(results),
        'filter_lines': draw_filters(results, 'filters'),
        'sets_made': draw_sets(results, 'made'),
        'amplification': list_amplification(results),
        'dissection_note': say_dissection(results),
        'groups': make_groups(shown, results),
        'separations': list_auroc(results),
        'copies': list_copies(results),
        'copies_plot': draw_copies(copies, results, 'copies'),
        'copies_note': say_copies(results),
        'triplets': make_triplets(copies, classes),
    }


def _lay_out_cost(cost: Mapping[str, Any]) -> dict[str, Any] | None:
    """Head, a line per stage and the total; columns that no stage filled are left out."""
    stages = cost.get('stages') or {}
    if not stages:
        return None
    columns = [key for key in _COST_COLUMNS if any(stage.get(key) is not None for stage in stages.values())]
    lines = [
        (name, bool(stage.get('reused')), [_COST_COLUMNS[key][1](stage.get(key)) for key in columns])
        for name, stage in stages.items()
    ]
    total = [_COST_COLUMNS[key][1](cost[key]) if cost.get(key) is not None else '' for key in columns]
    return {'head': [_COST_COLUMNS[key][0] for key in columns], 'lines': lines, 'total': total if any(total) else None}


def _list_settings(results: Mapping[str, Any], environment: Mapping[str, Any]) -> dict[str, list[tuple[str, str]]]:
    """Everything needed to run it again, in four lists of (name, text)."""
    attack = dict(results.get('attack') or {})
    for name in {'target', 'targets'} & set(attack):
        attack[name] = say_classes(attack[name], results.get('classes') or [])
    groups = {
        'Attack': attack,
        'Defence': (results.get('defense') or {}) | ({'trusted': results['trusted']} if results.get('trusted') else {}),
        'Prior': {name: value for name, value in (results.get('prior') or {}).items() if name != 'warning'},
        'Run': {'config': results.get('config'), 'seeds': results.get('seeds') or {}},
        'Environment': {name: value for name, value in environment.items() if name != 'command'},
    }
    return {title: pairs for title, group in groups.items() if (pairs := flatten(group))}
