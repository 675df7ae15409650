"""What class densities say of images: how likely other classes make them, and their scores."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import ticker
from matplotlib.axes import Axes

from purify.report.canvas import COLOURS, DASHED, Drawing, draw_dots, draw_grid, finish, new_axes
from purify.report.findings import Findings, Row
from purify.report.run import FeatureMap
from purify.report.words import say_class, say_number

BINS = 30  # of a histogram, where no rule counts them
MOST_DOTS = 1500  # in a lane
_CLEAR, _DOUBTED, _ACCUSED = 1, 2, 3  # verdicts
_SAID = {_CLEAR: 'clean', _DOUBTED: 'dropped', _ACCUSED: 'poisoned'}
_EDGE = 0.005  # share of a class's scores beyond either end of the axis
Figure = tuple[str, Drawing]
Kinds = Mapping[str, np.ndarray]  # name of a kind of image -> which images are of it, bool[n]
Marks = tuple[float | None, float | None]  # μ and λ
Cut = tuple[float, int, int]  # see `find_cuts`


def draw_foreign(
    mapped: FeatureMap | None, facts: Findings, classes: Sequence[str], prefix: str
) -> list[Figure]:
    """Draws a histogram of each class's highest foreign log-densities (Sabolić 2024, Figure 3).

    The axis runs from the lowest, 0, to the highest, 1, of the class and μ; bars of poisoned images
    stand on those of clean ones. Of the valley rule the bins are those in which it looks for one,
    left of λ.
    """
    rule, rows = facts.rule, {row['label']: row for row in facts.labels}
    if mapped is None or 'close_foreign' not in mapped:
        return []
    found = []
    for label in mapped['facts']['classes']:
        own, row = mapped['close_label'] == label, rows.get(label)
        if row is None or not own.any() or not row['high'] > row['low']:
            continue
        ends = [row['low'], row['high'], *([] if row['mu'] is None else [row['mu']])]
        low, high = min(ends), max(ends)
        kinds, values = _kinds(mapped, own), mapped['close_foreign'][own]
        counts = count_bins(values, kinds, (low, high), rule.get('bins', BINS))
        mu = None if row['mu'] is None else (row['mu'] - low) / (high - low)
        colour = 'before' if label in _strong(mapped) else 'after'
        name, marks = say_class(label, classes), (mu, rule.get('limit'))
        drawing = _draw_bins(counts, list(kinds), marks, colour, f'{prefix}{label}', name)
        found.append((_title(mapped, row, name), drawing))
    return found


def draw_scores(
    mapped: FeatureMap | None, facts: Findings, classes: Sequence[str], prefix: str
) -> list[Figure]:
    """Draws the scores of the images of each class named or aimed at (Sabolić 2024, Figure 4).

    Clean and poisoned images have a lane each. Dashed: where the defence divides them. Scores
    beyond the axis, a half per cent at either end, are drawn on its edge.
    """
    if mapped is None or 'close_score' not in mapped:
        return []
    found, outside = [], facts.rule.get('score') == 'outside'
    for label in [label for label in mapped['facts']['classes'] if label in _strong(mapped)]:
        own = (mapped['close_label'] == label) & np.isfinite(mapped['close_score'])
        if not own.any():
            continue
        score, verdict = (mapped[f'close_{name}'][own] for name in ('score', 'verdict'))
        name, kinds = say_class(label, classes), _kinds(mapped, own)
        what = 'log s; low: looks more like another class' if 'close_foreign' in mapped else 'score'
        if outside and facts.types.get(str(label)) == 'disruptive':
            what = 'highest log-density; low: looks like no class'
        cuts, unique = find_cuts(score, verdict), f'{prefix}{label}'
        found.append((name, _draw_lanes(score, kinds, cuts, what, unique, name)))
    return found


def count_bins(
    values: np.ndarray, kinds: Kinds, ends: tuple[float, float], bins: int
) -> np.ndarray:
    """Counts values f[n] of k kinds of images in equal bins between `ends`: i64[k bins]."""
    return np.stack([np.histogram(values[own], bins, ends)[0] for own in kinds.values()])


def _kinds(mapped: FeatureMap, own: np.ndarray) -> Kinds:
    """Which of the images bool[m] looked at closely are clean, and which poisoned, if known."""
    if 'close_poisoned' not in mapped:
        return {'': np.ones(int(own.sum()), np.bool_)}
    poisoned = mapped['close_poisoned'][own]
    return {'clean': ~poisoned, 'poisoned': poisoned}


def find_cuts(score: np.ndarray, verdict: np.ndarray) -> list[Cut]:
    """Finds where the verdicts u8[n] of a class change along its scores f[n].

    Returns (score half-way between neighbours, verdict below, verdict above) for each change; none
    where verdicts are mixed along the scores.
    """
    order = np.argsort(score, kind='stable')
    ranked, sizes = verdict[order], score[order]
    changes = np.flatnonzero(np.diff(ranked)).tolist()
    if len(changes) != len(np.unique(verdict)) - 1:
        return []
    middles = [float(sizes[i] + sizes[i + 1]) / 2 for i in changes]
    sides = [(int(ranked[i]), int(ranked[i + 1])) for i in changes]
    return [(middle, *pair) for middle, pair in zip(middles, sides, strict=True)]


def _draw_bins(
    counts: np.ndarray, kinds: Sequence[str], marks: Marks, colour: str, prefix: str, name: str
) -> Drawing:
    (mu, limit), bins, both = marks, counts.shape[1], counts.sum(0)
    edges = np.linspace(0, 1, bins + 1)
    with new_axes(150, 0.13, 0.83, 36, 18) as (figure, axes):
        axes.set(xlim=(0, 1), ylim=(0, 1.04 * max(1, both.max())))
        axes.stairs(counts[0], edges, fill=True, color=COLOURS[colour])
        if len(counts) > 1:
            axes.stairs(both, edges, baseline=counts[0], fill=True, color=COLOURS['ink'])
        if limit is not None:
            _mark(axes, limit, 'λ', 'left')
        if mu is not None:
            _mark(axes, mu, 'μ', 'right')
        axes.yaxis.set_major_locator(ticker.MaxNLocator(3, integer=True))
        draw_grid(axes, 'y')
        axes.set_xlabel('low: looks like no other class', labelpad=1)
        said = f'Histogram of {name}: {_say_counts(kinds, counts.sum(1))}; '
        said += '' if limit is None else f'λ = {limit:g}, '
        if mu is None:
            said += 'no place μ.'
        else:
            below = _say_counts(kinds, counts[:, (edges[:-1] + edges[1:]) / 2 < mu - 1e-9].sum(1))
            said += f'μ = {say_number(mu)}; in the bins left of that one are {below}.'
        return finish(figure, prefix, said)


def _draw_lanes(
    score: np.ndarray, kinds: Kinds, cuts: Sequence[Cut], what: str, prefix: str, name: str
) -> Drawing:
    lanes = {kind or 'all': rows for kind, rows in kinds.items()}
    with new_axes(58 + 55 * len(lanes), 0.17, 0.79, 36, 22) as (figure, axes):
        places = [cut for cut, *_ in cuts]
        low = min(np.quantile(score, _EDGE), *places, np.inf)
        high = max(np.quantile(score, 1 - _EDGE), *places, -np.inf)
        room = 0.04 * max(high - low, 1e-9)
        axes.set(xlim=(low - room, high + room), ylim=(len(lanes) - 0.5, -0.5))
        titles = [f'{lane}\nn = {rows.sum():,}' for lane, rows in lanes.items()]
        axes.set_yticks(range(len(lanes)), labels=titles)
        axes.tick_params(axis='y', labelcolor=COLOURS['ink'], length=0)
        axes.xaxis.set_major_locator(ticker.MaxNLocator(5))
        for lane, (rows, colour) in enumerate(zip(lanes.values(), ('before', 'ink'), strict=False)):
            values = _thin(np.clip(score[rows], low, high))
            # The golden ratio: neighbours never meet.
            jitter = (np.arange(len(values)) * 0.618034) % 1 - 0.5
            draw_dots(axes, np.stack([values, lane + 0.72 * jitter], -1), colour, 2.2)
        for cut in places:
            _mark(axes, cut)
        borders = [low - room, *places, high + room]
        verdicts = [below for _, below, _ in cuts[:1]] + [above for *_, above in cuts]
        style: dict[str, Any] = {'ha': 'center', 'va': 'bottom', 'fontsize': 10}
        for left, right, verdict in zip(borders, borders[1:], verdicts, strict=False):
            # Else its name has no room.
            if (right - left) / (high - low + 2 * room) > 0.16:
                axes.text((left + right) / 2, -0.56, f'as {_SAID[verdict]}', **style)
        axes.set_xlabel(what, labelpad=1)
        there = [(lane, score[rows]) for lane, rows in lanes.items() if rows.any()]
        medians = [f'{lane} {say_number(float(np.median(own)))}' for lane, own in there]
        said = ', '.join(
            f'{say_number(cut)} (below: as {_SAID[below]}, above: as {_SAID[above]})'
            for cut, below, above in cuts
        )
        said = f'Medians: {", ".join(medians)}. Divided at: {said or "nowhere"}.'
        return finish(figure, prefix, f'Scores of {name}. {said}')


def _say_counts(kinds: Sequence[str], counts: np.ndarray) -> str:
    said = [f'{count:,} {kind}'.strip() for kind, count in zip(kinds, counts, strict=True)]
    return f'{" and ".join(said)} images'


def _mark(axes: Axes, place: float, name: str = '', side: str = 'right') -> None:
    """Draws a dashed line from bottom to top, with its name above it on one side."""
    axes.axvline(place, color=COLOURS['ink'], **DASHED)
    if name:
        axes.text(place, 1.02, name, transform=axes.get_xaxis_transform(), ha=side, va='bottom')


def _title(mapped: FeatureMap, row: Row, name: str) -> str:
    if row['target']:
        wrong = 'close_poisoned' in mapped and row['label'] not in mapped['facts']['aims']
        return f'{name}: {row["type"]}{", wrongly" if wrong else ""}'
    return f'{name}: missed' if row['label'] in mapped['facts']['aims'] else f'{name}: not named'


def _strong(mapped: FeatureMap) -> set[int]:
    return {*mapped['facts']['named'], *mapped['facts']['aims']}


def _thin(values: np.ndarray) -> np.ndarray:
    """Sorts values and keeps at most `MOST_DOTS` of them, evenly, with both ends."""
    ranked = np.sort(values)
    if len(ranked) <= MOST_DOTS:
        return ranked
    return ranked[np.linspace(0, len(ranked) - 1, MOST_DOTS).round().astype(int)]
