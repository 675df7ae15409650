import numpy as np
import pytest
from support.drawings import pixels_of

from purify.core.errors import UserError
from purify.report.sections.images import MAX_SAMPLES, make_grids
from purify.report.thumbs import MAX_COLUMNS, THUMB_PX, make_thumb


@pytest.mark.parametrize('channels', [1, 3])
def test_small_images_are_kept_exactly_and_shown_at_a_whole_multiple(channels):
    image = np.random.default_rng(0).integers(0, 256, (20, 28, channels), np.uint8)
    thumb = make_thumb(image, 'a')
    assert np.array_equal(pixels_of(thumb).reshape(image.shape), image)
    assert (thumb.width, thumb.height, thumb.pixelated) == (28 * 3, 20 * 3, True)


def test_large_images_are_shrunk():
    image = np.zeros((500, 1000, 3), np.uint8)
    image[:, 500:] = (255, 0, 0)
    thumb = make_thumb(image, 'a')
    assert (thumb.width, thumb.height, thumb.pixelated) == (THUMB_PX, THUMB_PX // 2, False)
    small = pixels_of(thumb)
    assert small.shape == (48, 96, 3)
    assert tuple(small[20, 10]) == (0, 0, 0)
    assert tuple(small[20, 80]) == (255, 0, 0)


def test_a_hair_thin_image_keeps_a_pixel():
    assert pixels_of(make_thumb(np.zeros((1, 5000, 1), np.uint8), 'a')).shape == (1, THUMB_PX)


@pytest.mark.parametrize(
    'image',
    [
        np.zeros((4, 4), np.uint8),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((4, 4, 3)),
        np.zeros((0, 4, 3), np.uint8),
    ],
)
def test_other_arrays_are_refused(image):
    with pytest.raises(UserError, match=r'u8\[h w 1\] or u8\[h w 3\], not'):
        make_thumb(image, 'a')


def test_rows_and_labels(samples):
    (grid,), left_out = make_grids(samples, 'poisoned')
    assert left_out == 0
    assert [row.name for row in grid.rows] == ['original', 'poisoned', 'purified']
    assert grid.ids == [100, 101, 102, 103]
    assert grid.rows[2].thumbs[1] is None
    assert (grid.true_labels, grid.given_labels) == (['two'] * 4, ['zero'] * 4)
    assert np.array_equal(pixels_of(grid.rows[1].thumbs[2]), samples[2]['poisoned'][..., 0])
    assert grid.rows[0].thumbs[0].alt == 'original image 100, two labelled zero'
    wanted = ['original', 'as given', 'purified']
    assert [row.name for row in make_grids(samples, 'clean')[0][0].rows] == wanted


def test_a_row_without_any_image_is_left_out(samples):
    samples = [sample | {'purified': None} for sample in samples]
    wanted = ['original', 'poisoned']
    assert [row.name for row in make_grids(samples, 'poisoned')[0][0].rows] == wanted


def test_samples_are_limited_and_the_rest_is_counted(samples):
    grids, left_out = make_grids(
        [samples[0] | {'id': i} for i in range(MAX_SAMPLES + 5)], 'poisoned'
    )
    assert left_out == 5
    assert [i for grid in grids for i in grid.ids] == list(range(MAX_SAMPLES))
    assert max(len(grid.ids) for grid in grids) == MAX_COLUMNS


def test_labels_after_are_a_row_where_any_is_known(samples):
    assert make_grids(samples, 'poisoned')[0][0].labels_after is None
    samples[1]['label_after'] = 'dropped'
    assert make_grids(samples, 'poisoned')[0][0].labels_after == ['–', 'dropped', '–', '–']
    assert make_grids(samples, 'clean')[0][0].labels_after is None
