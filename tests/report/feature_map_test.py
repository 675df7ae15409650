import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from purify.report.feature_map import count_neighbours, draw_map, say_map, spread, suspects

CLASSES = ['zero', 'one', 'two']


def dots_of(drawing):
    """Colour -> places f[n 2] of its dots, in pixels from the upper left corner."""
    found = {}
    for path, style in re.findall(r'<path d="([^"]*)"[^>]*style="([^"]*)"', str(drawing.svg)):
        if colour := re.search(r'stroke: var\(--([\w-]+)\)', style):
            strokes = np.array(
                re.findall(r'M ([\d.]+) ([\d.]+)\s+L ([\d.]+) ([\d.]+)', path), float
            )
            np.testing.assert_array_equal(strokes[:, :2], strokes[:, 2:])  # of no length
            assert 'stroke-linecap: round' in style
            found.setdefault(colour[1], []).append(strokes[:, :2])
    return {colour: np.concatenate(parts) for colour, parts in found.items()}


def test_every_image_is_a_dot_at_its_place_in_its_colour(atlas):
    dots = dots_of(draw_map(atlas, CLASSES, 'a'))
    points, poisoned = atlas['points'].astype(float), atlas['poisoned']
    share = (points - points.min(0)) / np.ptp(points, 0)
    pixels = np.stack([6 + 348 * share[:, 0], 340 - 6 - 328 * share[:, 1]], -1)
    groups = {
        'ink': poisoned,
        'before': np.isin(atlas['label'], [0, 2]) & ~poisoned,
        'map-1': (atlas['label'] == 1) & ~poisoned,
    }
    assert set(dots) == set(groups)
    for colour, own in groups.items():
        np.testing.assert_allclose(dots[colour], pixels[own], atol=0.051)


def test_names_stand_on_the_map_as_text(atlas):
    drawing = draw_map(atlas, ['$x^2$', '<b>' * 9, 'two'], 'a')
    words = re.findall(r'<text[^>]*>([^<]*)</text>', str(drawing.svg))
    assert words == ['$x^2$ (0)', 'two (2)', '&lt;b&gt;&lt;b&gt;&lt;b&gt;&lt;b&gt;&lt;…']
    assert drawing.text == f'Map. {say_map(atlas, ["$x^2$", "<b>" * 9, "two"])}'


def test_many_classes_go_without_names(atlas):
    atlas['label'] = np.arange(100) % 20
    words = re.findall(r'<text[^>]*>([^<]*)</text>', str(draw_map(atlas, [], 'a').svg))
    assert words == ['0', '2']


def test_neighbours_are_counted_as_by_all_distances(atlas):
    points, poisoned = atlas['points'].astype(float), atlas['poisoned']
    hits = {'true': 0, 'label': 0}
    for i in np.flatnonzero(poisoned):
        clean = [j for j in range(100) if not poisoned[j]]
        nearest = min(clean, key=lambda j: ((points[i] - points[j]) ** 2).sum())
        for name in hits:
            hits[name] += int(atlas['label'][nearest] == atlas[name][i])
    assert count_neighbours(atlas) == (*hits.values(), 15)
    assert hits['true'] > 10 > 3 > hits['label']
    text = say_map(atlas, CLASSES)
    assert 'The features of 100 of 250 images, by the first two principal components.' in text
    share = f'{100 * hits["true"] / 15:.1f}'.rstrip('0.')
    assert f'Of 15 poisoned images under a label that is not their own, {share}' in text


def test_images_that_kept_their_label_are_not_counted(atlas):
    atlas['true'] = atlas['label']
    assert count_neighbours(atlas) is None
    assert 'lie nearest' not in say_map(atlas, CLASSES)


@pytest.mark.parametrize(
    ('named', 'aims', 'strong'),
    [([0], [2], [0, 2]), ([], [0, 1, 2], []), ([1], [0, 1, 2], [1]), ([], [], [])],
)
def test_a_colour_for_all_classes_would_say_nothing(atlas, named, aims, strong):
    atlas['facts'] |= {'named': named, 'aims': aims}
    assert suspects(atlas) == strong


@given(seed=st.integers(0, 999), count=st.integers(1, 12))
def test_names_do_not_overlap(seed, count):
    rng = np.random.default_rng(seed)
    places = spread(rng.uniform([60, 100], [300, 240], (count, 2)))
    apart = np.abs(places[:, None] - places[None])
    free = (apart[..., 1] >= 13 - 1e-9) | (apart[..., 0] >= 70) | np.eye(count, dtype=bool)
    assert free.all()
    assert ((places > 0) & (places < [360, 340])).all()


def test_without_an_atlas_there_is_no_map(atlas):
    assert draw_map(None, CLASSES, 'a') is None
    atlas |= {
        name: atlas[name][:0] for name in ('ids', 'points', 'label', 'true', 'poisoned', 'named')
    }
    assert draw_map(atlas, CLASSES, 'a') is None
