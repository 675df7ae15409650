"""The warp against formulas written out pixel by pixel, SciPy's and OpenCV's samplers."""

import math

import cv2
import numpy as np
import pytest
import scipy.ndimage
from hypothesis import given, settings
from hypothesis import strategies as st

from purify.attacks.fixed.warp import Warp
from purify.core.errors import UserError


def bicubic(points, height, width):
    """One plane of control points -> [height][width], by cubic convolution with a = -0.75."""
    a = -0.75

    def kernel(t):
        t = abs(t)
        if t <= 1:
            return (a + 2) * t**3 - (a + 3) * t**2 + 1
        return a * t**3 - 5 * a * t**2 + 8 * a * t - 4 * a if t < 2 else 0.0

    def at(i, j):
        return points[min(max(i, 0), len(points) - 1)][min(max(j, 0), len(points[0]) - 1)]

    def value(y, x):
        y0, x0 = math.floor(y), math.floor(x)
        taps = [(i, j) for i in range(y0 - 1, y0 + 3) for j in range(x0 - 1, x0 + 3)]
        return sum(at(i, j) * kernel(y - i) * kernel(x - j) for i, j in taps)

    k = len(points) - 1
    return [
        [value(i * k / (height - 1), j * k / (width - 1)) for j in range(width)]
        for i in range(height)
    ]


def sampled(image, grid):
    """Bilinear values of u8[h w c] at grid [h w 2] of (column, row) in -1..1, corners aligned."""
    height, width, channels = image.shape
    out = np.zeros(image.shape)
    for i in range(height):
        for j in range(width):
            x, y = (grid[i, j, 0] + 1) * (width - 1) / 2, (grid[i, j, 1] + 1) * (height - 1) / 2
            x0, y0 = math.floor(x), math.floor(y)
            for row, column in ((y0, x0), (y0, x0 + 1), (y0 + 1, x0), (y0 + 1, x0 + 1)):
                weight = (1 - abs(y - row)) * (1 - abs(x - column))
                if weight > 0:
                    out[i, j] += weight * image[min(row, height - 1), min(column, width - 1)]
    assert channels == out.shape[-1]
    return out


def reference_grid(attack, points, height, width):
    grid = np.zeros((height, width, 2))
    fields = [bicubic(points[axis].tolist(), height, width) for axis in (0, 1)]
    for i in range(height):
        for j in range(width):
            column = -1 + 2 * j / (width - 1) + attack.strength * fields[0][i][j] / width
            row = -1 + 2 * i / (height - 1) + attack.strength * fields[1][i][j] / height
            grid[i, j] = [min(max(place * attack.rescale, -1), 1) for place in (column, row)]
    return grid


def control_points(k, seed):
    return np.random.default_rng(seed).uniform(-3, 3, (2, k, k))


@settings(max_examples=12)
@given(
    height=st.integers(2, 14),
    width=st.integers(2, 14),
    k=st.integers(1, 6),
    strength=st.sampled_from((0.5, 1.0, 4.0)),
    rescale=st.sampled_from((1.0, 0.98, 1.1)),
    channels=st.sampled_from((1, 3)),
    seed=st.integers(0, 99),
)
def test_grid_and_pixels_are_those_of_the_paper(
    height, width, k, strength, rescale, channels, seed
):
    points = control_points(k, seed)
    attack = Warp(control=points, strength=strength, rescale=rescale)
    image = np.random.default_rng(seed).integers(0, 256, (height, width, channels), np.uint8)
    grid = reference_grid(attack, points, height, width)
    np.testing.assert_allclose(attack.shared(image.shape, 'test')['grid'], grid, rtol=0, atol=1e-12)
    exact = sampled(image, grid)
    assert np.abs(attack.stamp(image, 0) - exact).max() <= 0.5 + 1e-9, 'rounded, not truncated'


@pytest.mark.parametrize('mode', ['test', 'training', 'cover'])
def test_sampling_agrees_with_scipy_and_opencv(mode):
    image = np.random.default_rng(0).integers(0, 256, (40, 56, 3), np.uint8)
    attack = Warp(seed=2, strength=3.0)
    grid = attack.shared(image.shape, mode)['grid']
    if mode == 'cover':
        grid = np.clip(grid + attack.drawn(image.shape, 7, mode)['noise'], -1, 1)
    x, y = (grid[..., 0] + 1) / 2 * 55, (grid[..., 1] + 1) / 2 * 39
    stamped = attack.stamp(image, 7, mode).astype(float)
    exact = np.stack(
        [
            scipy.ndimage.map_coordinates(
                image[..., c].astype(float), [y, x], order=1, mode='nearest'
            )
            for c in range(3)
        ],
        -1,
    )
    assert np.abs(stamped - exact).max() <= 0.5 + 1e-9
    remapped = cv2.remap(
        image.astype(np.float32),
        x.astype(np.float32),
        y.astype(np.float32),
        cv2.INTER_LINEAR,
        None,
        cv2.BORDER_REPLICATE,
    )
    # OpenCV places samples on a raster of 1/32 pixel: two steps of up to 1/64 pixel on slopes of up
    # to 255 levels.
    assert np.abs(stamped - remapped).max() <= 0.5 + 2 * 255 / 64
    assert np.abs(stamped - remapped).mean() < 1.2


def test_drawn_field_is_uniform_noise_divided_by_its_mean():
    attack, drawn = Warp(seed=5, control_px=4), np.random.default_rng(5).uniform(-1, 1, (2, 4, 4))
    np.testing.assert_array_equal(attack.pattern_pixels(), drawn)
    points_given = Warp(seed=5, control=drawn / np.abs(drawn).mean())
    grid, wanted = (one.shared((9, 13, 3), 'test')['grid'] for one in (attack, points_given))
    np.testing.assert_array_equal(grid, wanted)


def test_one_control_point_per_pixel_is_not_smoothed():
    attack = Warp(seed=1, control_px=0, strength=1.0)
    height, width = 12, 10
    field = np.random.default_rng(1).uniform(-1, 1, (2, height, width))
    field /= np.abs(field).mean()
    x, y = np.linspace(-1, 1, width), np.linspace(-1, 1, height)
    grid = attack.shared((height, width, 1), 'test')['grid']
    wanted = np.clip(x[None] + field[0] / width, -1, 1)
    np.testing.assert_allclose(grid[..., 0], wanted, rtol=0, atol=1e-12)
    wanted = np.clip(y[:, None] + field[1] / height, -1, 1)
    np.testing.assert_allclose(grid[..., 1], wanted, rtol=0, atol=1e-12)


def test_cover_images_keep_the_warp_and_add_noise_of_their_own():
    shape, size = (60, 40, 3), np.array([40, 60])
    attack = Warp(seed=3, noise=2.0)
    assert attack.drawn(shape, 4, 'test') == attack.drawn(shape, 4, 'training') == {}
    noise = attack.drawn(shape, 4, 'cover')['noise'] * size
    assert 1.9 < np.abs(noise).max() <= 2
    assert abs(noise.mean()) < 0.05
    assert abs(noise.std() - 2 / math.sqrt(3)) < 0.05, 'uniform'
    assert not np.array_equal(noise, attack.drawn(shape, 5, 'cover')['noise'] * size)
    image = np.random.default_rng(0).integers(0, 256, (12, 9, 3), np.uint8)
    grid = (
        attack.shared(image.shape, 'cover')['grid'] + attack.drawn(image.shape, 4, 'cover')['noise']
    )
    found = np.abs(attack.stamp(image, 4, 'cover') - sampled(image, np.clip(grid, -1, 1))).max()
    assert found <= 0.5 + 1e-9
    found = Warp(noise=0).stamp(image, 4, 'cover')
    np.testing.assert_array_equal(found, Warp(noise=0).stamp(image, 4, 'training'))


def test_an_image_moved_by_nothing_stays():
    image = np.random.default_rng(0).integers(0, 256, (33, 47, 3), np.uint8)
    np.testing.assert_array_equal(Warp(control=np.zeros((2, 4, 4))).stamp(image, 0), image)


def test_first_plane_moves_columns_and_the_border_repeats():
    ramp = np.tile(np.arange(0, 200, 10, dtype=np.uint8), (5, 1))[..., None]
    right = np.stack([np.ones((2, 2)), np.zeros((2, 2))])
    # 20 columns: one column is 2 / 19, so 2 / 9.5 / 2 = 1 column
    moved = Warp(control=right, strength=20 / 9.5).stamp(ramp, 0)
    np.testing.assert_array_equal(moved[:, :-1], ramp[:, 1:])
    np.testing.assert_array_equal(moved[:, -1], ramp[:, -1])
    np.testing.assert_array_equal(Warp(control=right[::-1], strength=1.0).stamp(ramp, 0), ramp)


def test_default_moves_pixels_by_about_a_quarter():
    moves = []
    for seed in range(50):
        grid = Warp(seed=seed).shared((32, 32, 3), 'test')['grid']
        identity = np.stack(np.meshgrid(*[np.linspace(-1, 1, 32)] * 2), -1)
        moves.append(np.abs(grid - identity).mean() * 31 / 2)
    assert 0.15 < np.mean(moves) < 0.3


def test_control_points_come_from_a_file_or_a_sequence(tmp_path):
    points = control_points(5, 0)
    np.save(tmp_path / 'field.npy', points)
    image = np.random.default_rng(0).integers(0, 256, (20, 20, 3), np.uint8)
    from_file, from_list = Warp(control=str(tmp_path / 'field.npy')), Warp(control=points.tolist())
    assert from_file == from_list
    assert from_file.digest() == from_list.digest() == Warp(control_px=9, control=points).digest()
    assert from_file.control_px == 5
    np.testing.assert_array_equal(from_file.stamp(image, 0), from_list.stamp(image, 0))
    np.save(tmp_path / 'field.npy', points + 1e-6)
    changed = Warp(control=str(tmp_path / 'field.npy'))
    assert changed != from_file
    assert changed.digest() != from_file.digest()
    assert hash(changed) != hash(from_file)
    again = Warp(**from_list.parameters())
    np.testing.assert_array_equal(again.stamp(image, 0), from_list.stamp(image, 0))


def test_unusable_control_points_are_refused(tmp_path):
    def refused(points, told):
        np.save(tmp_path / 'f.npy', points)
        with pytest.raises(UserError, match=told):
            Warp(control=str(tmp_path / 'f.npy'))

    refused(np.zeros((4, 4, 2)), r'shape \[4, 4, 2\]')
    refused(np.zeros((2, 4, 5)), r'shape \[2, 4, 5\]')
    refused(np.zeros((2, 0, 0)), r'shape \[2, 0, 0\]')
    refused(np.full((2, 3, 3), np.nan), 'not finite')
    refused(np.array([['a'] * 2] * 2), 'no numbers')
    refused(np.array([{}, {}], object), r'f.npy.* is broken')  # would have to be unpickled
    (tmp_path / 'f.npy').write_bytes(b'PK\x03\x04 no archive')
    with pytest.raises(UserError, match=r'f.npy.* is broken'):
        Warp(control=str(tmp_path / 'f.npy'))
    np.savez(tmp_path / 'f.npz', np.zeros((2, 3, 3)))
    with pytest.raises(UserError, match='no numbers'):
        Warp(control=str(tmp_path / 'f.npz'))
    with pytest.raises(UserError, match=r'gone.npy.* does not exist'):
        Warp(control=str(tmp_path / 'gone.npy'))
    with pytest.raises(UserError, match='control is broken'):
        Warp(control=[[1, 2], [3]])
    with pytest.raises(UserError, match='no numbers'):
        Warp(control=None)


@pytest.mark.parametrize(
    'wrong',
    [
        {'control_px': -1},
        {'strength': 0},
        {'rescale': 0},
        {'noise': -1},
        {'strength': math.inf},
        {'noise': 1e308},
        {'rescale': 1001},
        {'strength': 1e9},
        {'control_px': 1025},
        {'control_px': 1.5},
    ],
)
def test_values_out_of_range_are_refused(wrong):
    with pytest.raises(UserError, match=f'{next(iter(wrong))}='):
        Warp(**wrong)


def test_digest_knows_every_parameter():
    changes = [{}, {'control_px': 0}, {'control_px': 5}, {'strength': 1}, {'rescale': 0.9}]
    changes += [{'noise': 2}, {'seed': 1}, {'target': 1}]
    assert len({Warp(**change).digest() for change in changes}) == len(changes)


def test_absurd_control_points_are_refused():
    with pytest.raises(UserError, match=r'beyond 1e\+06'):
        Warp(control=[[[1e308]], [[0.0]]])
