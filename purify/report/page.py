"""The report: one HTML file that opens from disk, offline, with everything inside."""

from pathlib import Path

from purify.core.files import write_bytes
from purify.report.headline import say_after, write_detail, write_headline
from purify.report.markup import encode, render
from purify.report.run import Finished
from purify.report.sections.registry import SECTIONS
from purify.report.sweeps import draw_sweeps
from purify.report.tables import SweepPoint, to_csv, to_html, to_markdown

AFTER = (
    'what the defence left to classify with: a student, a repaired classifier, or the teacher'
    ' behind a guard'
)


def write_report(folder: Path, run: Finished) -> Path:
    """Writes `folder/index.html`, whole or not at all, and returns its path.

    The page holds the sections of `SECTIONS` that have something to show, in that order. Raises
    `UserError` for a folder that cannot be written and for images of another kind.
    """
    page = render(
        'report.html',
        name=run.results.name or 'unnamed run',
        headline=write_headline(run.results),
        detail=write_detail(run.results),
        after=say_after(run.results),
        sections=[part for section in SECTIONS.values() if (part := section(run)) is not None],
    )
    path = Path(folder) / 'index.html'
    write_bytes(path, encode(page))
    return path


def write_runs_page(folder: Path, rows: list[SweepPoint]) -> Path:
    """Writes the runs of a sweep as table.md, .csv and .html; returns the path of the last."""
    folder = Path(folder)
    counts = {'points': len(rows), 'runs': sum(row.n for row in rows)}
    lines = draw_sweeps(rows, 'line')
    page = render('table.html', table=to_html(rows), lines=lines, after=AFTER, **counts)
    write_bytes(folder / 'table.md', encode(to_markdown(rows)))
    write_bytes(folder / 'table.csv', encode(to_csv(rows)))
    write_bytes(folder / 'table.html', encode(page))
    return folder / 'table.html'
