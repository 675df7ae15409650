"""How well a classifier does on clean and on triggered test images."""

import numpy as np

from purify.core.errors import UserError
from purify.metrics.intervals import Rate, rate_of


def accuracy(predictions: np.ndarray, labels: np.ndarray) -> Rate:
    """ACC: share of `predictions: int[n]` equal to `labels: int[n]`."""
    predictions, labels = _pair(predictions, labels)
    return rate_of(predictions == labels)


def attack_success(triggered: np.ndarray, goals: np.ndarray, among: np.ndarray) -> Rate:
    """ASR: share of the triggered test images that are classified as the attack wants.

    `triggered: int[n]` are predictions, `goals: int[n]` the classes wanted, `among: bool[n]` the
    images that count: those whose true class is not the goal already, and of a source class where
    the attack has any.
    """
    predictions, goals = _pair(triggered, goals)
    return rate_of((predictions == goals)[_mask(among, predictions)])


def robust_accuracy(triggered: np.ndarray, true_labels: np.ndarray, among: np.ndarray) -> Rate:
    """RA: share of triggered test images (as for `attack_success`) given their true label."""
    predictions, labels = _pair(triggered, true_labels)
    return rate_of((predictions == labels)[_mask(among, predictions)])


def _mask(among: np.ndarray, like: np.ndarray) -> np.ndarray:
    among = np.asarray(among)
    if among.dtype != np.bool_ or among.shape != like.shape:
        raise UserError(
            f'which images count must be true or false for each of {like.size}, not'
            f' {among.dtype}{list(among.shape)}.'
        )
    return among


def _pair(predictions: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both as `int[n]`; raises `UserError` for others: scores, say, would compare to nonsense."""
    predictions, labels = np.asarray(predictions), np.asarray(labels)
    if predictions.ndim != 1 or predictions.shape != labels.shape:
        raise UserError(
            f'predictions {predictions.shape} and labels {labels.shape} must be lists of one'
            ' length.'
        )
    for name, values in (('predictions', predictions), ('labels', labels)):
        if values.size and not np.issubdtype(values.dtype, np.integer):
            raise UserError(f'{name} of type {values.dtype} are no classes. Give whole numbers.')
    return predictions, labels
