import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from purify.core.errors import UserError
from purify.metrics.detection import auroc, detection_rates, label_accuracy
from purify.metrics.intervals import Rate

IDS = np.array([10, 4, 7, 1, 8])
FLAGGED = np.array([True, False, True, False, True])


def test_rates_by_hand():
    rates = detection_rates(IDS, FLAGGED, np.array([7, 4]))
    assert rates.tpr == Rate(1, 2)
    assert rates.fpr == Rate(2, 3)


@given(seed=st.integers(0, 9999))
def test_order_of_ids_does_not_matter(seed):
    rng = np.random.default_rng(seed)
    ids, verdicts = rng.permutation(1000)[:40], rng.random(40) < 0.3
    poisoned = rng.choice(ids, 12, replace=False)
    rates = detection_rates(ids, verdicts, poisoned)
    order = rng.permutation(40)
    assert detection_rates(ids[order], verdicts[order], np.sort(poisoned)) == rates
    assert rates.tpr.hits + rates.fpr.hits == verdicts.sum()
    assert (rates.tpr.count, rates.fpr.count) == (12, 28)


def test_clean_data_have_no_true_positives():
    rates = detection_rates(IDS, FLAGGED, np.array([], int))
    assert rates.tpr.value is None
    assert rates.fpr == Rate(3, 5)


def test_verdicts_must_fit():
    with pytest.raises(UserError, match=r'1 poisoned samples have no verdict .such as id 3'):
        detection_rates(IDS, FLAGGED, np.array([3, 4]))
    with pytest.raises(UserError, match='id 4 occurs more than once'):
        detection_rates(np.array([4, 4]), np.array([True, False]), np.array([4]))
    with pytest.raises(UserError, match='one true or false per id'):
        detection_rates(IDS, FLAGGED[:4], np.array([4]))
    with pytest.raises(UserError, match='int64'):
        detection_rates(IDS, np.where(FLAGGED, 1, 0), np.array([4]))


def test_label_accuracy_matches_by_id():
    true_ids, true_labels = np.array([1, 2, 4, 7, 8, 10]), np.array([0, 0, 1, 1, 2, 2])
    labels = np.array([2, 0, 1, 0, 1])  # of ids 10, 4, 7, 1, 8: right, wrong, right, right, wrong
    assert label_accuracy(IDS, labels, true_ids, true_labels) == Rate(3, 5)
    order = np.array([5, 2, 0, 1, 4, 3])
    assert label_accuracy(IDS, labels, true_ids[order], true_labels[order]) == Rate(3, 5)


def test_labels_must_fit():
    with pytest.raises(UserError, match=r'2 samples have no true label .the first is id 8'):
        label_accuracy(IDS, np.zeros(5, int), np.array([1, 4, 7]), np.zeros(3, int))
    with pytest.raises(UserError, match='one label per id'):
        label_accuracy(IDS, np.zeros(4, int), IDS, np.zeros(5, int))
    with pytest.raises(UserError, match='id 1 occurs'):
        label_accuracy(np.array([1, 1]), np.zeros(2, int), IDS, np.zeros(5, int))


@given(seed=st.integers(0, 9999))
def test_auroc_is_the_share_of_pairs_in_order(seed):
    """Against all pairs one by one, and scikit-learn where there is one group."""
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, 6, 30) / 2
    positive = rng.random(30) < 0.4
    groups = rng.integers(0, 3, 30)
    pairs = [
        (a, b)
        for a in range(30)
        for b in range(30)
        if positive[a] and not positive[b] and groups[a] == groups[b]
    ]
    wins = sum(1.0 if scores[a] > scores[b] else 0.5 * (scores[a] == scores[b]) for a, b in pairs)
    assert auroc(scores, positive, groups) == (pytest.approx(wins / len(pairs)) if pairs else None)
    if 0 < positive.sum() < 30:
        assert auroc(scores, positive) == pytest.approx(roc_auc_score(positive, scores))


def test_auroc_of_one_kind_is_not_defined_and_infinite_scores_have_ranks():
    scores = np.array([-np.inf, 0.0, np.inf])
    assert auroc(scores, np.array([True, False, True])) == 0.5
    assert auroc(scores, np.zeros(3, bool)) is None
    assert auroc(scores, np.array([True, False, False]), np.array([0, 1, 1])) is None
    assert auroc(np.zeros(0), np.zeros(0, bool)) is None


@pytest.mark.parametrize(
    ('scores', 'positive', 'message'),
    [
        ([0.0, np.nan], [True, False], '1 scores are NaN'),
        ([0.0], [True, False], 'do not fit'),
        ([0.0, 1.0], [1, 0], 'int64'),
    ],
)
def test_scores_must_fit(scores, positive, message):
    with pytest.raises(UserError, match=message):
        auroc(np.array(scores), np.array(positive))
