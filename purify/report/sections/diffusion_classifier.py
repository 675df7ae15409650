"""The generator as a classifier: its scores by the share of errors that are left out."""

from purify.report.before_after import MEASURES, read_share
from purify.report.canvas import COLOURS, DASHED, Drawing, draw_percents, finish, new_axes
from purify.report.classifiers import Diffusion, Filtered
from purify.report.markup import MarkupTable, Section, fill
from purify.report.results import Results
from purify.report.run import Finished
from purify.report.words import say_number

_LINES = {'acc': 'after', 'asr': 'before', 'ra': 'line-3'}
_WEIGHTS = {
    'edm': "by EDM's weights",
    'epsilon': 'by 1/s², as errors of the noise s',
    'none': 'without weights',
}


def section(run: Finished) -> Section | None:
    """Shows the table and the curves of scores by p, the share of errors that are left out."""
    table, lines = list_filters(run.results), draw_filters(run.results, 'filters')
    if table is None:
        return None
    return fill('diffusion_classifier', 'Generator as classifier', table=table, lines=lines)


def list_filters(results: Results) -> MarkupTable | None:
    """Makes the table of scores by p; None for runs that asked no generator.

    A line is (p, whether it is the headline's, [Reading of ACC, ASR, RA or None]).
    """
    found = results.diffusion
    if found is None or not found.filters:
        return None
    lines = []
    for row in found.filters:
        readings = [read_share(row, name) for name in MEASURES]
        lines.append((_say_p(row.p_filter), row.p_filter == found.p_filter, readings))
    note = (
        f'The class whose noise the generator removes best is the answer: {found.draws:,} draws of'
        f' noise for each class, errors averaged {_WEIGHTS.get(found.weighting, found.weighting)},'
        f' {say_number(found.calls_per_image)} network calls an image, on {found.images:,} test'
        ' images. Before averaging the largest errors of an image, a share p of its elements, are'
        ' left out, for there the trigger sits.'
    )
    if _is_student(found, results):
        own = f'those of {_say_p(found.p_filter)}, of the generator itself'
        note += f' The numbers after are {own}.'
    return MarkupTable([name.upper() for name in MEASURES], lines, note)


def draw_filters(results: Results, prefix: str) -> Drawing | None:
    """Draws ACC, ASR and RA by p with 95 % intervals; the headline's p is dashed.

    None with fewer than two p.
    """
    found = results.diffusion
    rows = sorted(found.filters, key=lambda row: row.p_filter) if found else []
    if found is None or len(rows) < 2:
        return None
    with new_axes(190, 0.11, 0.75, 38, 14) as (figure, axes):
        low, high = rows[0].p_filter, rows[-1].p_filter
        room = 0.04 * (high - low)
        axes.set(xlim=(low - room, high + room), ylim=(0, 1))
        draw_percents(axes, 'y')
        axes.axvline(found.p_filter, color=COLOURS['quiet'], **DASHED)
        ends = []
        for name, colour in _LINES.items():
            line = [(row.p_filter, reading) for row in rows if (reading := read_share(row, name))]
            if not line:
                continue
            places, readings = zip(*line, strict=True)
            shares = [reading.value for reading in readings]
            style = {'linewidth': 1.6, 'marker': 'o', 'markersize': 4, 'clip_on': False}
            axes.plot(places, shares, color=COLOURS[colour], **style)
            bar = {'color': COLOURS[colour], 'linewidth': 1.2, 'clip_on': False}
            for place, reading in line:
                if reading.low is not None and reading.high is not None:
                    axes.plot([place] * 2, [reading.low, reading.high], **bar)
            ends.append((readings[-1].value, name.upper(), colour))
        ends.sort()
        beside = {'transform': axes.get_yaxis_transform(), 'va': 'center'}
        for place, (_, name, colour) in zip(_apart([end[0] for end in ends]), ends, strict=True):
            axes.text(1.03, place, name, color=COLOURS[colour], **beside)
        axes.set_xlabel('p, share of the largest errors left out', labelpad=1)
        said = '; '.join(f'{_say_p(row.p_filter)}: {_say_row(row)}' for row in rows)
        return finish(figure, prefix, f'Curves. {said}.')


def _apart(places: list[float]) -> list[float]:
    """Where names go, ascending, at least a line's height from each other."""
    found: list[float] = []
    for place in places:
        found.append(max(place, found[-1] + 0.1) if found else place)
    over = max(0.0, found[-1] - 1.0) if found else 0.0
    # Those pushed beyond the top go back down, and push the ones below.
    for i in range(len(found) - 1, -1, -1):
        limit = 1.0 - 0.1 * (len(found) - 1 - i)
        found[i] = min(found[i], limit) if over else found[i]
    return found


def _say_p(share: float) -> str:
    return f'p = {say_number(share)}'


def _say_row(row: Filtered) -> str:
    readings = {name.upper(): read_share(row, name) for name in MEASURES}
    return ', '.join(f'{name} {reading.say()}' for name, reading in readings.items() if reading)


def _is_student(found: Diffusion, results: Results) -> bool:
    """Whether the numbers after the defence are the generator's own, of the headline's p."""
    own = [row for row in found.filters if row.p_filter == found.p_filter]
    return bool(own) and results.student is not None and results.student.counts == own[0].counts
