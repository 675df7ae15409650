"""Figures as inline SVG that follows the page's colours, its font and its dark mode."""

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import matplotlib as mpl
import numpy as np
from markupsafe import Markup, escape
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.patches import PathPatch
from matplotlib.path import Path
from matplotlib.transforms import IdentityTransform

WIDTH_PX = 360  # as wide as a phone; shown hardly larger, so that text keeps its size
_DOT_PX = 72  # matplotlib's SVG has 72 dots per inch: one dot is one CSS pixel here

# Stand-ins that matplotlib draws with; the SVG gets the CSS variable instead.
_LINES, _MAPS = [f'line-{i}' for i in range(1, 5)], [f'map-{i}' for i in range(1, 6)]
_NAMES = ('ink', 'quiet', 'rule', 'before', 'after', *_LINES, *_MAPS)
COLOURS = {'paper': '#000001'}
COLOURS |= {name: '#' + 3 * f'{number:02x}' for number, name in enumerate(_NAMES, 1)}
# Of lines that mark a place, and of axes of shares.
DASHED: dict[str, Any] = {'linewidth': 1.2, 'linestyle': (0, (4, 3))}
QUARTERS = {'ticks': [0, 0.25, 0.5, 0.75, 1], 'labels': ['0', '25', '50', '75', '100 %']}
STYLE: dict[Any, Any] = {
    'svg.fonttype': 'none',
    'svg.hashsalt': 'purify',
    'font.size': 11,
    'axes.linewidth': 0.8,
    'axes.edgecolor': COLOURS['rule'],
    'axes.labelcolor': COLOURS['quiet'],
    'axes.spines.top': False,
    'axes.spines.right': False,
    'axes.spines.left': False,
    'axes.facecolor': 'none',
    'axes.formatter.useoffset': False,
    'figure.facecolor': 'none',
    'grid.color': COLOURS['rule'],
    'grid.linewidth': 0.8,
    'text.color': COLOURS['ink'],
    'text.parse_math': False,  # class names may hold dollars
    'xtick.color': COLOURS['rule'],
    'xtick.labelcolor': COLOURS['quiet'],
    'ytick.labelcolor': COLOURS['quiet'],
    'ytick.left': False,
    'xtick.major.size': 3,
}


@dataclass(frozen=True)
class Drawing:
    """An inline SVG and the sentence that stands for it where it cannot be seen."""

    svg: Markup
    text: str


@contextmanager
def new_figure(height_px: float) -> Iterator[Figure]:
    """Opens an empty figure of `WIDTH_PX`, in the page's style as long as the context lasts."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH_PX / _DOT_PX, height_px / _DOT_PX), dpi=_DOT_PX)
        FigureCanvasSVG(figure)
        yield figure


@contextmanager
def new_axes(
    height_px: float, left: float, width: float, below_px: float, above_px: float
) -> Iterator[tuple[Figure, Axes]]:
    """Opens a figure with one axes: left end and width as shares, room below and above in px."""
    with new_figure(height_px) as figure:
        height = 1 - (below_px + above_px) / height_px
        yield figure, figure.add_axes((left, below_px / height_px, width, height))


def draw_grid(axes: Axes, axis: Literal['both', 'x', 'y']) -> None:
    """Draws grid lines at the ticks, behind all else."""
    axes.grid(axis=axis)
    axes.set_axisbelow(True)


def draw_percents(axes: Axes, axis: Literal['x', 'y']) -> None:
    """Draws ticks and grid lines at the quarters of an axis of shares."""
    (axes.set_xticks if axis == 'x' else axes.set_yticks)(**QUARTERS)
    draw_grid(axes, axis)


def draw_whisker(axes: Axes, y: float, low: float, high: float, half: float) -> None:
    """Draws an interval on a bar, with end marks of `half` up and down, and a halo around it."""
    for colour, width in (('paper', 2.6), ('ink', 1.2)):
        whisker = {'color': COLOURS[colour], 'linewidth': width, 'clip_on': False}
        axes.plot([low, high], [y, y], **whisker)
        for end in (low, high):
            axes.plot([end, end], [y - half, y + half], **whisker)


def draw_reference(axes: Axes, x: list[float], y: list[float]) -> None:
    """Draws a dashed line over bars, with a halo around it."""
    axes.plot(x, y, color=COLOURS['paper'], linewidth=3, clip_on=False)
    axes.plot(x, y, color=COLOURS['ink'], linewidth=1.4, linestyle=(0, (3, 2)), clip_on=False)


def draw_dots(axes: Axes, points: np.ndarray, colour: str, size_px: float) -> None:
    """Draws dots at `points: f[n 2]` of `axes`, whose limits must be set.

    They are strokes of no length with round ends: one path of thousands takes a tenth of the bytes
    that as many markers do.
    """
    if not len(points):
        return
    places = np.round(axes.transData.transform(points), 1)
    codes = np.tile([Path.MOVETO, Path.LINETO], len(places)).astype(Path.code_type)
    path = Path(np.repeat(places, 2, 0), codes)
    path.should_simplify = False
    stroke = {'edgecolor': COLOURS[colour], 'linewidth': size_px, 'capstyle': 'round'}
    place = {'transform': IdentityTransform(), 'clip_on': False}
    axes.add_artist(PathPatch(path, fill=False, **stroke, **place))


def finish(figure: Figure, prefix: str, text: str) -> Drawing:
    """Turns the figure into one `<svg>` whose colours and font come from the page around it."""
    out = io.StringIO()
    untold = dict.fromkeys(('Date', 'Creator', 'Format', 'Type'))
    figure.savefig(out, format='svg', metadata=untold)
    svg = out.getvalue()
    svg = svg[svg.index('<svg') :].rstrip()
    svg = re.sub(r'<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->', '', svg, flags=re.S)
    svg = re.sub(r'font: ([\d.]+)px [^;"]*', r'font-size: \1px', svg)
    for name, colour in COLOURS.items():
        svg = svg.replace(colour, f'var(--{name})')
    used = set(re.findall(r'(?:url\(#|href="#)([^)"]+)', svg))
    own = lambda match: f' id="{prefix}-{match[1]}"' if match[1] in used else ''
    svg = re.sub(r' id="([^"]*)"', own, svg)
    svg = re.sub(r'(url\(#|href="#)', rf'\g<1>{prefix}-', svg)
    view = re.search(r'viewBox="[^"]*"', svg)
    assert view is not None
    root = (
        f'<svg xmlns:xlink="http://www.w3.org/1999/xlink" {view[0]} role="img"'
        f' aria-label="{escape(text)}">'
    )
    svg = root + svg[svg.index('>') + 1 :]
    return Drawing(Markup(re.sub(r'\n\s*', '\n', svg)), text)
