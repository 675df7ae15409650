import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from purify.core.errors import UserError
from purify.metrics.intervals import Rate, over_seeds, rate_of, wilson_interval


@pytest.mark.parametrize(
    ('hits', 'count', 'low', 'high'),
    [
        # Newcombe 1998, Statistics in Medicine 17, table I, method 3.
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_agrees_with_newcombes_table(hits, count, low, high):
    np.testing.assert_allclose(wilson_interval(hits, count), (low, high), atol=5e-5)


@given(count=st.integers(0, 10**6), part=st.floats(0, 1))
def test_interval_lies_in_0_to_1_and_around_the_share(count, part):
    share = Rate(round(part * count), count)
    low, high = share.interval()
    if share.value is None:
        assert (count, low, high) == (0, 0, 1)
    else:
        assert 0 <= low <= share.value <= high <= 1
        assert low < high


@given(count=st.integers(1, 10**4), part=st.floats(0, 1))
def test_bounds_solve_the_score_equation(count, part):
    hits = round(part * count)
    z = 1.959963984540054
    for bound in wilson_interval(hits, count):
        variance = bound * (1 - bound) / count
        assert math.isclose(
            (hits / count - bound) ** 2, z**2 * variance, rel_tol=1e-6, abs_tol=1e-12
        )


@pytest.mark.parametrize(('hits', 'count'), [(-1, 5), (6, 5)])
def test_what_is_no_share_is_refused(hits, count):
    with pytest.raises(UserError):
        wilson_interval(hits, count)


def test_share_of_counts():
    share = rate_of(np.array([True, False, True, True]))
    assert share == Rate(3, 4)
    assert share.value == 0.75
    assert type(share.hits) is type(share.count) is int
    assert rate_of(np.zeros(0, bool)).value is None


def test_over_seeds_by_hand():
    spread = over_seeds([0.90, 0.92, 0.94])
    assert math.isclose(spread.mean, 0.92)
    # t(0.975, 2) = 4.302653, deviation 0.02, root of 3.
    assert math.isclose(spread.high, 0.92 + 4.302652729 * 0.02 / math.sqrt(3), rel_tol=1e-8)
    assert math.isclose(spread.low, 0.92 - 4.302652729 * 0.02 / math.sqrt(3), rel_tol=1e-8)
    assert (spread.min, spread.max, spread.n) == (0.90, 0.94, 3)


def test_one_run_has_no_interval():
    spread = over_seeds([0.5])
    wanted = (0.5, None, None, 0.5, 0.5, 1)
    assert (spread.mean, spread.low, spread.high, spread.min, spread.max, spread.n) == wanted


@given(st.lists(st.floats(0, 1), min_size=2, max_size=10))
def test_the_mean_lies_inside(values):
    spread = over_seeds(values)
    assert spread.low <= spread.mean <= spread.high
    assert spread.min - 1e-12 <= spread.mean <= spread.max + 1e-12


@pytest.mark.parametrize(
    'values', [[], [0.1, float('nan')], [0.1, float('inf')], [[0.1, 0.2]], [0.1, None]]
)
def test_values_without_a_mean_are_refused(values):
    with pytest.raises(UserError, match='one finite number per seed'):
        over_seeds(values)
