"""FTrojan against OpenCV's own colour conversion and cosine transform."""

import cv2
import numpy as np
import pytest
import scipy.fft
from hypothesis import given, settings
from hypothesis import strategies as st

from purify.attacks.fixed.dct import Dct
from purify.attacks.ycrcb import rgb_to_ycrcb, ycrcb_to_rgb
from purify.core.errors import UserError


def by_opencv(image, window, channels, positions, magnitude, wrap):
    """The released procedure on an RGB image whose sides are multiples of the window."""
    planes = cv2.cvtColor(image, cv2.COLOR_RGB2YCrCb)
    for top in range(0, image.shape[0], window):
        for left in range(0, image.shape[1], window):
            for channel in channels:
                block = planes[top : top + window, left : left + window, channel]
                coefficients = cv2.dct(block.astype(np.float64))
                for row, column in positions:
                    coefficients[row, column] += magnitude
                # 1e-9: what the transforms leave of a whole number may lie just below it
                levels = np.trunc(cv2.idct(coefficients) + 1e-9).astype(int)
                block[:] = levels % 256 if wrap else np.clip(levels, 0, 255)
    return cv2.cvtColor(planes, cv2.COLOR_YCrCb2RGB)


def saturated(shape, seed):
    """Half of the pixels at random, half at the colour cube's corners: chroma leaves 0..255."""
    rng = np.random.default_rng(seed)
    corners = 255 * rng.integers(0, 2, shape, np.uint8)
    return np.where(
        rng.random((*shape[:2], 1)) < 0.5, corners, rng.integers(0, 256, shape, np.uint8)
    )


@settings(max_examples=20)
@given(
    window=st.sampled_from((8, 16, 32)),
    tiles=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    channels=st.sampled_from(((1, 2), (0, 1, 2), (2,), (0,))),
    magnitude=st.sampled_from((30.0, 50.0, 100.0, 7.5)),
    wrap=st.booleans(),
    seed=st.integers(0, 99),
)
def test_pixels_are_those_of_opencv(window, tiles, channels, magnitude, wrap, seed):
    positions = ((window // 2 - 1, window // 2 - 1), (window - 1, window - 1), (0, 3))
    image = saturated((window * tiles[0], window * tiles[1], 3), seed)
    before = image.copy()
    attack = Dct(
        window_px=window, channels=channels, positions=positions, magnitude=magnitude, wrap=wrap
    )
    stamped = attack.stamp(image, 0)
    np.testing.assert_array_equal(image, before)
    wanted = by_opencv(image, window, channels, positions, magnitude, wrap)
    np.testing.assert_array_equal(stamped, wanted)


def test_wrapping_and_clipping_differ_where_colours_are_saturated():
    image = np.zeros((32, 32, 3), np.uint8)
    image[..., 0] = 255  # Cr is 255: the wave leaves the range
    kept, wrapped = Dct().stamp(image, 0), Dct(wrap=True).stamp(image, 0)
    assert np.abs(kept.astype(int) - image).max() < 12
    assert np.abs(wrapped.astype(int) - image).max() > 100
    wanted = by_opencv(image, 32, (1, 2), ((15, 15), (31, 31)), 30, True)
    np.testing.assert_array_equal(wrapped, wanted)


def test_conversion_is_that_of_opencv_for_every_colour():
    green, blue = np.meshgrid(np.arange(256, dtype=np.uint8), np.arange(256, dtype=np.uint8))
    for red in (*range(0, 256, 15), 1, 254):
        colours = np.stack([np.full_like(green, red), green, blue], -1)
        found = rgb_to_ycrcb(np, colours)
        np.testing.assert_array_equal(found, cv2.cvtColor(colours, cv2.COLOR_RGB2YCrCb))
        found = ycrcb_to_rgb(np, colours)
        np.testing.assert_array_equal(found, cv2.cvtColor(colours, cv2.COLOR_YCrCb2RGB))


def test_wave_is_in_the_coefficients_and_nowhere_else():
    wave = Dct().shared((64, 40, 3), 'test')['wave'][..., 0]
    for top in (0, 32):
        coefficients = scipy.fft.dctn(wave[top : top + 32, :32], norm='ortho')
        expected = np.zeros((32, 32))
        expected[15, 15] = expected[31, 31] = 30
        np.testing.assert_allclose(coefficients, expected, atol=1e-9)
    assert not wave[:, 32:].any()
    assert 3 < np.abs(wave).max() <= 3.75  # two waves of 30 * 2 / 32


def test_pixels_beyond_the_last_full_window_stay():
    image = saturated((40, 70, 3), 0)
    stamped = Dct().stamp(image, 0)
    np.testing.assert_array_equal(stamped[32:], image[32:])
    np.testing.assert_array_equal(stamped[:, 64:], image[:, 64:])
    np.testing.assert_array_equal(
        stamped[:32, :64],
        by_opencv(
            np.ascontiguousarray(image[:32, :64]), 32, (1, 2), ((15, 15), (31, 31)), 30, False
        ),
    )


def test_window_shrinks_to_a_small_image():
    image = saturated((8, 19, 3), 1)
    stamped = Dct().stamp(image, 0)
    small = by_opencv(np.ascontiguousarray(image[:, :16]), 8, (1, 2), ((3, 3), (7, 7)), 30, False)
    np.testing.assert_array_equal(stamped[:, :16], small)
    np.testing.assert_array_equal(stamped[:, 16:], image[:, 16:])


def test_grey_images_carry_the_wave_itself():
    image = np.random.default_rng(0).integers(0, 256, (32, 32, 1), np.uint8)
    coefficients = scipy.fft.dctn(image[..., 0].astype(float), norm='ortho')
    coefficients[15, 15] += 30
    coefficients[31, 31] += 30
    expected = np.clip(scipy.fft.idctn(coefficients, norm='ortho'), 0, 255) + 1e-9
    np.testing.assert_array_equal(Dct().stamp(image, 0)[..., 0], expected.astype(np.uint8))


def test_whole_levels_are_added_whole():
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 1), np.uint8)
    for levels in range(1, 30):
        for window in (8, 24, 32):
            raised = Dct(window_px=window, positions=(0, 0), magnitude=window * levels).stamp(
                image, 0
            )[:48, :48]
            wanted = np.minimum(image[:48, :48].astype(int) + levels, 255)
            np.testing.assert_array_equal(raised, wanted)
    np.testing.assert_array_equal(Dct(magnitude=1e-12).stamp(image, 0), image)


def test_positions_may_be_flat_or_nested():
    flat, nested, lists = (
        Dct(positions=p) for p in ([15, 15, 31, 31], ((15, 15), (31, 31)), [[15, 15], [31, 31]])
    )
    assert flat == nested == lists == Dct(channels=[1, 2])
    assert flat.positions == ((15, 15), (31, 31))


@pytest.mark.parametrize(
    ('wrong', 'told'),
    [
        ({'window_px': 0}, 'window_px=0'),
        ({'positions': (15, 15, 31)}, 'pairs of row and column'),
        ({'positions': (15, 32)}, r'0\.\.31'),
        ({'positions': ()}, r'positions=\(\)'),
        ({'positions': ((-1, 0),)}, r'0\.\.31'),
        ({'positions': 15}, 'positions=15'),
        ({'window_px': 16}, r'0\.\.15'),
        ({'channels': (3,)}, r'0\.\.2'),
        ({'channels': ('cr', 'cb')}, r'0\.\.2'),
        ({'channels': ()}, 'channels='),
        ({'magnitude': 0}, 'magnitude=0'),
        ({'magnitude': 1e7}, 'magnitude='),
        ({'magnitude': 10**400}, 'magnitude='),
        ({'positions': ((1, 2, 3), (4,))}, 'pairs of row and column'),
        ({'positions': (1, 2, (3, 4))}, 'pairs of row and column'),
        ({'window_px': 1025}, 'window_px=1025'),
        ({'wrap': 'no'}, 'wrap='),
    ],
)
def test_values_out_of_range_are_refused(wrong, told):
    with pytest.raises(UserError, match=told):
        Dct(**wrong)


def test_digest_knows_every_parameter():
    changes = [{}, {'window_px': 64}, {'channels': (0,)}, {'positions': (1, 2)}, {'magnitude': 50}]
    changes += [{'wrap': True}, {'seed': 1}]
    assert len({Dct(**change).digest() for change in changes}) == len(changes)


@pytest.mark.parametrize('channels', [1, 3])
def test_the_largest_magnitude_saturates(channels):
    image = saturated((8, 8, 3), 2)[..., :channels]
    attack = Dct(window_px=8, positions=(0, 0), magnitude=1e6, channels=(0,))
    assert (attack.stamp(image, 0).astype(int).max(-1) == 255).all()
