import math
from decimal import ROUND_HALF_UP, Decimal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from purify.attacks.selection import choose, poison_count
from purify.core.errors import UserError

LABELS = np.repeat([0, 1, 2, 3], [40, 30, 20, 10])


@pytest.mark.parametrize(
    ('rate', 'base', 'target', 'count'),
    [
        (0.1, 'all', 0, 10),
        (0.1, 'nontarget', 0, 6),
        (0.1, 'target', 0, 4),
        (0.25, 'target', 1, 8),  # 7.5 rounds up
        (0.25, 'nontarget', 3, 23),  # 22.5 rounds up
        (0.124, 'all', 0, 12),
        (0.125, 'all', 0, 13),  # 12.5 rounds up
        (0.145, 'all', 0, 15),  # 14.5 as written, 14.499.. as a float
        (0, 'all', 0, 0),
        (1.0, 'nontarget', 0, 60),
    ],
)
def test_count_is_exact(rate, base, target, count):
    assert poison_count(rate, base, LABELS, target, include_target=False) == count
    assert choose(LABELS, np.arange(100), rate, base, target, False, 0).size == count


@given(
    rate=st.decimals('0.01', 1, places=2),
    base=st.sampled_from(('all', 'nontarget', 'target')),
    include=st.booleans(),
    seed=st.integers(0, 999),
)
def test_draw_is_exact_distinct_and_from_the_pool(rate, base, include, seed):
    ids = np.random.default_rng(seed).permutation(5000)[:100]
    size = {'all': 100, 'nontarget': 80, 'target': 20}[base]
    count = int((rate * size).quantize(Decimal(1), ROUND_HALF_UP))
    pool = set(ids if include else ids[LABELS != 2])
    if not 1 <= count <= len(pool):
        with pytest.raises(UserError, match='rate='):
            choose(LABELS, ids, float(rate), base, 2, include, seed)
        return
    chosen = choose(LABELS, ids, float(rate), base, 2, include, seed)
    assert chosen.dtype == np.int64
    assert len(chosen) == count
    assert (np.diff(chosen) > 0).all(), 'ascending, no id twice'
    assert set(chosen) <= pool


@given(seed=st.integers(0, 999), include=st.booleans())
def test_order_of_the_samples_does_not_matter(seed, include):
    ids = np.arange(1000, 1100)
    order = np.random.default_rng(seed).permutation(100)
    first = choose(LABELS, ids, 0.2, 'all', 1, include, seed)
    np.testing.assert_array_equal(choose(LABELS[order], ids[order], 0.2, 'all', 1, include, seed), first)
    assert not np.array_equal(choose(LABELS, ids, 0.2, 'all', 1, include, seed + 1), first)


def test_lower_rates_draw_from_higher_ones():
    draws = [set(choose(LABELS, np.arange(100), rate, 'all', 0, False, 7)) for rate in (0.05, 0.1, 0.6)]
    assert draws[0] < draws[1] < draws[2]
    assert draws[2] == set(range(40, 100)), 'all that lie outside the target class'


def test_include_target_reaches_the_target_class_in_proportion():
    drawn = np.concatenate([choose(LABELS, np.arange(100), 0.5, 'all', 0, True, seed) for seed in range(200)])
    share = np.mean(drawn < 40)
    assert abs(share - 0.4) < 4 * math.sqrt(0.4 * 0.6 / drawn.size)
    assert choose(LABELS, np.arange(100), 1.0, 'all', 0, True, 0).tolist() == list(range(100))


@pytest.mark.parametrize(
    ('arguments', 'told'),
    [
        (
            (0.61, 'all', 0, False),
            '61 poisoned samples, but only 60 lie outside target class 0. Lower the rate, or set',
        ),
        ((-0.1, 'all', 0, False), r'rate=-0.1 is outside \[0, 1\]'),
        ((1.5, 'all', 0, True), 'rate=1.5 is outside'),
        ((float('nan'), 'all', 0, True), 'rate=nan is outside'),
        ((0.1, 'all', 4, False), r'target=4 is not a class of this dataset \(classes: 0 to 3\)'),
        ((0.004, 'all', 0, False), r'rounds to 0 poisoned samples. Raise the rate \(one sample of 100 is 0.01\)'),
        ((0.1, 'some', 0, False), 'all, nontarget, target'),
    ],
)
def test_what_cannot_be_drawn_is_refused(arguments, told):
    rate, base, target, include = arguments
    with pytest.raises(UserError, match=told):
        poison_count(rate, base, LABELS, target, include)


def test_one_class_has_nobody_to_poison():
    with pytest.raises(UserError, match='only 0 lie outside target class 5'):
        choose(np.full(10, 5), np.arange(10), 0.5, 'all', 5, False, 0)


def test_ids_must_be_distinct_and_as_many_as_labels():
    with pytest.raises(UserError, match='id 3 occurs more than once'):
        choose(np.array([0, 1, 1]), np.array([3, 2, 3]), 0.5, 'all', 0, False, 0)
    with pytest.raises(UserError, match='same length'):
        choose(np.array([0, 1, 1]), np.array([3, 2]), 0.5, 'all', 0, False, 0)


def test_no_poison_needs_no_target_class():
    assert choose(LABELS + 1, np.arange(100), 0.0, 'all', 0, False, 0).size == 0
