"""The learning curves of each stage."""

import math

from matplotlib import ticker
from matplotlib.axes import Axes

from purify.report.canvas import COLOURS, Drawing, draw_grid, finish, new_figure
from purify.report.markup import Section, fill
from purify.report.run import Finished, Metrics
from purify.report.words import say_number, say_percent

MAX_POINTS = 300  # per line; more are thinned to the extremes of equal stretches
_LINES = [COLOURS[f'line-{i}'] for i in range(1, 5)]
Curve = list[tuple[float, float]]  # step, value


def section(run: Finished) -> Section | None:
    """Shows a figure per stage that noted a loss or an accuracy."""
    drawings = {}
    for number, (stage, rows) in enumerate(run.curves.items()):
        if drawing := draw_curves(rows, f'curve{number}'):
            drawings[stage] = drawing
    return fill('curves', 'Training', curves=drawings) if drawings else None


def draw_curves(rows: Metrics, prefix: str) -> Drawing | None:
    """Draws loss and accuracy of one stage over its steps; None when the rows hold neither.

    Numbers whose name contains 'loss' or 'accuracy' are lines, four at most in a panel. Values that
    are None or not finite leave gaps.
    """
    panels = {word: _lines(rows, word) for word in ('loss', 'accuracy')}
    panels = {word: lines for word, lines in panels.items() if lines}
    if not panels:
        return None
    height = 34 + 122 * len(panels)
    with new_figure(height) as figure:
        for i, (word, lines) in enumerate(panels.items()):
            bottom = 34 + 122 * (len(panels) - 1 - i)
            axes = figure.add_axes((0.13, bottom / height, 0.83, 88 / height))
            _draw_panel(axes, word, lines)
            if i < len(panels) - 1:
                axes.tick_params(labelbottom=False)
            else:
                axes.set_xlabel('step', labelpad=1)
        every = [pair for lines in panels.values() for pair in lines.items()]
        said = '; '.join(_say_line(name, line) for name, line in every)
        return finish(figure, prefix, f'Curves. {said}.')


def _draw_panel(axes: Axes, word: str, lines: dict[str, Curve]) -> None:
    values = [value for line in lines.values() for _, value in line if math.isfinite(value)]
    for colour, (name, line) in zip(_LINES, lines.items(), strict=False):
        thin, look = thin_out(line), {'color': colour, 'linewidth': 1.6, 'markersize': 4}
        look |= {'marker': 'o' if len(thin) == 1 else '', 'label': name.replace('_', ' ')}
        axes.plot(*zip(*thin, strict=True), **look)
    if word == 'loss' and min(values) > 0 and max(values) > 50 * min(values):
        axes.set_yscale('log')
        axes.yaxis.set_major_locator(ticker.LogLocator(numticks=4))
        axes.yaxis.set_major_formatter(ticker.FuncFormatter(lambda value, _: f'{value:g}'))
        axes.minorticks_off()
    elif word == 'accuracy':
        axes.set_ylim(min(0, *values), max(1.02, *values))
        axes.yaxis.set_major_formatter(ticker.FuncFormatter(lambda value, _: f'{100 * value:.0f}'))
        axes.set_yticks([0, 0.5, 1])
    else:
        axes.yaxis.set_major_locator(ticker.MaxNLocator(4))
    axes.xaxis.set_major_locator(ticker.MaxNLocator(5, integer=True))
    count = lambda value, _: f'{value / 1e6:g}M' if value >= 1e6 else f'{value:,.0f}'
    axes.xaxis.set_major_formatter(ticker.FuncFormatter(count))
    draw_grid(axes, 'y')
    unit = ' (%)' if word == 'accuracy' else ' (log scale)' if axes.get_yscale() == 'log' else ''
    axes.text(-0.13 / 0.83, 1.14, f'{word}{unit}', transform=axes.transAxes)
    if len(lines) > 1:
        axes.legend(
            loc='lower right', bbox_to_anchor=(1.02, 1.08), ncols=len(lines), frameon=False,
            handlelength=1, columnspacing=1, borderaxespad=0, labelcolor=COLOURS['quiet'],
        )  # fmt: skip


def _lines(rows: Metrics, word: str) -> dict[str, Curve]:
    """(step, value) pairs of each number called after `word`; NaN where a row has none.

    Empty lines are left out.
    """
    names = sorted({name for row in rows for name in row if word in name and _is_number(row[name])})
    # The stage's own loss first.
    names = sorted(names, key=lambda name: name != word)[: len(_LINES)]
    clean = lambda value: value if _is_number(value) else math.nan
    return {
        name: [(row['step'], clean(row[name])) for row in rows if name in row] for name in names
    }


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def thin_out(line: Curve) -> Curve:
    """Keeps at most `MAX_POINTS` of a line, the extremes of each stretch: no spike is lost."""
    if len(line) <= MAX_POINTS:
        return line
    kept = {0, len(line) - 1}
    stretches = MAX_POINTS // 2 - 1
    for i in range(stretches):
        start, stop = i * len(line) // stretches, (i + 1) * len(line) // stretches
        ranks = [j for j in range(start, stop) if math.isfinite(line[j][1])]
        ranks.sort(key=lambda j: line[j][1])
        kept |= {ranks[0], ranks[-1]} if ranks else {start}
    return [line[j] for j in sorted(kept)]


def _say_line(name: str, line: Curve) -> str:
    finite = [pair for pair in line if math.isfinite(pair[1])]
    say = say_percent if 'accuracy' in name else say_number
    first, last = (f'{say(value)} at step {step:,.0f}' for step, value in (finite[0], finite[-1]))
    return f'{name.replace("_", " ")} from {first} to {last}'
