"""The result: what test images are taken for before and after the defence."""

from collections.abc import Sequence

from matplotlib.axes import Axes

from purify.report.before_after import MEASURES, BeforeAfter, Reading, before_after, read_share
from purify.report.canvas import COLOURS, Drawing, draw_percents, draw_whisker, finish, new_axes
from purify.report.markup import Section, fill
from purify.report.quantities import Line
from purify.report.results import Results
from purify.report.run import Finished
from purify.report.words import say_interval, say_percent

_BENIGN = ', by the model that the defence trained on its way'


def section(run: Finished) -> Section:
    """Shows the before/after table and its bars, other classifiers, and a warning of the prior."""
    results, measures = run.results, before_after(run.results)
    warning = results.prior.warning if results.prior else ''
    bars = draw_before_after(measures, 'bars')
    parts = {'measures': measures, 'bars': bars, 'extras': list_extras(results)}
    return fill('result', 'Result', warning=warning, **parts)


def list_extras(results: Results) -> list[Line]:
    """Lists the benign model that a defence trained on its way, and the residual attack."""
    lines = [
        (f'Benign model {name.upper()}', reading.say(), f'{meaning}{_BENIGN}')
        for name, meaning in MEASURES.items()
        if (reading := read_share(results.benign, name))
    ]
    student = results.student
    if student and isinstance(student.residual_asr, float):
        counted = ''
        if student.residual_counts and student.residual_interval:
            (hits, count), interval = student.residual_counts, student.residual_interval
            said = f' ({hits:,} of {count:,}; 95 % interval {say_interval(*interval)})'
            counted = said if count else ''
        meaning = (
            'of triggered test images that were purified themselves are given the target class'
        )
        lines.append(('Residual ASR', say_percent(student.residual_asr), f'{meaning}{counted}'))
    return lines


def draw_before_after(rows: Sequence[BeforeAfter], prefix: str) -> Drawing | None:
    """Draws bars of each measure before and after, with 95 % intervals; None without any.

    `prefix` keeps the ids of several figures on one page apart.
    """
    rows = [row for row in rows if row.before or row.after]
    if not rows:
        return None
    left = 0.16 if any(row.of for row in rows) else 0.11
    with new_axes(26 + 64 * len(rows), left, 0.95 - left, 22, 4) as (figure, axes):
        axes.set(xlim=(0, 1), ylim=(len(rows) - 0.5, -0.5))
        draw_percents(axes, 'x')
        axes.set_yticks(range(len(rows)), labels=[row.title.replace(', ', '\n') for row in rows])
        axes.tick_params(axis='y', labelcolor=COLOURS['ink'])
        for y, row in enumerate(rows):
            _draw_bar(axes, y - 0.19, row.before, 'before')
            _draw_bar(axes, y + 0.19, row.after, 'after')
        said = '; '.join(
            f'{row.title} {say_percent(row.before.value) if row.before else "not measured"} before,'
            f' {say_percent(row.after.value) if row.after else "not measured"} after'
            for row in rows
        )
        return finish(figure, prefix, f'Bars. {said}.')


def _draw_bar(axes: Axes, y: float, share: Reading | None, side: str) -> None:
    if share is None:
        return
    axes.barh(y, share.value, height=0.32, color=COLOURS[side])
    if share.low is not None and share.high is not None:
        draw_whisker(axes, y, share.low, share.high, 0.08)
