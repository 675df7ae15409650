"""The command `report`: a finished run's report again, or one table of all runs below a folder."""

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import msgspec

from purify.commands.call import Call
from purify.commands.plan import make_stages
from purify.commands.record import read_record
from purify.core.errors import UserError
from purify.core.files import user_path
from purify.core.progress import say
from purify.core.types import Settings
from purify.core.writers import Writer
from purify.engine.chain import Chain
from purify.evaluation.results import gather, gather_run
from purify.report.before_after import Screen, print_before_after
from purify.report.page import write_report, write_runs_page
from purify.report.results import Point, Results, read_results, read_typed
from purify.report.sections.detection import FOUND, list_detection
from purify.report.tables import SweepPoint, collect, to_markdown
from purify.report.trackers import list_numbers, make_sheets

POINT_FILE = 'point.json'


def conclude(
    workdir: Path,
    config: Settings,
    chain: Chain,
    environment: Settings,
    *,
    reused: Mapping[str, bool] | None = None,
    writers: Sequence[Writer] = (),
) -> None:
    """Writes results.json and report/, tells the writers, and prints what was found.

    `environment` is what the run recorded of itself; `reused` says which stages this start did not
    run (None: all).
    """
    results = write_results(workdir, config, chain, environment, reused=reused)
    for writer in writers:
        writer.conclude(list_numbers(results), make_sheets(results))
    with contextlib.suppress(BrokenPipeError):  # whoever read along has seen enough
        print_before_after(results, Screen())
    for name, value, meaning in list_detection(results):
        if name in FOUND:
            say(f'{name.lower()}: {value}; {meaning}')
    say(f'report: {workdir / "report" / "index.html"}')


def write_results(
    workdir: Path,
    config: Settings,
    chain: Chain,
    environment: Settings,
    *,
    reused: Mapping[str, bool] | None = None,
) -> Results:
    """Writes results.json and report/ of a finished run and returns the results."""
    results = gather(config, chain, reused or {})
    results.write(workdir / 'results.json')
    write_report(workdir / 'report', gather_run(results, config, chain, environment))
    return results


def collect_runs(folder: Path) -> list[SweepPoint]:
    """Writes table.md, table.csv and table.html of all finished runs below `folder`.

    A run's point is its point.json where a sweep left one, else its name. A run whose files are
    damaged is named and left out.
    """
    runs = list(_read_runs(folder))
    if not runs:
        raise UserError(f'{folder}: no finished run (a readable results.json) here or below.')
    rows = collect(runs)
    write_runs_page(folder, rows)
    return rows


def _read_runs(folder: Path) -> Iterator[tuple[Settings, int, Results]]:
    """(point, seed, results) of every run below the folder."""
    for path in sorted(folder.rglob('results.json')):
        beside = path.parent / POINT_FILE
        try:
            results = read_results(path)
            if beside.exists():
                point = read_typed(beside, Point, cure='Start the sweep again, which writes it.')
                yield point.point, point.seed, results
            else:
                yield {'run': str(path.parent.relative_to(folder))}, results.seeds.model, results
        except UserError as error:
            say(f'left out: {error}')


def command(call: Call) -> int:
    """Writes a finished run's report again, or one table of all runs below the folder."""
    workdir = user_path(call.workdir).absolute()
    if not (workdir / 'config.json').exists():
        rows = collect_runs(workdir)
        if call.args.json:
            print(json.dumps([asdict(row) for row in rows], indent=2))
            return 0
        # Names may hold what is no text.
        print(to_markdown(rows).encode('utf-8', 'replace').decode('utf-8'))
        print(workdir / 'table.html')
        return 0
    config, environment = read_record(workdir)
    chain = Chain(make_stages(config), user_path(environment['store']))
    if strange := [name for name in chain.stages if name not in environment['fingerprints']]:
        raise UserError(
            f'{workdir / "environment.json"}: knows no stage {", ".join(strange)}, which the config'
            f' has. Start the run again with its own command: {environment["command"]}'
        )
    if gone := [name for name in environment['fingerprints'] if name not in chain.stages]:
        raise UserError(
            f'{workdir / "environment.json"}: knows the stages {", ".join(gone)}, which this'
            ' version does not make of the config. Write the report with the version that ran it.'
        )
    chain.recall(environment['fingerprints'])
    if missing := chain.unfinished():
        raise UserError(
            f'{workdir}: the run is not finished: {chain.store} holds no finished'
            f' {", ".join(missing)} of it. Start its command again, without --stages:'
            f' {environment["command"]}'
        )
    chain.check()
    if call.args.json:
        results = write_results(workdir, config, chain, environment)
        print(json.dumps(msgspec.to_builtins(results), indent=2))
    else:
        conclude(workdir, config, chain, environment)
    return 0
