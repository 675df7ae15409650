import re

import numpy as np
import pytest
from report.typed import typed
from support.drawings import dots_of

from purify.report.sections.replication import draw_copies, list_copies, make_triplets, say_copies

CLASSES = ['zero', 'one', 'two']


def test_a_dot_for_each_pair_where_its_similarities_are(copies, dissected):
    drawing = draw_copies(copies, typed(dissected), 'c')
    assert drawing is not None
    dots = dots_of(drawing)
    assert (len(dots['before']), len(dots['after'])) == (10, 30)  # poisoned, clean
    places = np.concatenate([dots['before'], dots['after']])
    for axis, name in enumerate(('similarity', 'twin_similarity')):
        slope, start = np.polyfit(copies[name], places[:, axis], 1)
        assert places[:, axis] == pytest.approx(slope * copies[name] + start, abs=0.11)
        assert (slope > 0) == (axis == 0)
    beyond = int((copies['similarity'][10:] > 0.3).sum())
    assert (
        drawing.text
        == f'Dots, 40 pairs. Beyond 0.3: {beyond} of 30 with a clean B, 10 of 10 with a poisoned B.'
    )
    lines = re.findall(
        r'<path d="M ([\d.]+) ([\d.]+)[^"]*L ([\d.]+) ([\d.]+)[^"]*"[^>]*stroke-dasharray',
        str(drawing.svg),
    )
    assert len(lines) == 2
    slope, start = np.polyfit(copies['similarity'], places[:, 0], 1)
    assert float(lines[0][0]) == float(lines[0][2]) == pytest.approx(0.3 * slope + start, abs=0.11)


def test_numbers_of_all_pairs(dissected):
    lines = {name: (value, meaning) for name, value, meaning in list_copies(typed(dissected))}
    wanted = ('0.457', 'of 1,000 generations to the training image most alike')
    assert lines['Mean similarity'] == wanted
    assert lines['Above 0.3'] == ('25.0 %', 'of generations; 95 % interval 22.0 to 28.0 %')
    assert lines['Poisoned matches'][1].endswith('of which 10.0 % are poisoned')
    assert lines['Of copied images'][0] == '0.6'
    dissected['replication'] |= {'poisoned_matches': None, 'copied': None, 'mean': None}
    wanted = [('Mean similarity', '–'), ('Above 0.3', '25.0 %')]
    assert [(name, value) for name, value, _ in list_copies(typed(dissected))] == wanted


def test_the_encoder_is_named_and_judged(dissected):
    assert say_copies(typed(dissected)).startswith(
        'Similarity is the cosine of features of simclr. It was not made to find copies'
    )
    dissected['replication'] |= {'encoder': 'SSCD', 'copy_detection': True}
    assert say_copies(typed(dissected)) == 'Similarity is the cosine of features of SSCD.'


def test_triplets_stand_in_columns(copies):
    table = make_triplets(copies, CLASSES)
    assert table is not None
    assert table.ids == [500, 502, 511]
    wanted = ['generation A', 'nearest training image B', 'its nearest, C']
    assert [row.name for row in table.rows] == wanted
    assert [thumb.alt for row in table.rows for thumb in row.thumbs[1:2] if thumb] == [
        'generation A, image 502 under label one (1)',
        'nearest training image B, image 12 under label one (1)',
        'its nearest, C, image 92 under label one (1)',
    ]
    said = dict(table.lines)
    assert said['label of A'] == ['zero (0)', 'one (1)', 'two (2)']
    assert said['B is'] == ['poisoned', 'poisoned', 'clean']
    assert said['A and B'] == [f'{copies["similarity"][pair]:.3f}' for pair in (0, 2, 11)]


def test_runs_that_looked_for_no_copies_have_none(results, copies):
    assert draw_copies(None, typed(results), 'c') is make_triplets(None, CLASSES) is None
    assert list_copies(typed(results)) == []
    assert say_copies(typed(results)) == ''
    none = {name: column[:0] for name, column in copies.items()}
    assert draw_copies(none, typed(results), 'c') is make_triplets(none, CLASSES) is None
