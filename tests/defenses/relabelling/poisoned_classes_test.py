"""The two tests of classes against transcriptions image by image, and on densities made by hand."""

import math

import numpy as np
import pytest
from scipy.stats import binom

from purify.core.errors import UserError
from purify.defenses.relabelling.poisoned_classes import (
    Outlying,
    Strangers,
    Valley,
    foreign_nll,
    make_disruption_rule,
    nondisruptive_scores,
    own_and_foreign,
    standings,
)


def drawn(n=60, classes=4, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(-20, 6, (n, classes)), rng.integers(0, classes, n).astype(np.int32)


def test_the_best_foreign_class_is_found_image_by_image():
    log_density, labels = drawn()
    own, foreign, best = own_and_foreign(log_density, labels)
    for row, label in enumerate(labels):
        others = {k: v for k, v in enumerate(log_density[row].tolist()) if k != label}
        assert own[row] == log_density[row, label]
        assert foreign[row] == max(others.values())
        assert best[row] == max(others, key=lambda k: others[k])


def test_one_class_has_no_foreign_one():
    own, foreign, best = own_and_foreign(np.zeros((3, 1)), np.zeros(3, np.int32))
    assert own.tolist() == [0, 0, 0]
    assert np.isneginf(foreign).all()
    assert best.tolist() == [-1] * 3


def test_scores_are_those_of_the_sum_over_foreign_images():
    log_density, labels = drawn()
    log_density[np.arange(60), labels] += 25
    raw, nll = [], []
    for label in range(4):
        foreign = [
            (row, y)
            for row, y in zip(log_density.tolist(), labels.tolist(), strict=True)
            if y != label
        ]
        nll.append(-math.fsum(row[label] for row, _ in foreign) / len(foreign))
        raw.append(nll[-1] + math.fsum(row[y] for row, y in foreign) / len(foreign))
    middle = sorted(raw)[2]  # the upper of the two in the middle
    found = nondisruptive_scores(log_density, labels)
    np.testing.assert_allclose(found, np.array(raw) / middle, rtol=1e-12)
    np.testing.assert_allclose(foreign_nll(log_density, labels), nll, rtol=1e-12)


def test_scores_do_not_depend_on_units():
    """Features in other units move all log densities by a constant, and more of them stretch all
    distances alike.
    """
    log_density, labels = drawn()
    log_density[np.arange(60), labels] += 25
    found = nondisruptive_scores(3 * log_density + 70, labels)
    np.testing.assert_allclose(found, nondisruptive_scores(log_density, labels), rtol=1e-9)


@pytest.mark.parametrize('dimensions', [8, 64, 512])
def test_a_wider_class_is_no_target(dimensions):
    """Of Gaussian classes the score is their mean divergence; eq.

    3 alone falls with the width, the more so the more dimensions.
    """
    rng, classes = np.random.default_rng(0), 6
    labels, deviations = np.repeat(np.arange(classes), 40), np.array([1.15, 1, 1, 1, 0.95, 1])
    means = 5 * np.eye(classes, dimensions)
    z = means[labels] + deviations[labels, None] * rng.normal(size=(len(labels), dimensions))
    apart = ((z[:, None] - means) ** 2).sum(-1)
    log_density = -0.5 * apart / deviations**2 - dimensions * np.log(deviations)
    assert nondisruptive_scores(log_density, labels).min() > 0.6


def test_a_density_of_all_images_is_near_to_all():
    log_density, labels = drawn(400)
    log_density[np.arange(400), labels] += 40
    own = log_density[np.arange(400), labels]
    log_density[:, 2] = own - 2.0  # all are nearly as likely as under their own
    scores = nondisruptive_scores(log_density, labels)
    assert scores[2] < 0.1
    assert scores[[0, 1, 3]].min() > 0.9


def test_absent_classes_and_lone_ones_have_no_score():
    log_density, labels = drawn()
    labels[labels == 3] = 0
    assert np.isinf(nondisruptive_scores(log_density, labels)[3])
    assert np.isinf(nondisruptive_scores(log_density, np.ones(60, np.int32))).all()


OUTLYING = Outlying(share=0.05, most=0.75, quantile=0.01, apart=0.03, level=0.05, score='outside')
VALLEY = Valley(share=0.05, limit=0.75, bins=30, score='ratio')


def classes_of(*densities):
    """(foreign log densities of all, their labels): class k has the k-th list."""
    return np.concatenate(densities).astype(float), np.repeat(
        np.arange(len(densities)), [len(own) for own in densities]
    )


def hill(count, middle=0.0, width=1.0, seed=0):
    return middle + width * np.random.default_rng(seed).normal(size=count)


def test_images_beyond_the_others_are_counted():
    own = np.concatenate([hill(80, -20, 3), hill(20, -60, 3, 1)])
    others = [hill(100, -20, 3, seed) for seed in range(2, 11)]
    tail = OUTLYING.judge(*classes_of(own, *others))[0]
    ordered = sorted(np.concatenate(others))
    place = ordered[8] + 0.99 * (ordered[9] - ordered[8])  # at .01 of 899 steps
    assert tail.place == pytest.approx(place, rel=1e-9)
    assert tail.share == sum(value < place for value in own) / 100
    assert tail.share >= 0.2
    assert tail.suspect


def test_standings_are_those_of_the_upper_part():
    foreign, labels = classes_of(hill(100, 7, 3), hill(40, -5, 0.1, 1))
    for label, count in ((0, 100), (1, 40)):
        own = sorted(foreign[labels == label])
        place = 0.55 * (count - 1)
        start = own[int(place)] + (place % 1) * (own[int(place) + 1] - own[int(place)])
        unit = np.mean([value - start for value in own if value >= start])
        found = standings(foreign, labels)[labels == label]
        np.testing.assert_allclose(found, (foreign[labels == label] - start) / unit)


def test_few_images_beyond_are_chance():
    """Of 80 images .05 may lie outside; 10 classes at .05 ask for below .005: 11 or more."""
    usual = [np.arange(1000.0) for _ in range(9)]
    for count, suspect in ((10, False), (11, True)):
        own = np.concatenate([np.full(count, -9000.0), np.linspace(100, 999, 80 - count)])
        tail = OUTLYING.judge(*classes_of(own, *usual))[0]
        chance = 1 - sum(math.comb(80, k) * 0.05**k * 0.95 ** (80 - k) for k in range(count))
        assert tail.share == count / 80
        assert tail.margin == pytest.approx(count / 11)
        assert tail.suspect is suspect is bool(chance < 0.005)


def test_a_wide_class_and_one_far_from_all_are_like_any_other():
    """Though most of them lies where hardly an image of the others does."""
    for wide, far in ((5.0, 0.0), (3.0, -2.0), (1.0, -3.0)):
        tails = OUTLYING.judge(
            *classes_of(hill(500, far, wide), *(hill(500, seed=k) for k in range(1, 6)))
        )
        # by itself it would be named
        assert binom.sf(round(500 * tails[0].share) - 1, 500, 0.05) < 0.05 / 6
        assert tails[0].margin < 1
        assert not any(tail.suspect for tail in tails.values())


@pytest.mark.long
def test_clean_classes_of_one_kind_are_rarely_suspected():
    rng = np.random.default_rng(1)
    labels = np.repeat(np.arange(10), 80)
    suspects = [
        any(tail.suspect for tail in OUTLYING.judge(rng.gumbel(-20, 4, 800), labels).values())
        for _ in range(200)
    ]
    assert sum(suspects) == 0


def test_nothing_to_compare_with_is_no_tail():
    assert not OUTLYING.judge(np.ones(5), np.zeros(5, int))[0].suspect
    assert not OUTLYING.judge(*classes_of(np.full(50, -9.0), np.zeros(50)))[0].suspect


def test_a_class_of_which_most_lies_outside_lies_apart():
    others = [np.linspace(0, 1, 80) for _ in range(9)]
    rule = Outlying(share=0.05, most=0.3, quantile=0.01, apart=0.03, level=0.05, score='outside')
    for outside, suspect in ((24, True), (25, False)):
        own = np.concatenate([np.full(outside, -9.0), np.linspace(0.1, 1, 80 - outside)])
        assert rule.judge(*classes_of(own, *others))[0].suspect is suspect


def test_strangers_are_counted_beyond_what_is_usual():
    """12 of 80 against 1 or 2 of the others: by the lower median 1 of 80, over .03 of the class; of
    two classes .1 is asked for.
    """
    rule = Strangers(share=0.03, deviations=5.0, level=0.05)
    labels = np.repeat(np.arange(10), 80)
    strange = np.zeros(800, bool)
    for label, count in enumerate((12, 1, 2, 1, 2, 1, 1, 2, 1, 2)):
        strange[80 * label : 80 * label + count] = True
    excess, beyond = rule.judge(strange, labels, 10)
    assert excess[0] == pytest.approx((12 - 1) / 80 / 0.03)
    assert (excess[1:] < 1).all()
    assert beyond.tolist() == [True] + [False] * 9
    excess, _ = rule.judge(strange[:160], labels[:160], 10)
    assert excess[0] == pytest.approx((12 - 1) / 80 / 0.1)
    assert (excess[2:] == 0).all()


def test_the_valley_is_the_right_most_lowest_bin_left_of_the_limit():
    hills = np.concatenate([np.full(10, 1.5), np.full(40, 28.5), [0.0, 30.0]])  # 30 bins of width 1
    tail = VALLEY.judge(hills, np.zeros(52, int))[0]
    # bin 22 has its centre at .75 of the range: not left of it
    assert tail.place == pytest.approx(21.5)
    assert tail.share == 11 / 52
    assert tail.suspect


def test_a_hill_without_a_foot_has_few_images_left_of_its_minimum():
    values = np.concatenate([np.linspace(20, 30, 99), [0.0]])
    tail = VALLEY.judge(values, np.zeros(100, int))[0]
    assert tail.share == 0.01
    assert not tail.suspect


def test_equal_densities_have_no_valley():
    tail = VALLEY.judge(np.full(40, -3.0), np.zeros(40, int))[0]
    assert math.isnan(tail.place)
    assert not tail.suspect


@pytest.mark.parametrize(
    ('settings', 'said'),
    [
        (
            {
                'name': 'outlying',
                'share': 0.05,
                'most': 0.5,
                'quantile': 0.2,
                'apart': 0.03,
                'level': 0.05,
                'score': 'ratio',
            },
            'quantile',
        ),
        (
            {
                'name': 'outlying',
                'share': 0.05,
                'most': 0.5,
                'quantile': 0.01,
                'apart': 0.03,
                'level': 0.0,
                'score': 'ratio',
            },
            'level',
        ),
        (
            {
                'name': 'outlying',
                'share': 0.05,
                'most': 0.5,
                'quantile': 0.01,
                'apart': 0.03,
                'level': 0.1,
                'score': 'best',
            },
            'outside, ratio',
        ),
        (
            {
                'name': 'outlying',
                'share': 0.6,
                'most': 0.5,
                'quantile': 0.01,
                'apart': 0.03,
                'level': 0.1,
                'score': 'ratio',
            },
            'most',
        ),
        ({'name': 'valley', 'share': 0.05, 'limit': 1.0, 'bins': 30, 'score': 'ratio'}, 'limit'),
        ({'name': 'valley', 'share': 0.05, 'limit': 0.5, 'bins': 2, 'score': 'ratio'}, 'bins'),
        ({'name': 'valley', 'share': 0.05, 'limit': 0.5, 'bins': 30.5, 'score': 'ratio'}, 'bins'),
        (
            {
                'name': 'outlying',
                'share': 0.05,
                'most': 0.5,
                'quantile': 0.01,
                'apart': 1.0,
                'level': 0.1,
                'score': 'ratio',
            },
            'apart',
        ),
        ({'name': 'canyon'}, 'outlying, valley'),
    ],
)
def test_numbers_out_of_range_are_refused(settings, said):
    with pytest.raises(UserError, match=said):
        make_disruption_rule(settings)


@pytest.mark.parametrize('bad', [{'share': 1.0}, {'deviations': -1.0}, {'level': 1.0}])
def test_strangers_refuse_numbers_out_of_range(bad):
    with pytest.raises(UserError, match=f'{next(iter(bad))}='):
        Strangers(**({'share': 0.03, 'deviations': 5.0, 'level': 0.05} | bad))
