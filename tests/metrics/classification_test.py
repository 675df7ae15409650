import numpy as np
import pytest

from purify.core.errors import UserError
from purify.metrics.classification import accuracy, attack_success, robust_accuracy
from purify.metrics.intervals import Rate

LABELS = np.array([0, 0, 1, 1, 1, 2, 2, 2])
PREDICTIONS = np.array([0, 1, 0, 1, 0, 0, 2, 1])


def success(predictions, labels, target):
    return attack_success(predictions, np.full(len(labels), target), np.asarray(labels) != target)


def robust(predictions, labels, target):
    return robust_accuracy(predictions, labels, np.asarray(labels) != target)


def test_accuracy_by_hand():
    assert accuracy(PREDICTIONS, LABELS) == Rate(3, 8)


def test_success_leaves_the_target_class_out():
    # Of the six images of classes 1 and 2, three are taken for class 0 and two for what they are.
    assert success(PREDICTIONS, LABELS, 0) == Rate(3, 6)
    assert robust(PREDICTIONS, LABELS, 0) == Rate(2, 6)
    # Another target: class 1 is left out, the others are taken for it twice and for themselves
    # twice.
    assert success(PREDICTIONS, LABELS, 1) == Rate(2, 5)
    assert robust(PREDICTIONS, LABELS, 1) == Rate(2, 5)


def test_images_of_the_target_class_change_neither():
    predictions = PREDICTIONS.copy()
    predictions[:2] = 2
    assert success(predictions, LABELS, 0) == success(PREDICTIONS, LABELS, 0)
    assert robust(predictions, LABELS, 0) == robust(PREDICTIONS, LABELS, 0)


def test_success_and_robust_accuracy_share_the_images():
    rng = np.random.default_rng(0)
    labels, predictions = rng.integers(0, 4, (2, 500))
    wins, right = success(predictions, labels, 3), robust(predictions, labels, 3)
    assert wins.count == right.count == np.sum(labels != 3)
    assert wins.hits + right.hits <= wins.count


def test_nothing_but_the_target_class_has_no_value():
    assert success(np.zeros(4, int), np.zeros(4, int), 0).value is None
    assert accuracy(np.zeros(0), np.zeros(0)).value is None


@pytest.mark.parametrize(
    ('predictions', 'told'),
    [
        (np.zeros(7, int), 'one length'),
        (np.zeros((8, 3), int), 'one length'),
        (np.full(8, 0.9), 'no classes'),
    ],
)
def test_what_are_no_predictions_is_refused(predictions, told):
    among = np.ones(8, bool)
    for measure in (
        accuracy,
        lambda *pair: attack_success(*pair, among),
        lambda *pair: robust_accuracy(*pair, among),
    ):
        with pytest.raises(UserError, match=told):
            measure(predictions, LABELS)


def test_all_to_all_counts_the_next_class():
    goals = (LABELS + 1) % 3
    # the second image and the sixth
    assert attack_success(PREDICTIONS, goals, goals != LABELS) == Rate(2, 8)


def test_which_images_count_must_be_said_for_each():
    for among in (np.ones(7, bool), np.ones(8, int)):
        with pytest.raises(UserError, match='for each of 8'):
            attack_success(PREDICTIONS, LABELS, among)
