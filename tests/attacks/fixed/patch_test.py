import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from purify.attacks.fixed.patch import CORNERS, Patch
from purify.attacks.pixels import COLOURS, parse_colour
from purify.core.errors import UserError


@st.composite
def cases(draw, corners=CORNERS):
    """A patch, an image that it fits into, and an id."""
    patch = Patch(
        target=draw(st.integers(0, 9)),
        seed=draw(st.integers(0, 2**31)),
        size_px=draw(st.integers(1, 6)),
        pattern=draw(st.sampled_from(('checkerboard', 'solid'))),
        corner=draw(st.sampled_from(corners)),
        margin_px=draw(st.integers(0, 3)),
    )
    least = patch.size_px + 2 * patch.margin_px
    shape = (
        draw(st.integers(least, least + 9)),
        draw(st.integers(least, least + 9)),
        draw(st.sampled_from((1, 3))),
    )
    image = np.random.default_rng(draw(st.integers(0, 999))).integers(0, 256, shape, np.uint8)
    return patch, image, draw(st.integers(0, 2**40))


@given(cases())
def test_stamp_replaces_the_patch_and_nothing_else(case):
    patch, image, id = case
    before = image.copy()
    stamped = patch.stamp(image, id)
    np.testing.assert_array_equal(image, before)
    assert stamped.dtype == np.uint8
    assert stamped.shape == image.shape
    row, column = patch.place(image.shape[0], image.shape[1], id)
    inside = np.zeros(image.shape[:2], bool)
    inside[row : row + patch.size_px, column : column + patch.size_px] = True
    assert inside.sum() == patch.size_px**2
    np.testing.assert_array_equal(stamped[~inside], image[~inside])
    # Whatever was below the patch is gone: another image gets the very same pixels there.
    np.testing.assert_array_equal(patch.stamp(255 - image, id)[inside], stamped[inside])


@given(cases())
def test_stamp_is_idempotent_and_a_function_of_seed_and_id(case):
    patch, image, id = case
    once = patch.stamp(image, id)
    np.testing.assert_array_equal(patch.stamp(once, id), once)
    np.testing.assert_array_equal(Patch(**patch.parameters()).stamp(image, np.int64(id)), once)


@given(cases())
def test_margin_keeps_the_patch_off_the_border(case):
    patch, image, id = case
    row, column = patch.place(image.shape[0], image.shape[1], id)
    bottom, right = image.shape[0] - row - patch.size_px, image.shape[1] - column - patch.size_px
    assert min(row, column, bottom, right) >= patch.margin_px
    if patch.corner == 'diagonal':
        assert row == column
    elif patch.corner != 'random':
        vertical, horizontal = patch.corner.split('_')
        assert {'top': row, 'bottom': bottom}[vertical] == patch.margin_px
        assert {'left': column, 'right': right}[horizontal] == patch.margin_px


def test_checkerboard_is_black_at_its_top_left_and_lies_bottom_right():
    image = np.full((5, 7, 3), 100, np.uint8)
    stamped = Patch(target=0, seed=0, size_px=3).stamp(image, 0)
    board = [[0, 255, 0], [255, 0, 255], [0, 255, 0]]
    for channel in range(3):
        np.testing.assert_array_equal(stamped[2:, 4:, channel], board)


def test_even_checkerboard_puts_the_first_colour_where_parities_differ():
    patch = Patch(target=0, seed=0, size_px=2, colours=('yellow', '#0102ff'), corner='top_left')
    stamped = patch.stamp(np.zeros((4, 4, 3), np.uint8), 0)
    assert stamped[:2, :2].tolist() == [[[1, 2, 255], [255, 255, 0]], [[255, 255, 0], [1, 2, 255]]]


def test_black_patch_is_black():
    patch = Patch(target=0, seed=0, size_px=2, pattern='solid', colours=('black',))
    stamped = patch.stamp(np.full((4, 4, 3), 9, np.uint8), 0)
    assert stamped[2:, 2:].max() == 0
    assert stamped[:2].min() == 9


@pytest.mark.parametrize(
    ('colour', 'grey'), [('white', 255), ('black', 0), ('red', 76), ('green', 150), ('blue', 29)]
)
def test_grey_images_get_the_luminance(colour, grey):
    patch = Patch(target=0, seed=0, size_px=1, pattern='solid', colours=(colour,))
    stamped = patch.stamp(np.zeros((2, 2, 1), np.uint8), 0)
    assert stamped[1, 1, 0] == grey


def test_random_place_is_uniform_and_independent_in_rows_and_columns():
    patch = Patch(target=0, seed=3, size_px=2, corner='random', margin_px=1)
    places = np.array([patch.place(8, 7, id) for id in range(3000)])
    table, _, _ = np.histogram2d(
        places[:, 0], places[:, 1], bins=(np.arange(1, 7), np.arange(1, 6))
    )
    assert table.shape == (5, 4)
    assert table.sum() == 3000, 'every place lies inside the margin'
    expected = 3000 / 20
    # chi-squared with 19 degrees of freedom: p = 1e-4
    assert ((table - expected) ** 2 / expected).sum() < 50
    other = Patch(target=0, seed=4, size_px=2, corner='random', margin_px=1)
    assert any(other.place(8, 7, id) != tuple(places[id]) for id in range(20))


def test_relabel_gives_the_target():
    assert Patch(target=7, seed=0, size_px=1).relabel(2) == 7


def test_digest_knows_every_parameter():
    base = {'target': 0, 'seed': 1, 'size_px': 3}
    changes = [{'target': 1}, {'seed': 2}, {'size_px': 4}, {'pattern': 'solid'}]
    changes += [{'colours': ('red', 'black')}, {'corner': 'top_left'}, {'margin_px': 1}]
    digests = [Patch(**base).digest()] + [Patch(**(base | change)).digest() for change in changes]
    assert len(set(digests)) == len(digests)
    assert digests[0] == Patch(**base, colours=('white', 'black')).digest()
    assert len(digests[0]) == hashlib.sha256().digest_size * 2


def test_digest_knows_the_pixels(monkeypatch):
    patch = Patch(target=0, seed=1, size_px=3)
    before = patch.digest()
    monkeypatch.setitem(COLOURS, 'white', (254, 255, 255))
    assert patch.digest() != before


@pytest.mark.parametrize(
    ('wrong', 'told'),
    [
        ({'size_px': -1}, 'size_px=-1'),
        ({'size_px': 2.5}, 'size_px=2.5'),
        ({'size_px': True}, 'size_px=True'),
        ({'margin_px': -1}, 'margin_px=-1'),
        ({'target': -1}, 'target=-1'),
        ({'seed': -5}, 'seed=-5'),
        ({'corner': 'middle'}, 'bottom_left, bottom_right, diagonal, random'),
        (
            {'pattern': 'stripes'},
            'antidiagonal, band, blocks, checkerboard, grid, picture, solid, stairs',
        ),
        ({'colours': ('white',)}, "'checkerboard' takes 2"),
        ({'pattern': 'solid', 'colours': ('white', 'black')}, "'solid' takes 1"),
        ({'colours': ('white', 'mauve')}, "unknown colour 'mauve'"),
        ({'colours': ('white', '#12345')}, '#rrggbb'),
        ({'colours': 5}, 'colours=5'),
        ({'colours': None}, 'colours=None'),
        ({'colours': ([1], 'red')}, 'unknown colour'),
        ({'path': 5}, 'path=5'),
        ({'transparent': 1}, 'transparent=1'),
        ({'size_px': 4097}, 'size_px=4097 .* at most 4096'),
        ({'margin_px': 10**5000}, 'margin_px'),
    ],
)
def test_wrong_settings_are_refused_at_construction(wrong, told):
    with pytest.raises(UserError, match=told):
        Patch(**({'target': 0, 'seed': 0, 'size_px': 3} | wrong))


@pytest.mark.parametrize(
    ('corner', 'margin', 'needed'), [('bottom_right', 2, 5), ('random', 2, 7), ('top_left', 0, 3)]
)
def test_patch_must_fit(corner, margin, needed):
    patch = Patch(target=0, seed=0, size_px=3, corner=corner, margin_px=margin)
    patch.stamp(np.zeros((needed, needed, 3), np.uint8), 0)
    said = f'needs {needed} pixels, but image 12 has {needed} x {needed - 1}'
    with pytest.raises(UserError, match=said):
        patch.stamp(np.zeros((needed, needed - 1, 3), np.uint8), 12)


@pytest.mark.parametrize(
    ('shape', 'dtype'), [((4, 4), 'uint8'), ((4, 4, 4), 'uint8'), ((4, 4, 3), 'float32')]
)
def test_other_images_are_refused(shape, dtype):
    with pytest.raises(UserError, match=r'uint8 .height, width, channels.'):
        Patch(target=0, seed=0, size_px=1).stamp(np.zeros(shape, dtype), 0)


def test_colours_by_name_and_number_agree():
    assert parse_colour('#FFff00') == parse_colour('yellow') == (255, 255, 0)


def test_diagonal_places_vary():
    patch = Patch(size_px=2, corner='diagonal')
    places = {patch.place(8, 12, id) for id in range(200)}
    assert places == {(k, k) for k in range(7)}


def test_a_picture_replaces_the_corner(tmp_path):
    picture = np.random.default_rng(0).integers(0, 256, (4, 4, 3), np.uint8)
    Image.fromarray(picture).save(tmp_path / 'mark.png')
    patch = Patch(size_px=4, pattern='picture', path=str(tmp_path / 'mark.png'))
    stamped = patch.stamp(np.full((9, 9, 3), 7, np.uint8), 0)
    np.testing.assert_array_equal(stamped[5:, 5:], picture)
    assert (stamped[:5] == 7).all()
    before = patch.digest()
    Image.fromarray(255 - picture).save(tmp_path / 'mark.png')
    again = Patch(size_px=4, pattern='picture', path=str(tmp_path / 'mark.png'))
    assert again.digest() != before
    assert again != patch
    with pytest.raises(UserError, match="'picture' has its own"):
        Patch(pattern='picture', path=str(tmp_path / 'mark.png'), colours=('white',))
    with pytest.raises(UserError, match='Drop it'):
        Patch(path=str(tmp_path / 'mark.png'))
    with pytest.raises(UserError, match='does not exist'):
        Patch(pattern='picture', path=str(tmp_path / 'none.png'))
