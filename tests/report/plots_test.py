import re

import matplotlib as mpl
from report.typed import typed
from support.drawings import parse, words_of

from purify.report.before_after import before_after
from purify.report.canvas import WIDTH_PX
from purify.report.sections.curves import MAX_POINTS, draw_curves, thin_out
from purify.report.sections.result import draw_before_after


def test_figures_use_the_colours_and_ids_of_the_page(results, curves):
    for drawing in (
        draw_before_after(before_after(typed(results)), 'left'),
        draw_curves(curves['student'], 'right'),
    ):
        svg = str(drawing.svg)
        assert not re.findall(r'#[0-9a-f]{3,8}\b(?!")', svg.replace('url(#', ''))
        assert 'var(--' in svg
        assert '<style' not in svg
        ids = set(re.findall(r' id="([^"]+)"', svg))
        used = set(re.findall(r'(?:url\(#|href="#)([^)"]+)', svg))
        assert used <= ids
        assert all(name.startswith(('left-', 'right-')) for name in ids)
        assert parse(drawing).get('viewBox', '').startswith(f'0 0 {WIDTH_PX} ')


def test_the_same_numbers_give_the_same_bytes(curves):
    before = dict(mpl.rcParams)
    assert draw_curves(curves['student'], 'a') == draw_curves(curves['student'], 'a')
    assert dict(mpl.rcParams) == before


def test_bars_say_their_numbers(results):
    results['student']['asr'] = None
    drawing = draw_before_after(before_after(typed(results)), 'a')
    assert (
        drawing.text
        == 'Bars. ACC 98.9 % before, 97.5 % after; ASR 100 % before, not measured after; RA 0 %'
        ' before, 95.4 % after.'
    )
    assert parse(drawing).get('aria-label') == drawing.text
    assert {'ACC', 'ASR', 'RA', '100 %'} <= set(words_of(drawing))
    fills = re.findall(r'fill: var\(--(before|after)\)', str(drawing.svg))
    assert (fills.count('before'), fills.count('after')) == (3, 2)


def test_nothing_measured_is_no_figure(results, curves):
    results |= {'teacher': None, 'student': None}
    assert draw_before_after(before_after(typed(results)), 'a') is None
    assert draw_curves(curves['variations'], 'a') is None
    assert draw_curves([], 'a') is None


def test_curves_say_where_they_start_and_end(curves):
    drawing = draw_curves(curves['student'], 'a')
    assert (
        drawing.text
        == 'Curves. loss from 2 at step 10 to 0.1 at step 200; accuracy from 4.8 % at step 10 to'
        ' 95.2 % at step 200.'
    )
    assert {'loss', 'accuracy (%)', 'step'} <= set(words_of(drawing))
    assert 'accuracy (%)' not in words_of(draw_curves(curves['prior'], 'a'))


def test_gaps_and_single_rows_are_drawn():
    rows = [{'step': 1, 'loss': None}, {'step': 2, 'loss': 3.0}, {'step': 3, 'loss': float('nan')}]
    assert draw_curves(rows, 'a').text == 'Curves. loss from 3 at step 2 to 3 at step 2.'
    one = draw_curves(rows[1:2], 'a')
    assert '<use' in str(one.svg)  # a marker: a line of one point would be invisible


def test_names_are_text_not_formulas():
    rows = [{'step': i, 'loss': 1.0, 'loss_$x': 2.0, 'loss_<b>': 3.0} for i in range(3)]
    assert {'loss $x', 'loss <b>'} <= set(words_of(draw_curves(rows, 'a')))


def test_thinning_keeps_spikes_and_ends():
    line = [(float(i), 0.0) for i in range(10_000)]
    line[4321] = (4321.0, 9.0)
    line[8765] = (8765.0, -9.0)
    thin = thin_out(line)
    assert len(thin) <= MAX_POINTS
    assert {line[0], line[4321], line[8765], line[-1]} <= set(thin)
    assert thin == sorted(thin)
