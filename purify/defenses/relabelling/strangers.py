"""Judges a dataset by its strangers: images that look more like another class than their own."""

import numpy as np
from scipy.stats import poisson

from purify.core.types import Facts
from purify.defenses.judgement import HEDGE, judgement
from purify.defenses.outliers import ONE_WAY, one_way

MANY = 0.05  # of all images: so many of a clean dataset hardly ever look more like another class
MOST = 2 / 3  # of the classes
LEVEL = 0.05
DEEP, APART = 0.2, 0.65  # of how much an image usually looks more like its own class


def judge_strangers(
    counts: tuple[int, int], score: np.ndarray, best: np.ndarray, labels: np.ndarray, beyond: bool
) -> Facts:
    """Says in words what look-alikes of other classes mean for the whole dataset.

    `counts`: how many classes are named as targets, and how many are mislabelled. Images by log s
    f64[n] (`score`), the class each looks like most beside its own i32[n], and labels i32[n];
    `beyond`: whether a class has more strangers than usual. Where classes are well apart and labels
    are wrong, images look as much more like the other class as others look like their own; where
    features do not tell classes apart, strangers hardly do.
    """
    strange, present, (named, mislabelled) = score < 0, np.unique(labels), counts
    share = strange.mean()
    if named:
        text = (
            f'Images that do not belong there bent the densities of {named} of {len(present)}'
            " classes: an attacker's aim."
        )
        return judgement('attacked', share, text + (HEDGE if len(present) == 2 else ''))
    looks = f'{share:.1%} of all images look more like another class than like their own'
    depth, plain = 0.0, share > MANY
    if strange.any() and not strange.all():
        depth = np.median(-score[strange]) / np.median(score[~strange])
    goals = one_way(labels, strange, best, int(max(labels.max(), best.max())) + 1)
    apart = depth > APART and not mislabelled and (beyond or plain)
    crowded = _crowded(strange, goals, labels) if apart else 0
    if crowded:
        text = (
            f'{looks}: they come from everywhere and are labelled as {crowded} of {len(present)}'
            ' classes, which leaves the others out. An attack that aims at so many classes looks'
            ' like this, and so do wrong labels in these alone. No class is named.'
        )
        return judgement('unexplained', share, text)
    if mislabelled or beyond or (plain and depth > DEEP and not _confused(strange, goals, labels)):
        pairs = np.mean(goals[labels[strange]] > ONE_WAY) > 0.5
        alike = 'from one class to one other' if pairs else 'that aims at most classes'
        text = (
            f'{looks}: their labels are wrong, or the features too weak to tell. An attack {alike}'
            ' would look alike.'
        )
        return judgement('mislabelled', share, text)
    if plain:
        text = (
            f'{looks}, and no class stands out: an attack from class to class (all-to-all), labels'
            ' confused so, or features that do not tell the classes apart. No class is named.'
        )
        return judgement('unexplained', share, text)
    return judgement('clean', share, f'No class stands out; {looks}, which is usual.')


def _confused(strange: np.ndarray, goals: np.ndarray, labels: np.ndarray) -> bool:
    """Whether the strangers of most classes look like one other class each (`one_way` f64[c])."""
    plain = [
        goals[label] > ONE_WAY and strange[labels == label].mean() > MANY / 2
        for label in np.unique(labels).tolist()
    ]
    return bool(np.mean(plain) > MOST)


def _crowded(strange: np.ndarray, goals: np.ndarray, labels: np.ndarray) -> int:
    """How many classes, half or more of three, hold strangers from everywhere, others none; else 0.

    Counts, not shares: labels that are wrong by chance fall on a large class as often as on a small
    one, and spare none. A class is spared that has less than a quarter of the usual number, and
    less than chance allows of half of it (Poisson, at `LEVEL` for all classes together). Not for
    classes that overlap (`APART`): their strangers lie on the border, and large ones have more.
    """
    classes = np.unique(labels)
    counts = np.array([strange[labels == label].sum() for label in classes])
    usual = float(np.median(counts[counts > counts.max() / 4])) if counts.any() else 0.0
    spared = (counts < usual / 4) & (poisson.cdf(counts, usual / 2) < LEVEL / len(counts))
    everywhere = spared.any() and np.mean(goals[classes][~spared] > ONE_WAY) <= 0.5
    crowded = int((~spared).sum())
    return crowded if everywhere and len(classes) > 2 and 2 * crowded >= len(classes) else 0
