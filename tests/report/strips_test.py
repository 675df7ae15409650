import numpy as np
from support.drawings import pixels_of

from purify.report.sections.gaze import lay_over, make_heats, say_place
from purify.report.sections.rounds import make_rounds
from purify.report.strips import MAX_ROWS, SMALL_PX

CLASSES = ['zero', 'one', 'two']


def test_labels_are_followed_along_the_rounds(pictures):
    poisoned, clean = make_rounds(pictures, CLASSES)
    wanted = ('poisoned', MAX_ROWS, 'clean', 2)
    assert (poisoned.kind, len(poisoned.strips), clean.kind, len(clean.strips)) == wanted
    assert poisoned.note == ''
    assert 'the defence accuses wrongly, then those it doubts' in clean.note
    assert poisoned.head == ['as given', 'round 1', 'round 2', 'round 3', 'purified']
    strip = poisoned.strips[1]
    assert strip.title == '101'
    assert strip.lines == ['true two (2)', 'given zero (0)', 'now two (2)', 'student: two (2)']
    wanted = ['zero (0)', 'zero (0)', 'one (1)', 'two (2)', 'two (2)']
    assert [cell.label for cell in strip.cells] == wanted
    assert [cell.wrong for cell in strip.cells] == [True, True, True, False, False]
    want = [pictures['given'][1], *pictures['rounds'][1], pictures['purified'][1]]
    for cell, image in zip(strip.cells, want, strict=True):
        np.testing.assert_array_equal(pixels_of(cell.thumb), image[..., 0])
        assert cell.thumb.width == SMALL_PX
    assert strip.cells[2].thumb.alt == 'round 2, image 101, seen as one (1)'


def test_a_dropped_image_is_not_shown(pictures):
    last = make_rounds(pictures, CLASSES)[1].strips[1].cells[-1]
    assert (last.thumb, last.label) == (None, '')
    heats = make_heats(pictures, CLASSES)[1].strips[1].cells
    assert [cell.thumb is None for cell in heats] == [False] * 4 + [True] * 2


def test_the_gaze_lies_over_the_image(pictures):
    strip = make_heats(pictures, CLASSES)[0].strips[0]
    assert len(strip.cells) == 6
    assert strip.lines == ['true two (2)', 'given zero (0)']
    found = strip.cells[3].thumb.alt
    assert found == 'gaze (lower right) on the given, image 100, seen as zero (0)'
    shown, given = pixels_of(strip.cells[3].thumb), pictures['given'][0]
    np.testing.assert_array_equal(shown[:7], np.repeat(given[:7], 3, -1))  # no heat: the image
    assert shown[7, 7].tolist() != given[7, 7].repeat(3).tolist()


def test_brighter_is_hotter():
    image = np.full((1, 256, 3), 90, np.uint8)
    shown = lay_over(image, np.arange(256, dtype=np.uint8)[None]).astype(int).sum(-1)[0]
    assert shown[0] == 270
    assert (np.diff(shown[128::8]) > 0).all()
    assert shown[-1] > 450


def test_places_in_words():
    def hot(row, column):
        heat = np.zeros((9, 9), np.uint8)
        heat[row, column] = 7
        return heat

    said = [say_place(hot(row, column)) for row, column in ((0, 0), (0, 4), (4, 4), (4, 8), (8, 0))]
    assert said == ['upper left', 'upper', 'centre', 'right', 'lower left']
    assert say_place(np.zeros((4, 4), np.uint8)) == 'nowhere'


def test_no_pictures_are_no_sheets(pictures):
    assert make_rounds(None, CLASSES) == make_heats(None, CLASSES) == []
    none = {name: value[:0] for name, value in pictures.items()}
    assert make_rounds(none, CLASSES) == []
