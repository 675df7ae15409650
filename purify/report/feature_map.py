"""A map of features: quiet colours for most classes, strong ones for suspects, ink for poison."""

from collections.abc import Sequence

import numpy as np
from scipy.spatial import KDTree

from purify.report.canvas import COLOURS, WIDTH_PX, Drawing, draw_dots, finish, new_axes
from purify.report.run import FeatureMap
from purify.report.words import say_class, say_classes, say_percent, shorten

_HEIGHT_PX, _MARGIN_PX = 340, 6
_QUIET = [name for name in COLOURS if name.startswith('map-')]
_MOST_NAMES = 12  # of quiet classes; more would hide the map
_NAME_CHARS, _NAME_PX, _LINE_PX = 14, 70, 13
_METHODS = {'umap': 'UMAP', 'pca': 'the first two principal components'}


def draw_map(mapped: FeatureMap | None, classes: Sequence[str], prefix: str) -> Drawing | None:
    """Draws the map, as in Figure 1 of Sabolić 2024; None if there are no images to show.

    `mapped` is what the stage `atlas` wrote: see `purify.evaluation.feature_map.make_map`. It is
    without 'poisoned', 'true' and 'close_poisoned' where nobody knows them.
    """
    if mapped is None or not len(mapped['ids']):
        return None
    points, labels = mapped['points'], mapped['label']
    poisoned, strong = mapped.get('poisoned', np.zeros(len(points), np.bool_)), suspects(mapped)
    with new_axes(_HEIGHT_PX, 0, 1, 0, 0) as (figure, axes):
        axes.axis('off')
        low, high = points.min(0), points.max(0)
        inside = np.array([WIDTH_PX, _HEIGHT_PX]) - 2 * _MARGIN_PX
        room = np.maximum(high - low, 1e-9) * _MARGIN_PX / inside
        (left, bottom), (right, top) = low - room, high + room
        axes.set(xlim=(left, right), ylim=(bottom, top))
        quiet = [label for label in np.unique(labels).tolist() if label not in strong]
        for number, label in enumerate(quiet):
            draw_dots(axes, points[(labels == label) & ~poisoned], _QUIET[number % len(_QUIET)], 3)
        draw_dots(axes, points[np.isin(labels, strong) & ~poisoned], 'before', 3)
        draw_dots(axes, points[poisoned], 'ink', 3)
        shown = [*strong, *(quiet if len(quiet) <= _MOST_NAMES else [])]
        shown = [label for label in shown if ((labels == label) & ~poisoned).any()]
        middles = [np.median(points[(labels == label) & ~poisoned], 0) for label in shown]
        places = spread(axes.transData.transform(np.reshape(middles, (-1, 2))))
        for label, (x, y) in zip(shown, places, strict=True):
            name = shorten(say_class(label, classes), _NAME_CHARS)
            weight = 'bold' if label in strong else 'normal'
            place = {'transform': axes.transAxes, 'ha': 'center', 'va': 'center'}
            axes.text(x / WIDTH_PX, y / _HEIGHT_PX, name, fontweight=weight, **place)
        return finish(figure, prefix, f'Map. {say_map(mapped, classes)}')


def say_map(mapped: FeatureMap, classes: Sequence[str]) -> str:
    """Says what the map shows, by which method, and beside whom the poisoned images lie."""
    facts, count = mapped['facts'], len(mapped['ids'])
    what = f'all {count:,}' if count == facts['images'] else f'{count:,} of {facts["images"]:,}'
    parts = [f'The features of {what} images, by {_METHODS[facts["method"]]}.']
    if strong := suspects(mapped):
        aimed = ' or aimed at by the attack' if 'poisoned' in mapped else ''
        parts.append(f'Strong: {say_classes(strong, classes)}, as named by the defence{aimed}.')
    if neighbours := count_neighbours(mapped):
        true, given, whole = neighbours
        parts.append(
            f'Of {whole:,} poisoned images under a label that is not their own,'
            f' {say_percent(true / whole)} lie nearest to a clean image of their true class,'
            f' {say_percent(given / whole)} to one of the class that they were given.'
        )
    return ' '.join(parts)


def count_neighbours(mapped: FeatureMap) -> tuple[int, int, int] | None:
    """Counts the mislabelled poisoned images on the map by their nearest clean neighbour.

    Returns how many lie nearest to one of their true class, how many to one of the class they were
    given, and how many there are; None where there is no such image, or no clean one, or nobody
    knows.
    """
    if 'poisoned' not in mapped:
        return None
    poisoned, clean = mapped['poisoned'] & (mapped['label'] != mapped['true']), ~mapped['poisoned']
    if not poisoned.any() or not clean.any():
        return None
    _, nearest = KDTree(mapped['points'][clean]).query(mapped['points'][poisoned])
    beside = mapped['label'][clean][nearest]
    true, given = (int((beside == mapped[name][poisoned]).sum()) for name in ('true', 'label'))
    return true, given, int(poisoned.sum())


def suspects(mapped: FeatureMap) -> list[int]:
    """Lists the classes named or aimed at; only those named if both make up most classes."""
    named = sorted(mapped['facts']['named'])
    found = sorted({*named, *mapped['facts']['aims']})
    return found if 2 * len(found) <= len(np.unique(mapped['label'])) + 1 else named


def spread(places: np.ndarray) -> np.ndarray:
    """Moves names at pixels f[n 2] up or down until no two overlap; the first stay in place."""
    found: list[np.ndarray] = []
    for place in places:
        x = np.clip(place[0], 40, WIDTH_PX - 40)
        taken = [other[1] for other in found if abs(x - other[0]) < _NAME_PX]
        steps = [sign * number for number in range(len(places) + 1) for sign in (1, -1)]
        tries = (place[1] + step * _LINE_PX for step in steps)
        inside = (y for y in tries if _LINE_PX / 2 <= y <= _HEIGHT_PX - _LINE_PX / 2)
        free = (y for y in inside if all(abs(y - other) >= _LINE_PX for other in taken))
        found.append(np.array([x, next(free, place[1])]))
    return np.array(found).reshape(-1, 2)
