import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from purify.attacks.fixed.sinusoid import Sinusoid
from purify.core.errors import UserError


def test_one_wave_by_hand():
    # 6 waves over 72 columns: steps of 30 degrees, with sines 0, 1/2, 0.866.., 1 and the exact
    # levels 0, 20, 34.64.., 40.
    stamped = Sinusoid().stamp(np.full((2, 72, 3), 100, np.uint8), 0)
    wave = [100, 120, 134, 140, 134, 120, 100, 80, 65, 60, 65, 80]
    wanted = np.broadcast_to(np.array(wave * 6)[None, :, None], (2, 72, 3))
    np.testing.assert_array_equal(stamped, wanted)


def test_levels_are_clipped_not_wrapped():
    bright, dark = (
        Sinusoid(delta=40).stamp(np.full((1, 72, 1), level, np.uint8), 0)[0, :12, 0].tolist()
        for level in (250, 5)
    )
    assert bright == [250, 255, 255, 255, 255, 255, 250, 230, 215, 210, 215, 230]
    assert dark == [5, 25, 39, 45, 39, 25, 5, 0, 0, 0, 0, 0]


@given(
    width=st.sampled_from((8, 24, 32, 33, 64, 100)),
    delta=st.sampled_from((20.0, 30.0, 40.0)) | st.floats(1, 100),
    frequency=st.integers(1, 12),
    ratio=st.sampled_from((0.0, 0.2, 1.0)),
)
def test_formula(width, delta, frequency, ratio):
    image = np.random.default_rng(width).integers(0, 256, (3, width, 3), np.uint8)
    stamped = Sinusoid(delta=delta, frequency=frequency, ratio=ratio).stamp(image, 0)
    for j in range(width):
        wave = delta * math.sin(2 * math.pi * j * frequency / width)
        for x, got in zip(image[:, j].flat, stamped[:, j].flat, strict=True):
            value = min(max((1 - ratio) * x + ratio * wave if ratio else x + wave, 0), 255)
            if abs(value - round(value)) > 1e-6:
                assert got == math.floor(value)
            else:  # the sine as it is computed may fall to either side of a whole level
                assert got in (round(value), round(value) - bool(ratio))


def test_labels_are_kept_unless_the_scheme_says_otherwise():
    assert Sinusoid(target=3).relabel(5) == 5
    assert Sinusoid(target=3).goal(5) == 3
    assert Sinusoid(target=3, scheme='all_to_one').relabel(5) == 3


@pytest.mark.parametrize(
    'wrong',
    [
        {'delta': 0},
        {'delta': -1},
        {'frequency': 0},
        {'ratio': 1.1},
        {'ratio': -0.1},
        {'delta': 'big'},
        {'delta': 10**400},
        {'frequency': 1e308},
    ],
)
def test_values_out_of_range_are_refused(wrong):
    with pytest.raises(UserError, match=f'{next(iter(wrong))}='):
        Sinusoid(**wrong)


def test_digest_knows_every_parameter():
    changes = [{}, {'delta': 20}, {'frequency': 5}, {'ratio': 0.2}, {'scheme': 'all_to_one'}]
    changes += [{'target': 1}, {'seed': 1}]
    assert len({Sinusoid(**change).digest() for change in changes}) == len(changes)
    assert Sinusoid(delta=40).digest() == Sinusoid(delta=40.0).digest()
