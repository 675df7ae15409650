"""Bars of the generations with the trigger over the runs of a sweep, by rate and by guidance."""

import json
from collections.abc import Sequence

from matplotlib.axes import Axes

from purify.core.types import Settings
from purify.report.canvas import COLOURS, Drawing, draw_percents, draw_reference, finish, new_axes
from purify.report.sections.generations import FILLS
from purify.report.tables import FACTS, SweepPoint
from purify.report.words import say_number, say_percent, say_value

AXES = {
    'rate': ('poisoning rate', lambda rate: f'{100 * rate:g} %'),
    'guidance': ('guidance', say_number),
}
_RUN = 'run'  # of points that no sweep made: the folder's name
_WIDTH = 0.62  # of a bar
Figure = tuple[str, Drawing]


def draw_sweeps(points: Sequence[SweepPoint], prefix: str) -> list[Figure]:
    """Draws bars of points that differ in rate or guidance alone (Pan 2024, Figures 3 and A3)."""
    found = []
    for axis in AXES:
        for number, (title, line) in enumerate(list_lines(points, axis)):
            drawing = _draw_line(line, axis, f'{prefix}-{axis}{number}', title)
            found.append((title, drawing))
    return found


def list_lines(points: Sequence[SweepPoint], axis: str) -> list[tuple[str, list[SweepPoint]]]:
    """Groups dissected points that differ in `axis` alone: (what they share, points ascending)."""
    known = [point for point in points if point.spreads.get('g3')]
    known = [point for point in known if point.facts.get(axis) is not None]
    names = {name for point in known for name in point.overrides}
    moving = {_RUN, *(name for name in names if _sets(name, known, axis))}
    groups: dict[str, tuple[Settings, list[SweepPoint]]] = {}
    for point in known:
        shared = {name: value for name, value in point.overrides.items() if name not in moving}
        facts = {name: point.facts.get(name) for name in FACTS if name != axis}
        key = json.dumps([shared, facts], sort_keys=True, default=str)
        groups.setdefault(key, (shared, []))[1].append(point)
    found = []
    for shared, line in groups.values():
        if len({point.facts[axis] for point in line}) > 1:
            title = f'By {AXES[axis][0]}: {_say_shared(shared, line[0].facts, axis)}'
            found.append((title, sorted(line, key=lambda point: point.facts[axis])))
    return found


def _sets(name: str, points: Sequence[SweepPoint], axis: str) -> bool:
    """Whether an override moves points along the axis: values of the two pair up one to one."""
    say = lambda point: json.dumps(point.overrides.get(name), default=str)
    pairs = {(point.facts[axis], say(point)) for point in points}
    return len({place for place, _ in pairs}) == len({value for _, value in pairs}) == len(pairs)


def _say_shared(shared: Settings, facts: Settings, axis: str) -> str:
    other = next(name for name in AXES if name != axis)
    own = {'attack': facts['attack'], other: facts[other]}
    own |= {name.rpartition('.')[2]: value for name, value in shared.items()}
    known = {name: value for name, value in own.items() if value is not None}
    return ', '.join(f'{name} {say_value(value)}' for name, value in known.items())


def _draw_line(line: Sequence[SweepPoint], axis: str, prefix: str, title: str) -> Drawing:
    name, say = AXES[axis]
    with new_axes(210, 0.12, 0.85, 40, 10) as (figure, axes):
        axes.set(xlim=(-0.6, len(line) - 0.4), ylim=(0, 1))
        draw_percents(axes, 'y')
        size, titles = 11 if len(line) <= 6 else 8, [say(point.facts[axis]) for point in line]
        axes.set_xticks(range(len(line)), labels=titles, fontsize=size)
        axes.tick_params(axis='x', length=0)
        for x, point in enumerate(line):
            _draw_point(axes, x, point)
        axes.set_xlabel(name, labelpad=2)
        said = '; '.join(f'{say(point.facts[axis])}: {_say_point(point)}' for point in line)
        return finish(figure, prefix, f'Bars. {title}. {said}.')


def _draw_point(axes: Axes, x: int, point: SweepPoint) -> None:
    """G2 on G1, means over seeds, or G3 where nobody looked for triggers, and a line at p_t."""
    start = 0.0
    fills: dict[str, str] = dict(zip(('g1', 'g2', 'g3', 'g4'), FILLS, strict=True))
    for group in _groups(point):
        spread = point.spreads[group]
        share = spread.mean if spread else 0.0
        axes.bar(x, share, bottom=start, width=_WIDTH, color=COLOURS[fills[group]])
        start += share
    if trained := point.spreads['p_t']:
        draw_reference(axes, [x - 0.45, x + 0.45], [trained.mean] * 2)


def _say_point(point: SweepPoint) -> str:
    shares = {name.upper(): point.spreads[name] for name in _groups(point)}
    shares |= {'p_t': point.spreads['p_t']}
    said = [f'{title} {say_percent(spread.mean)}' for title, spread in shares.items() if spread]
    return ', '.join(said)


def _groups(point: SweepPoint) -> tuple[str, ...]:
    """The groups drawn: images with the trigger, or those of G3 where nobody looked for one."""
    return ('g1', 'g2') if point.spreads.get('g1') else ('g3',)
