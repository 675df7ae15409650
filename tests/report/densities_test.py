import re

import numpy as np
import pytest
from report.typed import findings_of
from support.drawings import dots_of

from purify.report.densities import MOST_DOTS, count_bins, draw_foreign, draw_scores, find_cuts

CLASSES = ['zero', 'one', 'two']


def test_bins_hold_what_numbers_say(atlas, relabelled):
    row = relabelled['findings']['labels'][0]
    own = atlas['close_label'] == 0
    foreign, poisoned = atlas['close_foreign'][own], atlas['close_poisoned'][own]
    counts = count_bins(
        foreign, {'clean': ~poisoned, 'poisoned': poisoned}, (row['low'], row['high']), 10
    )
    for kind in (0, 1):
        assert counts[kind].tolist() == [
            sum(
                1
                for v, p in zip(foreign, poisoned, strict=True)
                if p == kind and b - 10 <= v < b - 9
            )
            for b in range(10)
        ]


def test_every_close_class_has_its_histogram(atlas, relabelled):
    found = draw_foreign(atlas, findings_of(relabelled['findings']), CLASSES, 'a')
    wanted = ['zero (0): non-disruptive', 'two (2): missed', 'one (1): not named']
    assert [title for title, _ in found] == wanted
    zero, two, one = (drawing for _, drawing in found)
    seen = zero.text
    assert seen == 'Histogram of zero (0): 30 clean and 10 poisoned images; λ = 0.75, no place μ.'
    own = atlas['close_label'] == 2
    below = own & (atlas['close_foreign'] < -7)
    left = [int((below & (atlas['close_poisoned'] == kind)).sum()) for kind in (False, True)]
    assert two.text.endswith(
        f'μ = 0.3; in the bins left of that one are {left[0]} clean and {left[1]} poisoned images.'
    )
    marks = [len(re.findall('stroke-dasharray', str(drawing.svg))) for drawing in (zero, two, one)]
    assert marks == [1, 2, 2]
    fills = [
        set(re.findall(r'fill: var\(--(before|after)\)', str(drawing.svg)))
        for drawing in (zero, two, one)
    ]
    assert fills == [{'before'}, {'before'}, {'after'}]


def test_a_named_class_that_is_innocent_is_said_to_be(atlas, relabelled):
    atlas['facts']['aims'] = [2]
    found = draw_foreign(atlas, findings_of(relabelled['findings']), CLASSES, 'a')[0][0]
    assert found == 'zero (0): non-disruptive, wrongly'


def test_cuts_lie_half_way_between_verdicts():
    score = np.array([4.0, -1.0, 0.0, 9.0, 2.0])
    assert find_cuts(score, np.array([2, 3, 3, 1, 2], np.uint8)) == [(1.0, 3, 2), (6.5, 2, 1)]
    # 3, 1, 2, 2, 1 along the scores: mixed
    assert find_cuts(score, np.array([2, 3, 1, 1, 2], np.uint8)) == []
    assert find_cuts(score, np.zeros(5, np.uint8)) == []


def test_scores_lie_in_the_lane_of_the_truth(atlas):
    found = draw_scores(atlas, findings_of({}), CLASSES, 'a')
    assert [title for title, _ in found] == ['zero (0)', 'two (2)']
    drawing = found[0][1]
    lanes = dots_of(drawing)
    assert (len(lanes['ink']), len(lanes['before'])) == (10, 30)
    assert lanes['ink'][:, 1].min() > lanes['before'][:, 1].max()  # lower on the page
    # scores of poisoned images are below those of clean ones
    assert lanes['ink'][:, 0].max() < lanes['before'][:, 0].min()
    said = re.findall(
        r'Divided at: (\S+) .below: as poisoned, above: as dropped., (\S+) .below: as dropped,'
        r' above: as clean',
        drawing.text,
    )
    wanted = pytest.approx([(-4.93 - 4.92) / 2, (5.31 + 5.32) / 2], abs=0.006)
    assert [float(cut) for cut in said[0]] == wanted
    medians = re.findall(r'Medians: clean (\S+), poisoned (\S+)\.', drawing.text)
    assert [float(median) for median in medians[0]] == pytest.approx([5.245, -4.955], abs=0.006)
    assert 'Divided at: nowhere.' in found[1][1].text


def test_many_scores_are_thinned_to_both_ends_and_outliers_stay_on_the_page(atlas):
    count = 4 * MOST_DOTS
    score = np.arange(count, dtype=float)
    score[-1] = 1e9
    whole = {
        'close_label': np.zeros(count, int),
        'close_poisoned': np.arange(count) < 5,
        'close_verdict': np.ones(count, np.uint8),
    }
    drawing = draw_scores(atlas | whole | {'close_score': score}, findings_of({}), CLASSES, 'a')[0][
        1
    ]
    lanes = dots_of(drawing)
    assert (len(lanes['before']), len(lanes['ink'])) == (MOST_DOTS, 5)
    assert lanes['before'][:, 0].max() < 360
    assert np.ptp(lanes['before'][:, 0]) > 200


def test_nothing_to_draw_draws_nothing(atlas, relabelled):
    assert (
        draw_foreign(None, findings_of(relabelled['findings']), CLASSES, 'a')
        == draw_scores(None, findings_of({}), CLASSES, 'a')
        == []
    )
    del atlas['close_foreign']
    assert draw_foreign(atlas, findings_of(relabelled['findings']), CLASSES, 'a') == []
    assert len(draw_scores(atlas, findings_of({}), CLASSES, 'a')) == 2  # a filter's scores
    del atlas['close_score']
    assert draw_scores(atlas, findings_of({}), CLASSES, 'a') == []


def test_axes_say_in_words_what_is_low_and_how_many_images_are_in_a_lane(atlas):
    page = str(draw_scores(atlas, findings_of({}), CLASSES, 'a')[0][1].svg)
    words = re.findall(r'>([^<>]+)<', page)
    wanted = {'n = 30', 'n = 10', 'log s; low: looks more like another class'}
    assert wanted <= {word.strip() for word in words}
    facts = {'rule': {'score': 'outside'}, 'types': {'0': 'disruptive'}}
    zero, two = (
        str(drawing.svg) for _, drawing in draw_scores(atlas, findings_of(facts), CLASSES, 'a')
    )
    assert 'low: looks like no class' in zero
    assert 'low: looks like no class' not in two
