import numpy as np
import pytest

from purify.core.errors import UserError
from purify.metrics.classification import accuracy, attack_success, robust_accuracy
from purify.metrics.intervals import Share

LABELS = np.array([0, 0, 1, 1, 1, 2, 2, 2])
PREDICTIONS = np.array([0, 1, 0, 1, 0, 0, 2, 1])


def test_accuracy_by_hand():
    assert accuracy(PREDICTIONS, LABELS) == Share(3, 8)


def test_success_leaves_the_target_class_out():
    # Of the six images of classes 1 and 2, three are taken for class 0 and two for what they are.
    assert attack_success(PREDICTIONS, LABELS, 0) == Share(3, 6)
    assert robust_accuracy(PREDICTIONS, LABELS, 0) == Share(2, 6)
    # Another target: class 1 is left out, the others are taken for it twice and for themselves twice.
    assert attack_success(PREDICTIONS, LABELS, 1) == Share(2, 5)
    assert robust_accuracy(PREDICTIONS, LABELS, 1) == Share(2, 5)


def test_images_of_the_target_class_change_neither():
    predictions = PREDICTIONS.copy()
    predictions[:2] = 2
    assert attack_success(predictions, LABELS, 0) == attack_success(PREDICTIONS, LABELS, 0)
    assert robust_accuracy(predictions, LABELS, 0) == robust_accuracy(PREDICTIONS, LABELS, 0)


def test_success_and_robust_accuracy_share_the_images():
    rng = np.random.default_rng(0)
    labels, predictions = rng.integers(0, 4, (2, 500))
    success, robust = attack_success(predictions, labels, 3), robust_accuracy(predictions, labels, 3)
    assert success.count == robust.count == np.sum(labels != 3)
    assert success.hits + robust.hits <= success.count


def test_nothing_but_the_target_class_has_no_value():
    assert attack_success(np.zeros(4, int), np.zeros(4, int), 0).value is None
    assert accuracy(np.zeros(0), np.zeros(0)).value is None


@pytest.mark.parametrize(
    ('predictions', 'told'),
    [
        (np.zeros(7, int), 'same length'),
        (np.zeros((8, 3), int), 'same length'),
        (np.full(8, 0.9), 'not class numbers'),
    ],
)
def test_what_are_no_predictions_is_refused(predictions, told):
    for measure in (accuracy, lambda *pair: attack_success(*pair, 0), lambda *pair: robust_accuracy(*pair, 0)):
        with pytest.raises(UserError, match=told):
            measure(predictions, LABELS)
