"""How many samples are poisoned, and which."""

from fractions import Fraction

import numpy as np

from purify.attacks.attack import share_of_one, word_of
from purify.core.errors import UserError

BASES = ('all', 'nontarget', 'target')


def poison_count(rate: float, base: str, labels: np.ndarray, target: int, include_target: bool) -> int:
    """How many samples are poisoned: `rate` times the size of `base`, rounded half up.

    `labels: int[n]`; `base` is 'all' samples, those 'nontarget', or those of the 'target' class. They are drawn from
    the samples outside the target class, or from all where `include_target`. The rate counts as the decimal number it
    is written as, so .29 of 50 is 14.5 and rounds to 15. Raises `UserError` for a rate outside [0, 1], one that is not
    0 but gives no sample, more samples than there are to draw from, and a target that is no class of the labels.
    """
    rate = share_of_one('rate', rate, zero=True)
    word_of('base', base, BASES)
    if rate == 0:
        return 0
    labels = np.asarray(labels)
    of_target = int(np.count_nonzero(labels == target))
    if not of_target:
        classes = np.unique(labels)
        span = f'{classes[0]} to {classes[-1]}' if classes.size else 'none: the dataset is empty'
        raise UserError(f'target={target} is not a class of this dataset (classes: {span}). Set target to one of them.')
    sizes = {'all': labels.size, 'nontarget': labels.size - of_target, 'target': of_target}
    count = int(Fraction(repr(rate)) * sizes[base] + Fraction(1, 2))
    if not count:
        raise UserError(
            f'rate={rate} of {sizes[base]} samples (base {base!r}) rounds to 0 poisoned samples. Raise the rate (one '
            f"sample of {labels.size} is {1 / labels.size:.3g}), or choose attack 'none' with rate 0."
        )
    pool = labels.size if include_target else sizes['nontarget']
    if count > pool:
        where = 'in the dataset' if include_target else f'outside target class {target}'
        also = '' if include_target else ', or set include_target'
        raise UserError(
            f'rate={rate} of {sizes[base]} samples (base {base!r}) asks for {count} poisoned samples, but only {pool} '
            f'lie {where}. Lower the rate{also}.'
        )
    return count


def choose(
    labels: np.ndarray,
    ids: np.ndarray,
    rate: float,
    base: str,
    target: int,
    include_target: bool,
    seed: int,
) -> np.ndarray:
    """Draw the poisoned samples without replacement -> their ids, `i64[count]`, ascending.

    `labels: int[n]`, `ids: int[n]`. A function of (seed, ids, labels): the order of the samples does not matter. With
    all else equal, those drawn at a lower rate are among those drawn at a higher one, so sweeps over the rate differ in
    nothing else. Counts and errors as in `poison_count`; also raises `UserError` for ids that repeat.
    """
    labels, ids = np.asarray(labels), np.asarray(ids)
    if labels.shape != ids.shape or ids.ndim != 1:
        raise UserError(f'labels {labels.shape} and ids {ids.shape} must be two lists of the same length.')
    values, counts = np.unique(ids, return_counts=True)
    if values.size < ids.size:
        raise UserError(f'id {values[counts > 1][0]} occurs more than once. Give every sample an id of its own.')
    count = poison_count(rate, base, labels, target, include_target)
    pool = np.sort(ids if include_target else ids[labels != target])
    return np.sort(np.random.default_rng(seed).permutation(pool)[:count]).astype(np.int64)
