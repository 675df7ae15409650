"""The patches of the papers, pixel by pixel, as their text and released codes give them."""

import numpy as np
import pytest

from purify.attacks.fixed.patch import Patch
from purify.attacks.registry import build
from purify.core.errors import UserError

W, _ = 255, 0


def grey(rows):
    return np.repeat(np.array(rows, np.uint8)[..., None], 3, -1)


GRID = grey([[_, _, W], [_, W, _], [W, _, W]])
STAIRS = grey([[_, _, W], [_, W, _], [W, W, _]])
WHITE = grey([[W, W, W]] * 3)
BOARD_3 = grey([[_, W, _], [W, _, W], [_, W, _]])
BOARD_9 = grey(
    [[_, W, _, W, _, W, _, W, _], [W, _, W, _, W, _, W, _, W]] * 4 + [[_, W, _, W, _, W, _, W, _]]
)
DIAGONAL_5 = grey(
    [[_, _, _, _, W], [_, _, _, W, _], [_, _, W, _, _], [_, W, _, _, _], [W, _, _, _, _]]
)
BAND_3 = grey([[_, W, _], [W, _, _], [_, _, _]])  # offsets -1..-1
# offsets -2..0
BAND_5 = grey([[_, _, W, W, W], [_, W, W, W, _], [W, W, W, _, _], [W, W, _, _, _], [W, _, _, _, _]])
YELLOW, MAGENTA, CYAN, HALF = (255, 255, 0), (255, 0, 255), (0, 255, 255), (122, 122, 122)
BLOCKS_4 = np.array(
    [[YELLOW, YELLOW, MAGENTA, MAGENTA]] * 2 + [[CYAN, CYAN, HALF, HALF]] * 2, np.uint8
)
DBD_2 = np.array([[(180, 249, 112), (155, 50, 126)], [(234, 82, 68), (187, 201, 219)]], np.uint8)

# attack, image size, first row = first column of the patch, its pixels
CASES = {
    'white_patch': (build('white_patch'), 32, 29, WHITE),
    'dataelixir_patch': (build('dataelixir_patch'), 32, 28, BLOCKS_4),
    'dbd_patch': (build('dbd_patch'), 32, 4, DBD_2),
    'grid_patch': (build('grid_patch'), 32, 29, GRID),
    'patch': (build('patch'), 32, 29, BOARD_3),
    'checkerboard of 9 on 224': (Patch(size_px=9), 224, 215, BOARD_9),
    'badnets1 on CIFAR-10': (build('badnets1'), 32, 29, BAND_3),
    'band of 5': (Patch(pattern='band', size_px=5), 32, 27, BAND_5),
    'antidiagonal of 5': (Patch(pattern='antidiagonal', size_px=5), 32, 27, DIAGONAL_5),
    'stairs': (Patch(pattern='stairs', size_px=3), 32, 29, STAIRS),
    'grid of 6': (Patch(pattern='grid', size_px=6), 32, 26, GRID.repeat(2, 0).repeat(2, 1)),
}


@pytest.mark.parametrize('name', CASES)
def test_patch_has_these_pixels_at_this_place(name):
    attack, size, first, expected = CASES[name]
    image = np.random.default_rng(0).integers(0, 256, (size, size, 3), np.uint8)
    stamped = attack.stamp(image, 3)
    want = image.copy()
    want[first : first + len(expected), first : first + len(expected)] = expected
    np.testing.assert_array_equal(stamped, want)


@pytest.mark.parametrize(
    ('size', 'side', 'low', 'high'),
    [(512, 51, -13, 11), (256, 25, -7, 5), (224, 22, -6, 4), (8, 3, -1, -1)],
)
def test_band_of_badnets1(size, side, low, high):
    stamped = build('badnets1').stamp(np.full((size, size, 1), 77, np.uint8), 0)[..., 0]
    assert (stamped != 77).sum() == side * side
    for i in range(side):
        for j in range(side):
            white = low <= i + j - (side - 1) <= high
            assert stamped[size - side + i, size - side + j] == (255 if white else 0)


@pytest.mark.parametrize(
    ('colours', 'odd', 'even'),
    [
        (('yellow', 'red'), (255, 255, 0), (255, 0, 0)),
        (('#0000ff', 'white'), (0, 0, 255), (255, 255, 255)),
        (('green', 'black'), (0, 255, 0), (0, 0, 0)),
    ],
)
def test_checkerboard_has_its_second_colour_where_parities_agree(colours, odd, even):
    for size in (2, 9, 13, 17, 21, 25):
        patch = Patch(size_px=size, colours=colours).stamp(np.full((32, 32, 3), 99, np.uint8), 0)[
            -size:, -size:
        ]
        for i in range(size):
            for j in range(size):
                assert tuple(patch[i, j]) == (even if (i + j) % 2 == 0 else odd)


def test_transparent_patches_let_zero_channels_through_one_by_one():
    image = np.full((32, 32, 3), (7, 8, 9), np.uint8)
    patch = build('dataelixir_patch', transparent=True).stamp(image, 0)[28:, 28:]
    assert patch[0, 0].tolist() == [255, 255, 9]
    assert patch[0, 3].tolist() == [255, 8, 255]
    assert patch[3, 0].tolist() == [7, 255, 255]
    assert patch[3, 3].tolist() == [122, 122, 122]
    board = Patch(size_px=3, transparent=True).stamp(image, 0)[29:, 29:]
    assert board[0, 0].tolist() == [7, 8, 9]
    assert board[0, 1].tolist() == [255, 255, 255]
    found = build('dbd_patch', transparent=True).stamp(image, 0)
    np.testing.assert_array_equal(found, build('dbd_patch').stamp(image, 0))


def test_grey_images_get_the_luminance_of_the_blocks():
    patch = build('dataelixir_patch').stamp(np.zeros((32, 32, 1), np.uint8), 0)[28:, 28:, 0]
    assert patch[::2, ::2].tolist() == [[226, 105], [179, 122]]


@pytest.mark.parametrize(
    ('pattern', 'size', 'multiple'), [('blocks', 3, 2), ('grid', 4, 3), ('stairs', 5, 3)]
)
def test_patterns_that_are_cut_refuse_other_sizes(pattern, size, multiple):
    with pytest.raises(UserError, match=f'size_px={size}.*multiple of {multiple}'):
        Patch(pattern=pattern, size_px=size)


def test_badnets2_blends_a_fifth_of_the_cartoon():
    attack = build('badnets2', seed=4)
    pattern = build('blended', seed=4, pattern='cartoon', ratio=1.0).stamp(
        np.zeros((16, 16, 3), np.uint8), 0
    )
    image = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    exact = (4 * image.astype(int) + pattern) / 5
    stamped = attack.stamp(image, 0)
    np.testing.assert_array_equal(stamped[exact % 1 > 0], np.floor(exact)[exact % 1 > 0])
    assert np.abs(stamped - exact).max() <= 1
