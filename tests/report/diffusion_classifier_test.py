import re

import numpy as np
import pytest
from report.typed import typed

from purify.report.sections.diffusion_classifier import draw_filters, list_filters


def line_of(drawing, colour):
    """Points f[n 2] of the longest line of a colour, in pixels."""
    paths = re.findall(
        rf'<path d="([^"]*)"[^>]*style="fill: none; stroke: var\(--{colour}\)', str(drawing.svg)
    )
    return max(
        (np.array(re.findall(r'(-?[\d.]+) (-?[\d.]+)', path), float) for path in paths), key=len
    )


def test_every_p_has_its_line(dissected):
    table = list_filters(typed(dissected))
    assert table is not None
    assert table.head == ['ACC', 'ASR', 'RA']
    wanted = [('p = 0', False), ('p = 0.05', True), ('p = 0.3', False)]
    assert [(name, headline) for name, headline, _ in table.lines] == wanted
    acc, asr, ra = table.lines[1][2]
    wanted = ('325 of 360', '90 of 324', '200 of 324')
    assert (acc.say_counts(), asr.say_counts(), ra.say_counts()) == wanted
    for text in ('16 draws', "EDM's weights", '48 network calls', 'on 360 test images'):
        assert text in table.note
    assert 'numbers after' not in table.note


def test_a_generator_that_stands_for_the_student_says_so(dissected):
    dissected['student'] = {
        name: value
        for name, value in dissected['diffusion']['filters'][1].items()
        if name != 'p_filter'
    }
    table = list_filters(typed(dissected))
    assert table is not None
    assert table.note.endswith('The numbers after are those of p = 0.05, of the generator itself.')


def test_lines_go_through_the_numbers(dissected):
    dissected['diffusion']['filters'].reverse()  # drawn in order all the same
    drawing = draw_filters(typed(dissected), 'f')
    assert drawing is not None
    rows = dissected['diffusion']['filters'][::-1]
    line = {
        name: line_of(drawing, colour)
        for name, colour in (('acc', 'after'), ('asr', 'before'), ('ra', 'line-3'))
    }
    across = line['acc'][:, 0]
    wanted = pytest.approx([0, 0.05 / 0.3, 1], abs=1e-3)
    assert (across - across[0]) / (across[-1] - across[0]) == wanted
    heights, shares = zip(
        *[
            (y, row[name])
            for name, points in line.items()
            for (_, y), row in zip(points, rows, strict=True)
        ],
        strict=True,
    )
    slope, start = np.polyfit(shares, heights, 1)
    assert slope < 0  # SVG counts downwards
    assert np.array(heights) == pytest.approx(slope * np.array(shares) + start, abs=0.01)
    assert 'p = 0.3: ACC 83.3 %, ASR 3.7 %, RA 86.4 %' in drawing.text


def test_names_at_the_end_of_lines_do_not_meet(dissected):
    for row in dissected['diffusion']['filters']:
        row |= {'acc': 1.0, 'asr': 0.99, 'ra': 0.98}
    drawing = draw_filters(typed(dissected), 'f')
    assert drawing is not None
    found = re.findall(
        r'translate\([\d.]+ ([\d.]+)\)[^>]*>(ACC|ASR|RA)<|y="([\d.]+)"[^>]*>(ACC|ASR|RA)<',
        str(drawing.svg),
    )
    places = sorted(float(a or b) for a, _, b, _ in found)
    assert len(places) == 3
    assert min(np.diff(places)) > 11


def test_nothing_measured_draws_nothing(dissected, results):
    dissected['diffusion']['filters'] = dissected['diffusion']['filters'][1:2]
    assert draw_filters(typed(dissected), 'f') is None
    assert list_filters(typed(dissected)) is not None
    dissected['diffusion'] = None
    assert list_filters(typed(dissected)) is draw_filters(typed(dissected), 'f') is None


def test_clean_data_has_accuracy_alone(dissected):
    for row in dissected['diffusion']['filters']:
        row |= {'asr': None, 'ra': None}
    table, drawing = list_filters(typed(dissected)), draw_filters(typed(dissected), 'f')
    assert table is not None
    assert drawing is not None
    assert [reading is None for reading in table.lines[0][2]] == [False, True, True]
    assert 'ASR' not in str(drawing.svg)
