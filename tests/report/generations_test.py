import itertools
import re

import numpy as np
import pytest
from report.typed import typed

from purify.report.sections.generations import (
    MAX_BARS,
    MAX_TILES,
    draw_sets,
    list_auroc,
    make_groups,
    say_dissection,
)


def bars_of(drawing, colour):
    """(left, right) of the filled boxes of a colour, in pixels."""
    found = []
    for path in re.findall(
        rf'<path d="([^"]*)"[^>]*style="fill: var\(--{colour}\)"', str(drawing.svg)
    ):
        across = np.array(re.findall(r'(-?[\d.]+) -?[\d.]+', path), float)
        found.append((across.min(), across.max()))
    return found


def dashes_of(drawing):
    """Places across of dashed lines in ink."""
    style = r'style="[^"]*stroke-dasharray[^"]*stroke: var\(--ink\)'
    found = re.findall(rf'<path d="M (-?[\d.]+) [^"]*"[^>]*{style}', str(drawing.svg))
    return [float(place) for place in found]


def test_the_probe_comes_first_and_both_say_how_many_images(dissected):
    titles = [title for title, _ in draw_sets(typed(dissected), 'made')]
    assert titles == [
        'The probe, more images of few classes: 1,000 images',
        'The generated set, by label: 300 images',
    ]


def test_bars_stack_to_the_whole_and_the_line_is_at_p_t(dissected):
    _, drawing = draw_sets(typed(dissected), 'made')[0]
    stack = [bars_of(drawing, colour)[0] for colour in ('before', 'line-3', 'map-3', 'map-1')]
    start, end = stack[0][0], stack[-1][1]
    for (_, right), (left, _) in itertools.pairwise(stack):
        assert right == pytest.approx(left, abs=0.01)
    wanted = pytest.approx([0.54, 0.194, 0.005, 0.261], abs=2e-4)
    assert [(right - left) / (end - start) for left, right in stack] == wanted
    wanted = pytest.approx([0.474], abs=2e-4)
    assert [(place - start) / (end - start) for place in dashes_of(drawing)] == wanted
    wanted = {'73.4 %', 'p_t 47.4 %'}
    assert wanted <= {text.strip() for text in re.findall(r'>([^<>]+)<', str(drawing.svg))}
    assert drawing.text == 'Bars. zero (0) G1 54.0 %, G2 19.4 %, G3 0.5 %, G4 26.1 %, p_t 47.4 %.'


def test_labels_without_poison_have_no_line(dissected):
    _, drawing = draw_sets(typed(dissected), 'made')[1]
    assert len(dashes_of(drawing)) == 1
    assert len(bars_of(drawing, 'before')) == 3
    dissected['dissection']['judges']['detector'] = None
    assert dashes_of(draw_sets(typed(dissected), 'made')[1][1]) == []


def test_of_many_labels_the_targets_stay(dissected):
    row = dissected['dissection']['sets']['generated'][1]
    rows = [row | {'label': label} for label in range(60)]
    rows[50] |= {'target': True, 'p_t': 0.4}
    dissected['dissection']['sets'] = {'generated': rows}
    dissected['classes'] = []
    ((_, drawing),) = draw_sets(typed(dissected), 'made')
    shown = re.findall(r'(?:^|; )(\d+) G1', drawing.text.removeprefix('Bars. '))
    assert [int(label) for label in shown] == [50, *range(MAX_BARS - 1)]
    assert drawing.text.endswith(f'{60 - MAX_BARS} more labels are left out.')


def test_the_note_says_how_and_by_whom(dissected):
    said = say_dissection(typed(dissected))
    assert said.startswith('Made by ddim in 50 steps at guidance 5.')
    assert 'the detector whether it shows' in said
    assert said.endswith(
        'FID by features of labeller (resnet, 3 classes), not of Inception: compare it with runs '
        'of this network only. A note on FID.'
    )
    dissected['dissection']['judges']['detector'] = None
    assert 'no trigger to look for' in say_dissection(typed(dissected))


def test_scores_stand_side_by_side(dissected):
    table = list_auroc(typed(dissected))
    assert table is not None
    assert table.lines == [
        ('STRIP', [('0.610', False), ('0.722', True), ('144', False), ('51', False)]),
        ('FCT', [('0.800', False), ('–', False), ('144', False), ('51', False)]),
    ]
    dissected['dissection']['auroc'] = []
    assert list_auroc(typed(dissected)) is None


def test_each_group_has_its_pictures(dissected, shown):
    groups = make_groups(shown, typed(dissected))
    wanted = [('G1', '54.0 %, 540 of 1,000', MAX_TILES), ('G2', '19.4 %, 194 of 1,000', 3)]
    wanted += [('G4', '26.1 %, 261 of 1,000', 5)]
    assert [(group.name, group.said, len(group.tiles)) for group in groups] == wanted
    assert {(tile.label, tile.wrong) for tile in groups[0].tiles} == {('two (2)', True)}
    assert {(tile.label, tile.wrong) for tile in groups[1].tiles} == {('zero (0)', False)}
    found = groups[0].tiles[1].thumb.alt
    assert found == 'generation 1, made of zero (0), seen as two (2), trigger 98.0 % likely'


def test_runs_without_a_generator_have_none(results, shown):
    assert draw_sets(typed(results), 'a') == make_groups(shown, typed(results)) == []
    assert say_dissection(typed(results)) == ''
    assert list_auroc(typed(results)) is None
