"""How well a classifier does on clean and on triggered test images."""

import numpy as np

from purify.core.errors import UserError
from purify.metrics.intervals import Share, share_of


def accuracy(predictions: np.ndarray, labels: np.ndarray) -> Share:
    """ACC: share of `predictions: int[n]` equal to `labels: int[n]`."""
    predictions, labels = _pair(predictions, labels)
    return share_of(predictions == labels)


def attack_success(predictions_on_triggered: np.ndarray, true_labels: np.ndarray, target: int) -> Share:
    """ASR: share of triggered test images, those of the target class left out, that are taken for the target.

    `predictions_on_triggered: int[n]`, `true_labels: int[n]` (before relabelling).
    """
    predictions, labels = _pair(predictions_on_triggered, true_labels)
    return share_of(predictions[labels != target] == target)


def robust_accuracy(predictions_on_triggered: np.ndarray, true_labels: np.ndarray, target: int) -> Share:
    """RA: share of triggered test images, those of the target class left out, that are given their true label."""
    predictions, labels = _pair(predictions_on_triggered, true_labels)
    return share_of((predictions == labels)[labels != target])


def _pair(predictions: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both as `int[n]`. Raises `UserError` for other shapes or types: scores, say, would compare to nonsense."""
    predictions, labels = np.asarray(predictions), np.asarray(labels)
    if predictions.ndim != 1 or predictions.shape != labels.shape:
        raise UserError(f'predictions {predictions.shape} and labels {labels.shape} must be lists of the same length.')
    for name, values in (('predictions', predictions), ('labels', labels)):
        if values.size and not np.issubdtype(values.dtype, np.integer):
            raise UserError(f'{name} of type {values.dtype} are not class numbers. Give whole numbers.')
    return predictions, labels
