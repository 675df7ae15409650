import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom

from purify.core.errors import UserError
from purify.defenses.dataelixir.evidence import Evidence, gather_evidence
from purify.defenses.dataelixir.label_changes import count_labels, sort_into_sets, vote
from purify.defenses.dataelixir.target_labels import (
    Mad,
    Significant,
    describe_targets,
    make_target_rule,
)
from purify.defenses.outliers import (
    departure_p_values,
    excess,
    one_way,
    outlier_index,
    pooled_p_values,
    usual_and_spread,
)
from purify.defenses.registry import DEFENSES

SIGNIFICANT = Significant(score=1.0, share=0.05, deviations=5.0, level=0.02)


def gather(candidates, labels, counts):
    """By the paper's readings."""
    votes = vote(candidates, counts, first=False)
    return gather_evidence(
        labels,
        counts,
        votes,
        sort_into_sets(counts, votes, labels, 0.1, majority=True),
        labels,
        count_raw=False,
    )


def make_evidence(images, left, divergence, moved=None, held=1.0, one_way=0.3):
    """Scatter and divergence alike; the images that left are held by a trigger and go everywhere,
    unless told otherwise.
    """
    divergence = np.array(divergence, float)
    like = np.ones(len(images))
    moved = 0 * like.astype(int) if moved is None else np.array(moved)
    return Evidence(
        images=np.array(images),
        anomalous=np.array(left),
        left=np.array(left),
        moved=moved,
        gone=moved,
        held=held * like,
        one_way=one_way * like,
        divergence=divergence,
        scatter=divergence,
    )


def test_scores_stay_numbers():
    """A label none of whose candidates stayed, one without anomalous images, one without images."""
    candidates = np.array([[1] * 10, [1] * 10, [1] * 10])
    labels = np.array([0, 0, 1])
    counts = count_labels(candidates, 3)
    evidence = gather(candidates, labels, counts)
    assert evidence.divergence.tolist() == [pytest.approx(np.log(20 / 0.5)), 0, 0]
    assert not np.signbit(evidence.divergence).any()
    wanted = ([2, 1, 0], [2, 0, 0], [2, 0, 0])
    assert (evidence.images.tolist(), evidence.anomalous.tolist(), evidence.left.tolist()) == wanted
    for rule in (Mad(2.0, 'kl', two_sided=False), Mad(2.0, 'count', two_sided=True), SIGNIFICANT):
        json.dumps(describe_targets(rule, evidence), allow_nan=False)


def test_few_images_say_little():
    """Beside three borrowed images that stay half as often as those of the usual label, one that
    left for good hardly counts.
    """
    usual = np.array([[1] * 5 + [0] * 5] * 8)
    for count in (1, 18):
        candidates = np.concatenate([usual, np.ones((count, 10), int)])
        labels = np.repeat([1, 0], [8, count])
        counts = count_labels(candidates, 2)
        evidence = gather(candidates, labels, counts)
        found = evidence.divergence.tolist()
        assert found == [pytest.approx(np.log(10 * count / 0.5)), pytest.approx(np.log(2))]
        found = evidence.scatter.tolist()
        assert found == [pytest.approx(np.log((3 + count) / 1.5)), pytest.approx(np.log(2))]


def test_who_left_for_good_and_where_to():
    """Six images of label 0 that go to 1, 1, 1, 1, 2, 2 for good; one is undecided; the classifier
    sees three of six as 0.
    """
    candidates = np.array([[1] * 10] * 4 + [[2] * 10] * 2 + [[0] * 4 + [1] * 6] + [[0] * 10] * 3)
    labels, raw = np.zeros(10, int), np.array([0, 0, 0, 1, 2, 2, 0, 0, 0, 0])
    counts = count_labels(candidates, 3)
    votes = vote(candidates, counts, first=False)
    evidence = gather_evidence(
        labels,
        counts,
        votes,
        sort_into_sets(counts, votes, labels, 0.1, True),
        raw,
        count_raw=False,
    )
    assert (evidence.moved[0], evidence.left[0], evidence.anomalous[0]) == (6, 7, 7)
    assert evidence.held[0] == pytest.approx(3 / 6)
    counts = count_labels(candidates[3:], 3)  # of so few, all that left are looked at
    votes = vote(candidates[3:], counts, first=False)
    sets = sort_into_sets(counts, votes, labels[3:], 0.1, True)
    evidence = gather_evidence(labels[3:], counts, votes, sets, raw[3:], count_raw=False)
    assert (evidence.moved[0], evidence.held[0]) == (3, pytest.approx(1 / 4))


def test_what_is_usual_is_said_by_the_lower_half():
    wanted = (3.0, pytest.approx(1.4826 * 1.5))
    assert usual_and_spread(np.array([5.0, 1.0, 3.0, 9.0, 2.0])) == wanted
    wanted = (3.0, pytest.approx(1.4826 * 1.5))
    assert usual_and_spread(np.array([3.0, 1.0, 2.0, 80.0, 90.0, 99.0])) == wanted
    assert usual_and_spread(np.array([4.0])) == (4.0, 0.0)
    normal = np.random.default_rng(0).normal(2, 0.3, 10**5)
    assert usual_and_spread(normal) == (pytest.approx(2, abs=0.01), pytest.approx(0.3, rel=0.02))


def test_images_leave_when_most_candidates_do():
    candidates = np.array([[0] * 5 + [1] * 5, [0] * 4 + [1] * 6, [1] * 10, [0] * 10])
    labels = np.zeros(4, int)
    counts = count_labels(candidates, 2)
    evidence = gather(candidates, labels, counts)
    assert (evidence.left.tolist(), evidence.anomalous.tolist()) == ([2, 0], [3, 0])


def test_index_without_spread():
    """More than half of the scores equal: no median deviation, but no miracle either."""
    present = np.ones(5, bool)
    index = outlier_index(np.array([0, 0, 0, 0, 3.0]), present)
    assert index[:4].tolist() == [0] * 4
    assert index[4] == pytest.approx(3 / (1.253314 * 0.6), rel=1e-5)
    assert (outlier_index(np.full(5, 2.0), present) == 0).all()
    found = outlier_index(np.array([9.0, 1, 1.1, 1.2]), np.array([False, True, True, True]))[0]
    assert found == 0
    assert (outlier_index(np.zeros(3), np.zeros(3, bool)) == 0).all()
    # two labels: never an outlier
    assert np.abs(outlier_index(np.array([0.1, 5]), np.ones(2, bool))).max() < 0.7


def test_clean_labels_are_targets_to_two_sides_only():
    evidence = make_evidence([50] * 6, [5] * 6, [0.01, 0.95, 1, 1.02, 1.04, 1.05])
    assert Mad(2.0, 'kl', two_sided=True).targets(evidence)[0]
    assert not Mad(2.0, 'kl', two_sided=False).targets(evidence).any()


def test_counts_can_be_the_score():
    evidence = make_evidence([50] * 5, [5, 6, 30, 5, 4], [1, 1, 0.5, 1, 1.01])
    assert np.flatnonzero(Mad(2.0, 'count', two_sided=False).targets(evidence)).tolist() == [2]


def test_p_values_are_binomial_tails():
    evidence = make_evidence([80, 70, 0, 60, 90], [40, 3, 0, 4, 2], [3, 1, 0, 1, 1])
    p_values = departure_p_values(evidence.images, evidence.left)
    # label 0 among shares 3/70, 4/60, 2/90 without the absent one: 3/70 is the median
    assert p_values[0] == pytest.approx(binom.sf(39, 80, 4 / 71), rel=1e-9)
    # label 4 among 1/2, 3/70, 4/60: 4/60
    assert p_values[4] == pytest.approx(binom.sf(1, 90, 5 / 61), rel=1e-9)
    assert p_values[2] == 1


def test_targets_must_scatter_and_be_left():
    images = [80] * 10
    for left, divergence, found in [(20, 3.0, [4]), (20, 1.6, []), (5, 3.0, [])]:
        evidence = make_evidence(
            images, [2] * 4 + [left] + [3] * 5, [0.6] * 4 + [divergence] + [0.7] * 5
        )
        assert np.flatnonzero(SIGNIFICANT.targets(evidence)).tolist() == found


# on the digits at a rate of .01: label 0 has eight poisoned images, and the prior makes another
# digit of many an 8
SEEN = {
    'seed 7': {
        'images': [89, 71, 72, 82, 76, 80, 89, 82, 78, 81],
        'anomalous': [9, 10, 4, 19, 5, 9, 2, 5, 31, 9],
        'left': [9, 3, 1, 7, 3, 5, 1, 2, 16, 1],
        'moved': [6, 0, 0, 2, 1, 2, 0, 0, 6, 1],
        'gone': [8, 0, 0, 3, 1, 2, 0, 0, 6, 1],
        'held': [1, 1, 1, 1, 1, 1, 1, 1, 1, 1],
        'one_way': [0.07, 0.26, 1, 0.36, 0.63, 0.77, 1, 1, 0.82, 1],
        'scatter': [1.97, 0.61, 0.59, 0.74, 0.78, 0.72, 0.79, 0.7, 0.76, 0.51],
    },
    'seed 8': {
        'images': [89, 72, 71, 83, 77, 80, 88, 82, 78, 80],
        'anomalous': [9, 8, 9, 21, 7, 14, 3, 10, 40, 15],
        'left': [9, 1, 3, 11, 2, 5, 0, 4, 21, 10],
        'moved': [5, 0, 2, 0, 0, 1, 0, 0, 5, 2],
        'gone': [8, 0, 2, 2, 0, 1, 0, 0, 5, 3],
        'held': [0.4, 1, 0.67, 1, 1, 1, 0, 1, 0.8, 1],
        'one_way': [0.33, 1, 0.63, 0.39, 0.44, 0.55, 0, 0.44, 0.78, 0.21],
        'scatter': [1.93, 0.46, 0.7, 0.75, 0.64, 0.67, 0.42, 0.6, 0.76, 0.93],
    },
}


@pytest.mark.parametrize('seen', SEEN.values(), ids=SEEN)
def test_eight_poisoned_images_are_told_from_a_hard_class(seen):
    columns = {name: np.array(values) for name, values in seen.items()}
    evidence = Evidence(divergence=columns['scatter'], **columns)
    rule = make_target_rule(DEFENSES.part('dataelixir')['targets'])
    found = describe_targets(rule, evidence)
    assert found['suspect_labels'] == found['target_labels'] == [0]
    assert [row['gone'] for row in found['labels']] == seen['gone']


@pytest.mark.parametrize(('labels', 'gone', 'found'), [(10, 8, [0]), (10, 4, []), (2, 8, [])])
def test_images_that_are_gone_count_from_five_on_and_beside_other_labels(labels, gone, found):
    """All that is anomalous is gone, where others' anomalous images stay half: too few of 80 leave
    for the other test.
    """
    column = np.arange(labels) == 0
    evidence = Evidence(
        images=np.full(labels, 80),
        anomalous=np.where(column, gone, 10),
        left=np.where(column, gone, 5),
        moved=np.zeros(labels, int),
        gone=np.where(column, gone, 0),
        held=np.ones(labels),
        one_way=np.zeros(labels),
        divergence=np.where(column, 3.0, 0.6),
        scatter=np.where(column, 3.0, 0.6),
    )
    assert (
        describe_targets(Significant(score=0.5, share=0.03, deviations=5.0, level=0.05), evidence)[
            'target_labels'
        ]
        == found
    )


def test_images_are_gone_whose_label_hardly_a_candidate_keeps():
    candidates = np.array(
        [[0] * own + [1, 2] * 4 + [1] * (2 - own) for own in (0, 1, 2)] + [[0] * 10]
    )
    labels = np.zeros(4, int)
    evidence = gather(candidates, labels, count_labels(candidates, 3))
    assert (evidence.anomalous[0], evidence.gone[0], evidence.moved[0]) == (3, 2, 0)


def test_images_that_moved_are_enough():
    """However little the label scatters: 12 of 80 left for good, of others 1 or 2; of few labels a
    tenth is asked for.
    """
    evidence = make_evidence(
        [80] * 10, [15] * 10, [0.6] * 10, moved=[1, 2, 1, 12, 0, 1, 2, 1, 0, 1]
    )
    assert describe_targets(SIGNIFICANT, evidence)['target_labels'] == [3]
    wanted = pytest.approx((12 - 1) / 80 / 0.05)
    assert describe_targets(SIGNIFICANT, evidence)['labels'][3]['score'] == wanted
    for moved, found in ((4, []), (30, [1])):
        few = make_evidence([80, 80], [30, 30], [0.6] * 2, moved=[0, moved])
        assert describe_targets(SIGNIFICANT, few)['target_labels'] == found


def test_a_hard_class_has_more_anomalous_images_and_more_that_moved():
    """10 of 60 anomalous ones, where others have 1 or 2 of 10, are no exception; 10 of 12 are."""
    others = [1, 2, 1, 2, 1, 1, 2, 1, 1]
    for anomalous, found in ((60, []), (12, [9])):
        evidence = make_evidence([80] * 10, [10] * 9 + [anomalous], [0.6] * 10, moved=[*others, 10])
        assert describe_targets(SIGNIFICANT, evidence)['target_labels'] == found


def test_the_chance_in_small_counts_is_no_spread():
    """Of 80 images each 0 or 1 moved: chance gives as much, so 8 of 89 stand out by the least that
    is asked for, 3 %.
    """
    images = np.array([89, *[80] * 9])
    shares = np.array([8, 0, 0, 0, 0, 1, 1, 1, 1, 1]) / images
    few = {'least': 0.03, 'deviations': 5.0}
    alone = excess(shares, images > 0, **few)[0]
    spread = 1.4826 / 80
    assert alone == pytest.approx((8 / 89 - 1 / 80) / (5 * spread))
    left = np.sqrt(spread**2 - 1 / 80 * 79 / 80 / 80)
    found = excess(shares, images > 0, images=images, **few)[0]
    assert found == pytest.approx((8 / 89 - 1 / 80) / max(0.03, 5 * left))
    assert excess(shares, images > 0, images=10 * images, **few)[0] < alone * 1.1


def test_pooled_p_values_by_hand():
    """Beside 0 of 6, 0 of 9, 1 of 16 and 2 of 18: the first three hold half of the counts, so 2 x 1
    + 1 of 31 + 1 is usual.
    """
    counts, events = np.array([6, 10, 16, 9, 18]), np.array([0, 7, 1, 0, 2])
    assert pooled_p_values(counts, events)[1] == pytest.approx(binom.sf(6, 10, 3 / 32), rel=1e-9)
    assert pooled_p_values(counts, events)[0] == 1
    assert pooled_p_values(np.array([5, 0]), np.array([3, 0])).tolist() == [1, 1]


def test_the_spread_of_the_others_is_what_a_label_must_exceed():
    """Five deviations: the others' lower half lies .0, .1, .2, .3 below the middle, so .15 times
    1.4826 is one.
    """
    usual = [0.7, 0.8, 0.9, 1.0, 1.1, 1.2, 1.3]
    limit = 1.0 + 5 * 1.4826 * 0.2
    for scatter, found in ((limit - 0.01, []), (limit + 0.01, [7])):
        evidence = make_evidence([80] * 8, [2] * 7 + [20], [*usual, scatter])
        assert describe_targets(SIGNIFICANT, evidence)['suspect_labels'] == found


@pytest.mark.parametrize(
    ('held', 'one_way', 'everywhere', 'word'),
    [
        (0.9, 0.3, 9, 'attacked'),
        (0.1, 0.3, 0, 'attacked'),
        (0.1, 0.3, 9, 'mislabelled'),
        (0.9, 0.95, 0, 'mislabelled'),
    ],
)
def test_a_trigger_draws_images_of_many_classes_and_holds_them(held, one_way, everywhere, word):
    """Where images leave all labels (`everywhere`: so many of 80), a classifier that sees their own
    class obeys no trigger.
    """
    moved = [everywhere] * 10
    evidence = make_evidence(
        [80] * 10, [10] * 9 + [40], [0.6] * 9 + [3.0], moved=moved, held=held, one_way=one_way
    )
    found = describe_targets(SIGNIFICANT, evidence)
    wanted = ([9] if word == 'attacked' else [], [9])
    assert (found['target_labels'], found['suspect_labels']) == wanted
    assert found['verdict']['word'] == word


def test_one_way_is_told_from_where_most_images_are():
    """30 of 40 to a class with 900 of 1,000 others are no sign; 36 of 40 to one of 100 are."""
    labels = np.repeat([0, 1, 2], [100, 900, 100])
    leaving = np.zeros(1100, bool)
    leaving[:40] = True
    goals = np.repeat([1, 2], [36, 4])
    whole = np.r_[goals, labels[40:]]
    # .9 of them, as .9 of the others
    assert one_way(labels, leaving, whole, 3)[0] == pytest.approx(0, abs=1e-9)
    whole = np.r_[goals[::-1], labels[40:]]
    whole[:40] = np.repeat([2, 1], [36, 4])
    assert one_way(labels, leaving, whole, 3)[0] == pytest.approx((0.9 - 0.1) / 0.9)
    # two labels: no choice
    assert one_way(labels[:1000], leaving[:1000], np.minimum(whole[:1000], 1), 2)[0] == 0
    assert one_way(labels, np.zeros(1100, bool), whole, 3).tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    ('classes', 'goals', 'found'),
    [(3, [1, 1, 1, 1, 2], 0), (10, [1, 1, 1, 1, 2], (0.8 - 1 / 9) * 9 / 8)],
)
def test_so_few_images_that_chance_sends_them_one_way(classes, goals, found):
    """Four of five to one of two goals: p = .19; to one of nine: p = .0006."""
    labels = np.repeat(np.arange(classes), 60)
    leaving, all_goals = np.zeros(len(labels), bool), labels.copy()
    leaving[:5], all_goals[:5] = True, goals
    assert one_way(labels, leaving, all_goals, classes)[0] == pytest.approx(found)


@pytest.mark.parametrize('targets', [[1], [0, 3, 7], [0, 2, 4, 6, 8]])
def test_one_target_or_half_of_the_labels(targets):
    aimed_at = np.isin(np.arange(10), targets)
    evidence = make_evidence([100] * 10, np.where(aimed_at, 40, 2), np.where(aimed_at, 3.0, 0.6))
    assert describe_targets(SIGNIFICANT, evidence)['target_labels'] == targets


def test_two_labels_one_target():
    evidence = make_evidence([100, 60], [40, 1], [3.0, 0.5])
    assert describe_targets(SIGNIFICANT, evidence)['target_labels'] == [0]
    # nothing to compare with
    assert describe_targets(SIGNIFICANT, make_evidence([100], [40], [3.0]))['target_labels'] == []


@settings(max_examples=20)
@given(st.integers(0, 10**6))
def test_noise_alone_is_no_target(seed):
    """Ten labels whose images leave with one probability: a false alarm in fifty."""
    rng = np.random.default_rng(seed)
    images = rng.integers(40, 120, 10)
    evidence = make_evidence(images, rng.binomial(images, 0.05), rng.uniform(0, 4, 10))
    assert describe_targets(SIGNIFICANT, evidence)['target_labels'] == []


def test_descriptions_hold_the_chart():
    evidence = make_evidence([80] * 4, [1, 40, 2, 1], [0.5, 3, 0.6, 0.7])
    found = describe_targets(Mad(2.0, 'kl', two_sided=False), evidence)
    assert found['rule'] == {'name': 'mad', 'threshold': 2.0, 'score': 'kl', 'two_sided': False}
    assert found['chart'] == {'quantity': 'index', 'threshold': 2.0}
    assert [row['target'] for row in found['labels']] == [False, True, False, False]
    assert found['labels'][1]['left'] == 40
    wanted = {'quantity': 'score', 'threshold': 1.0}
    assert describe_targets(SIGNIFICANT, evidence)['chart'] == wanted
    json.dumps(found, allow_nan=False)


@pytest.mark.parametrize(
    ('part', 'words'),
    [
        ({'name': 'madd'}, 'mad, significant'),
        ({}, 'mad, significant'),
        ({'name': 'mad', 'threshold': 0.0, 'score': 'kl', 'two_sided': False}, 'threshold=0'),
        ({'name': 'mad', 'threshold': 2.0, 'score': 'entropy', 'two_sided': False}, 'entropy'),
        (
            {'name': 'significant', 'score': 1.0, 'share': 0.1, 'deviations': 5.0, 'level': 1.5},
            r'level=1\.5',
        ),
        (
            {'name': 'significant', 'score': 1.0, 'share': 1.0, 'deviations': 5.0, 'level': 0.1},
            r'share=1\.0',
        ),
        ({'name': 'significant', 'scores': 2}, 'scores'),
    ],
)
def test_rules_refuse(part, words):
    with pytest.raises(UserError, match=words):
        make_target_rule(part)


def test_labels_without_anomalous_images_are_no_targets():
    """However clean they are beside the others: neither by their divergence nor by their count."""
    evidence = make_evidence([50] * 6, [0, 20, 21, 22, 23, 24], [0, 0.95, 1, 1.02, 1.04, 1.05])
    for score in ('kl', 'count'):
        rule = Mad(2.0, score, two_sided=True)
        assert outlier_index(rule.scores(evidence), np.ones(6, bool))[0] < -2
        assert not rule.targets(evidence).any()
    assert not SIGNIFICANT.targets(evidence)[0]


def test_of_equal_shares_of_leavers_the_number_of_the_label_decides_nothing():
    """2 of 40 and 4 of 80: the smaller group speaks, for it says less, in either order."""
    images, left = np.array([60, 40, 80]), np.array([20, 2, 4])
    for order in ([0, 1, 2], [0, 2, 1]):
        p_values = departure_p_values(images[order], left[order])
        assert p_values[0] == pytest.approx(binom.sf(19, 60, 3 / 41), rel=1e-9)
