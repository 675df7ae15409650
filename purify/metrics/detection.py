"""How well a defence tells poisoned samples from clean ones, and how good its labels are."""

import dataclasses

import numpy as np
from scipy import stats

from purify.core.errors import UserError
from purify.metrics.intervals import Rate, rate_of


@dataclasses.dataclass(frozen=True)
class Detection:
    """TPR and FPR: the shares of poisoned and of clean samples that were flagged."""

    tpr: Rate
    fpr: Rate


def detection_rates(ids: np.ndarray, verdicts: np.ndarray, poisoned_ids: np.ndarray) -> Detection:
    """Compares `verdicts: bool[n]` (true: flagged) on `ids: int[n]` with `poisoned_ids`.

    Raises `UserError` for ids that repeat, verdicts that are not boolean, and poisoned samples
    without a verdict.
    """
    ids, verdicts, poisoned_ids = _unique(ids), np.asarray(verdicts), _unique(poisoned_ids)
    if verdicts.shape != ids.shape or verdicts.dtype != np.bool_:
        raise UserError(
            f'verdicts of type {verdicts.dtype} and shape {verdicts.shape} do not fit {ids.size}'
            ' ids. Give one true or false per id.'
        )
    missing = np.setdiff1d(poisoned_ids, ids)
    if missing.size:
        raise UserError(
            f'{missing.size} poisoned samples have no verdict (such as id {missing[0]}). Give all.'
        )
    poisoned = np.isin(ids, poisoned_ids)
    return Detection(tpr=rate_of(verdicts[poisoned]), fpr=rate_of(verdicts[~poisoned]))


def label_accuracy(
    ids: np.ndarray, labels: np.ndarray, true_ids: np.ndarray, true_labels: np.ndarray
) -> Rate:
    """Share of samples `ids: int[n]` whose `labels: int[n]` are the true ones, in any order.

    Samples of the truth that `ids` lacks (a filter drops some) are not counted. Raises `UserError`
    for ids that repeat or that the truth does not know.
    """
    ids, true_ids = _unique(ids), _unique(true_ids)
    labels, true_labels = np.asarray(labels), np.asarray(true_labels)
    if labels.shape != ids.shape or true_labels.shape != true_ids.shape:
        raise UserError(
            f'{ids.size} ids with labels {labels.shape}, {true_ids.size} true ids with labels'
            f' {true_labels.shape}. Give one label per id.'
        )
    unknown = np.setdiff1d(ids, true_ids)
    if unknown.size:
        raise UserError(
            f'{unknown.size} samples have no true label (the first is id {unknown[0]}). Compare'
            ' with the truth of the dataset that they come from.'
        )
    order = np.argsort(true_ids)
    places = order[np.searchsorted(true_ids, ids, sorter=order)]
    return rate_of(labels == true_labels[places])


def auroc(
    scores: np.ndarray, positive: np.ndarray, groups: np.ndarray | None = None
) -> float | None:
    """The chance that a positive sample scores above a negative one of its group; ties count half.

    `scores: f[n]`, `positive: bool[n]`, `groups: int[n]` (None: all are one group). Scores are
    never compared across groups: the pairs of each are counted and added up, so a group weighs as
    many pairs as it has. None where there is no pair. Raises `UserError` for scores that are NaN
    and for lists of unlike lengths.
    """
    scores, positive = np.asarray(scores, np.float64), np.asarray(positive)
    groups = np.zeros(scores.shape, np.int64) if groups is None else np.asarray(groups)
    shapes = {scores.shape, positive.shape, groups.shape}
    if scores.ndim != 1 or len(shapes) > 1 or positive.dtype != np.bool_:
        raise UserError(
            f'{scores.shape} scores, {positive.dtype}{list(positive.shape)} positives and groups'
            f' {groups.shape} do not fit. Give one of each per sample.'
        )
    if broken := np.count_nonzero(np.isnan(scores)):
        raise UserError(f'{broken} scores are NaN. Give each sample a number.')
    wins, pairs = 0.0, 0
    for group in np.unique(groups):
        own = groups == group
        hits = int(positive[own].sum())
        wins += float(stats.rankdata(scores[own])[positive[own]].sum()) - hits * (hits + 1) / 2
        pairs += hits * int((~positive[own]).sum())
    return wins / pairs if pairs else None


def _unique(ids: np.ndarray) -> np.ndarray:
    """`ids` as an array. Raises `UserError` when one repeats."""
    ids = np.asarray(ids)
    values, counts = np.unique(ids, return_counts=True)
    if values.size < ids.size:
        raise UserError(f'id {values[counts > 1][0]} occurs more than once. Give each sample once.')
    return ids
