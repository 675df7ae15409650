import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from purify.core.errors import UserError
from purify.diffusion.timesteps import (
    LEAVE_OUT_CLEANEST,
    check_timesteps,
    edit_timesteps,
    make_timesteps,
    window_timesteps,
)


# table 2 of Lin et al. 2024 (0-based), and the spacings of diffusers' classes
@pytest.mark.parametrize(
    ('expected', 'options'),
    [
        ([800, 600, 400, 200, 0], {'spacing': 'leading'}),
        ([801, 601, 401, 201, 1], {'spacing': 'leading', 'steps_offset': 1}),
        ([999, 749, 500, 250, 0], {'spacing': 'linspace'}),
        ([999, 799, 599, 399, 199], {'spacing': 'trailing'}),
        ([830, 664, 498, 332, 166], {'spacing': 'leading', 'sampler': 'dpmpp_2m'}),
        ([999, 799, 599, 400, 200], {'spacing': 'linspace', 'sampler': 'dpmpp_2m'}),
        ([999, 799, 599, 399, 199], {'spacing': 'trailing', 'sampler': 'dpmpp_2m'}),
        ([999, 749.25, 499.5, 249.75, 0], {'spacing': 'linspace', 'sampler': 'euler'}),
    ],
)
def test_spacings(expected, options):
    np.testing.assert_array_equal(make_timesteps(1000, 5, **options), expected)


def test_trailing_that_does_not_divide():
    np.testing.assert_array_equal(make_timesteps(10, 3, spacing='trailing'), [9, 6, 2])


@given(
    st.integers(1, 1000),
    st.sampled_from(['leading', 'linspace', 'trailing']),
    st.sampled_from(['ddim', 'euler']),
)
def test_every_number_of_steps_has_a_list(steps, spacing, sampler):
    timesteps = make_timesteps(1000, steps, spacing=spacing, sampler=sampler)
    assert len(timesteps) == steps
    assert (np.diff(timesteps) < 0).all()
    assert timesteps[-1] >= 0
    assert timesteps[0] <= 999


@given(st.integers(1, 1000), st.data())
def test_edit_timesteps(start, data):
    steps = data.draw(st.integers(1, start))
    timesteps = edit_timesteps(start, steps)
    assert len(timesteps) == steps
    assert timesteps[0] == start - 1
    if steps > 1:
        gaps = -np.diff(timesteps)
        assert timesteps[-1] == 0
        assert gaps.min() >= 1
        assert gaps.max() - gaps.min() <= 1
    np.testing.assert_array_equal(edit_timesteps(start, start), np.arange(start)[::-1])


@given(st.integers(1, 1000), st.sampled_from(LEAVE_OUT_CLEANEST), st.data())
def test_some_samplers_do_not_spend_a_call_on_the_cleanest_timestep(start, sampler, data):
    steps = data.draw(st.integers(1, start))
    timesteps = edit_timesteps(start, steps, sampler)
    gaps = -np.diff([*timesteps, -1])  # the clean image counts as one step below 0
    assert timesteps[0] == start - 1
    assert gaps.min() >= 1
    assert gaps.max() - gaps.min() <= 1


def test_every_timestep_as_published():
    np.testing.assert_array_equal(window_timesteps(150, 150, 10, 10), np.arange(150)[::-1])


def test_a_tenth_of_them():
    found = window_timesteps(150, 15, 10, 5)
    np.testing.assert_array_equal(found[:2], [149, 134])
    np.testing.assert_array_equal(found[-6:], [10, 9, 7, 5, 2, 0])


@pytest.mark.parametrize(
    ('numbers', 'found'),
    [
        ((1, 1, 1, 1), [0]),
        ((5, 5, 5, 5), [4, 3, 2, 1, 0]),
        ((9, 2, 3, 1), [8, 0]),
        ((9, 1, 9, 1), [8]),
        ((6, 3, 2, 2), [5, 1, 0]),
    ],
)
def test_small_windows(numbers, found):
    assert window_timesteps(*numbers).tolist() == found


@given(st.integers(1, 300), st.data())
def test_windows_hold_what_is_kept(start, data):
    window = data.draw(st.integers(1, start))
    kept = data.draw(st.integers(1, window))
    rest = data.draw(st.integers(int(start > window), start - window))
    timesteps = window_timesteps(start, rest + kept, window, kept)
    check_timesteps(timesteps, start)
    assert len(timesteps) == rest + kept
    assert timesteps[0] == start - 1
    assert (timesteps < window).sum() == kept
    assert timesteps[-1] == 0 or len(timesteps) == 1


@pytest.mark.parametrize(
    ('make', 'words'),
    [
        (lambda: make_timesteps(10, 11), 'between 1 and the 10'),
        (lambda: make_timesteps(10, 0), 'between 1 and the 10'),
        (lambda: make_timesteps(10, 5, spacing='karras'), 'leading, linspace, trailing'),
        (lambda: make_timesteps(10, 10, steps_offset=1), 'smaller steps_offset'),
        (
            lambda: make_timesteps(10, 10, spacing='leading', sampler='dpmpp_2m'),
            'Choose fewer steps',
        ),
        (lambda: edit_timesteps(10, 11), 'choose 1 to 10'),
        (lambda: edit_timesteps(0, 0), '0 distinct steps'),
        (lambda: window_timesteps(150, 15, 10, 11), 'kept=11, window=10'),
        (lambda: window_timesteps(150, 15, 151, 5), 'window=151, start=150'),
        (lambda: window_timesteps(150, 15, 10, 0), 'kept=0'),
        (lambda: window_timesteps(150, 5, 10, 5), 'from 6 to 145'),
        (lambda: window_timesteps(150, 146, 10, 5), 'from 6 to 145'),
        (lambda: window_timesteps(10, 6, 10, 5), 'from 5 to 5'),
        (lambda: check_timesteps(np.array([3, 3, 1]), 10), 'descend'),
        (lambda: check_timesteps(np.array([1, 3]), 10), 'descend'),
        (lambda: check_timesteps(np.array([3, np.nan]), 10), 'nan'),
        (lambda: check_timesteps(np.array([3, -1]), 10), '-1'),
        (lambda: check_timesteps(np.array([]), 10), 'non-empty'),
        (lambda: check_timesteps(np.array(['a']), 10), 'non-empty list of numbers'),
    ],
)
def test_refusals(make, words):
    with pytest.raises(UserError, match=words):
        make()
