import math
from decimal import ROUND_HALF_UP, Decimal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from purify.attacks.selection import (
    Rules,
    choose_cover,
    choose_replicated,
    choose_victims,
    poison_count,
)
from purify.core.errors import UserError

LABELS = np.repeat([0, 1, 2, 3], [40, 30, 20, 10])
IDS = np.arange(100)


def draw(labels, ids, rate, base, target, include, seed):
    """One trigger, all to one."""
    rules = Rules(rate, base, include_target=include, targets=(target,))
    (chosen,) = choose_victims(rules, labels, ids, seed)
    return chosen


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
    assert poison_count(Rules(rate, base, targets=(target,)), LABELS) == count
    assert draw(LABELS, np.arange(100), rate, base, target, False, 0).size == count


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
            draw(LABELS, ids, float(rate), base, 2, include, seed)
        return
    chosen = draw(LABELS, ids, float(rate), base, 2, include, seed)
    assert chosen.dtype == np.int64
    assert len(chosen) == count
    assert (np.diff(chosen) > 0).all(), 'ascending, no id twice'
    assert set(chosen) <= pool


@given(seed=st.integers(0, 999), include=st.booleans())
def test_order_of_the_samples_does_not_matter(seed, include):
    ids = np.arange(1000, 1100)
    order = np.random.default_rng(seed).permutation(100)
    first = draw(LABELS, ids, 0.2, 'all', 1, include, seed)
    found = draw(LABELS[order], ids[order], 0.2, 'all', 1, include, seed)
    np.testing.assert_array_equal(found, first)
    assert not np.array_equal(draw(LABELS, ids, 0.2, 'all', 1, include, seed + 1), first)


def test_lower_rates_draw_from_higher_ones():
    draws = [
        set(draw(LABELS, np.arange(100), rate, 'all', 0, False, 7)) for rate in (0.05, 0.1, 0.6)
    ]
    assert draws[0] < draws[1] < draws[2]
    assert draws[2] == set(range(40, 100)), 'all that lie outside the target class'


def test_include_target_reaches_the_target_class_in_proportion():
    drawn = np.concatenate(
        [draw(LABELS, np.arange(100), 0.5, 'all', 0, True, seed) for seed in range(200)]
    )
    share = np.mean(drawn < 40)
    assert abs(share - 0.4) < 4 * math.sqrt(0.4 * 0.6 / drawn.size)
    assert draw(LABELS, np.arange(100), 1.0, 'all', 0, True, 0).tolist() == list(range(100))


@pytest.mark.parametrize(
    ('arguments', 'told'),
    [
        (
            (0.61, 'all', 0, False),
            '61 poisoned samples, but only 60 lie outside target class 0. Lower the rate, or set',
        ),
        ((-0.1, 'all', 0, False), 'rate=-0.1 must be a number of at least 0 and at most 1'),
        ((1.5, 'all', 0, True), 'rate=1.5 must be'),
        ((float('nan'), 'all', 0, True), 'rate=nan must be'),
        ((0.1, 'all', 4, False), r'target=4 is not a class of this dataset \(classes: 0 to 3\)'),
        (
            (0.004, 'all', 0, False),
            r'rounds to 0 poisoned samples. Raise the rate \(one sample of 100 is 0.01\)',
        ),
        ((0.1, 'some', 0, False), 'all, nontarget, target'),
    ],
)
def test_what_cannot_be_drawn_is_refused(arguments, told):
    rate, base, target, include = arguments
    with pytest.raises(UserError, match=told):
        poison_count(Rules(rate, base, include_target=include, targets=(target,)), LABELS)


def test_one_class_has_nobody_to_poison():
    with pytest.raises(UserError, match='only 0 lie outside target class 5'):
        draw(np.full(10, 5), np.arange(10), 0.5, 'all', 5, False, 0)


def test_ids_must_be_distinct_and_as_many_as_labels():
    with pytest.raises(UserError, match='id 3 occurs more than once'):
        draw(np.array([0, 1, 1]), np.array([3, 2, 3]), 0.5, 'all', 0, False, 0)
    with pytest.raises(UserError, match='same length'):
        draw(np.array([0, 1, 1]), np.array([3, 2]), 0.5, 'all', 0, False, 0)


def test_no_poison_needs_no_target_class():
    assert draw(LABELS + 1, np.arange(100), 0.0, 'all', 0, False, 0).size == 0


def test_all_to_all_poisons_every_class_and_clean_label_the_target_alone():
    (everyone,) = choose_victims(Rules(1.0, scheme='all_to_all'), LABELS, IDS, 0)
    assert everyone.tolist() == IDS.tolist()
    (own,) = choose_victims(Rules(0.2, scheme='clean_label', targets=(1,)), LABELS, IDS, 0)
    assert len(own) == 20
    assert set(LABELS[own]) == {1}
    with pytest.raises(UserError, match=r"only 30 lie in target class 1\. .* base='target'"):
        choose_victims(Rules(0.31, scheme='clean_label', targets=(1,)), LABELS, IDS, 0)
    found = len(
        choose_victims(Rules(1.0, 'target', scheme='clean_label', targets=(1,)), LABELS, IDS, 0)[0]
    )
    assert found == 30


@given(rate=st.sampled_from((0.05, 0.1, 0.31)), triggers=st.integers(1, 4), seed=st.integers(0, 99))
def test_several_triggers_share_the_count_and_no_image_carries_two(rate, triggers, seed):
    labels, ids = np.repeat(np.arange(10), 30), np.arange(300) * 3
    parts = choose_victims(Rules(rate, targets=tuple(range(triggers))), labels, ids, seed)
    sizes = [len(part) for part in parts]
    assert sum(sizes) == int(rate * 300 + 0.5)
    assert max(sizes) - min(sizes) <= 1
    together = np.concatenate(parts)
    assert len(set(together.tolist())) == len(together)
    assert labels[together // 3].min() >= triggers, 'none of them is of any target class'


def test_several_clean_label_triggers_draw_from_their_own_class():
    parts = choose_victims(Rules(0.2, scheme='clean_label', targets=(1, 2)), LABELS, IDS, 0)
    assert [set(LABELS[part]) for part in parts] == [{1}, {2}]
    assert [len(part) for part in parts] == [10, 10]
    twice = choose_victims(Rules(0.2, scheme='clean_label', targets=(1, 1)), LABELS, IDS, 0)
    assert not set(twice[0]) & set(twice[1])
    with pytest.raises(UserError, match='15 poisoned samples of target class 3, which has 10'):
        choose_victims(Rules(0.3, scheme='clean_label', targets=(1, 3)), LABELS, IDS, 0)


def test_source_specific_poison_comes_from_the_sources():
    rules = Rules(0.1, sources=(1, 3), cover_rate=0.2)
    (chosen,) = choose_victims(rules, LABELS, IDS, 0)
    assert set(LABELS[chosen]) <= {1, 3}
    covers = choose_cover(rules, LABELS, IDS, chosen, 1)
    assert len(covers) == 20
    assert set(LABELS[covers]) == {2}, 'neither source nor target'
    assert rules.succeeds_on(LABELS, np.zeros(100, int)).sum() == 40


@given(
    rate=st.sampled_from((0.05, 0.1, 0.5)),
    cover=st.sampled_from((0.01, 0.145, 0.3)),
    scheme=st.sampled_from(('all_to_one', 'all_to_all')),
    seed=st.integers(0, 99),
)
def test_cover_is_exact_and_disjoint_from_poison(rate, cover, scheme, seed):
    rules = Rules(rate, scheme=scheme, cover_rate=cover)
    (chosen,) = choose_victims(rules, LABELS, IDS, seed)
    covers = choose_cover(rules, LABELS, IDS, chosen, seed)
    assert len(covers) == {0.01: 1, 0.145: 15, 0.3: 30}[cover]
    assert (np.diff(covers) > 0).all()
    assert not set(covers) & set(chosen)


def test_clean_label_covers_are_never_of_the_target_class():
    rules = Rules(0.1, scheme='clean_label', targets=(1,), cover_rate=0.3)
    covers = choose_cover(rules, LABELS, IDS, choose_victims(rules, LABELS, IDS, 0)[0], 0)
    assert len(covers) == 30
    assert 1 not in LABELS[covers]


def test_more_cover_than_is_left_is_refused():
    rules = Rules(0.5, cover_rate=0.6)
    with pytest.raises(UserError, match='60 cover samples, but only 50 are left'):
        choose_cover(rules, LABELS, IDS, choose_victims(rules, LABELS, IDS, 0)[0], 0)


def test_those_that_come_first_are_taken_first():
    rules, first = Rules(0.2), np.arange(95, 100)
    (chosen,) = choose_victims(rules, LABELS, IDS, 0, first)
    assert set(first) < set(chosen)
    assert len(chosen) == 20
    (few,) = choose_victims(Rules(0.03), LABELS, IDS, 0, first)
    assert set(few) < set(first)


def test_replicated_images_may_be_poisoned():
    found = choose_replicated(Rules(0.1), LABELS, IDS, 7, 0)
    assert len(found) == 7
    assert LABELS[found].min() > 0
    with pytest.raises(UserError, match='replicated_images=61, but only 60'):
        choose_replicated(Rules(0.1), LABELS, IDS, 61, 0)


@pytest.mark.parametrize(
    ('rules', 'told'),
    [
        ({'scheme': 'all_to_all', 'base': 'target'}, "'all_to_all' knows no target class"),
        ({'scheme': 'all_to_all', 'targets': (0, 1)}, 'one trigger'),
        ({'scheme': 'all_to_all', 'include_target': True}, 'Set it to False'),
        ({'scheme': 'clean_label', 'include_target': True}, 'Set it to False'),
        ({'scheme': 'clean_label', 'sources': (1,)}, r'leave sources=\(1,\) empty'),
        ({'scheme': 'dirty'}, 'all_to_all, all_to_one, clean_label'),
        ({'sources': (0,)}, 'nothing to relabel'),
        ({'sources': (-1,)}, 'sources=-1'),
        ({'cover_rate': 2.0}, 'cover_rate=2.0'),
    ],
)
def test_rules_that_contradict_each_other_are_refused(rules, told):
    with pytest.raises(UserError, match=told):
        Rules(**({'rate': 0.1} | rules))
