"""Finds labels of a dataset that stand out from the others, up to half of all (in NumPy).

What is usual is said by the lower half of the labels, for attacks raise what is counted here and
never lower it.
"""

import numpy as np
from scipy.special import bdtrc

# A normal deviation over its median, and over its mean, absolute deviation.
NORMAL_MAD, NORMAL_MEAN = 1.4826, 1.253314
EPSILON = 1e-6
FEW = 4  # of so few other labels nobody can say how much they differ
ONE_WAY = 0.6  # see `one_way`
CHANCE = 0.05
UNUSUAL_FEW = 0.1  # then a label must stand out by so large a share of its images


def lower_median(values: np.ndarray) -> float:
    """Computes the median of values f64[n], n > 0, or the lower of two: half may lie far above."""
    return float(np.sort(values)[(len(values) - 1) // 2])


def usual_and_spread(values: np.ndarray) -> tuple[float, float]:
    """Measures what is usual among values f64[n]: their lower median, and the deviation below it.

    The deviation is 1.4826 times the median distance of the lower half, which for symmetric values
    is that of all (Leys 2013), and which nothing changes that lies above: up to half of the values
    may be unusual.
    """
    ordered = np.sort(values)
    middle = (len(ordered) - 1) // 2
    below = np.median(ordered[middle] - ordered[:middle]) if middle else 0.0
    return float(ordered[middle]), float(NORMAL_MAD * below)


def outlier_index(scores: np.ndarray, present: np.ndarray) -> np.ndarray:
    """Counts how many deviations f64[c] each score f64[c] lies above the median.

    The deviation is 1.4826 MAD (Leys 2013). Where more than half of the scores are equal that is 0,
    and the mean absolute deviation takes its place (Iglewicz & Hoaglin 1993). 0 for labels that are
    not present and where all scores are equal.
    """
    if not present.any():
        return np.zeros(len(scores))
    median = np.median(scores[present])
    apart = np.abs(scores[present] - median)
    deviation = NORMAL_MAD * (np.median(apart) + EPSILON)
    if not np.median(apart) > 0:
        deviation = NORMAL_MEAN * (apart.mean() + EPSILON)
    return np.where(present, (scores - median) / deviation, 0.0)


def departure_p_values(images: np.ndarray, leavers: np.ndarray) -> np.ndarray:
    """Tests whether more images leave a label than leave the others: p-values f64[c].

    Of `leavers` i64[c] among a label's `images` i64[c]. The others are spoken for by the one whose
    share of leavers is their lower median (of equal shares, fewer images first): up to half of them
    may be targets themselves. One-sided, exact: P(Bin(images, p) >= leavers) with p = (leavers + 1)
    / (images + 1) of that reference, so that a reference without leavers does not make one leaver a
    miracle. 1 for labels without images and where there is no other label to compare with.
    """
    present = np.flatnonzero(images)
    p_values = np.ones(len(images))
    for label in present:
        others = present[present != label]
        if not len(others) or not leavers[label]:
            continue
        shares = leavers[others] / images[others]
        reference = others[np.lexsort((images[others], shares))[(len(others) - 1) // 2]]
        p = min(1.0, (leavers[reference] + 1) / (images[reference] + 1))
        p_values[label] = bdtrc(float(leavers[label] - 1), int(images[label]), p)
    return p_values


def pooled_p_values(counts: np.ndarray, events: np.ndarray) -> np.ndarray:
    """Tests whether a label has more events than the other labels' frequency explains: p f64[c].

    Of `events` i64[c] among a label's `counts` i64[c], which may be few: the others speak together,
    those of lower frequency up to half of all their counts, of which twice the frequency is taken
    for usual (with one event more, so that none is no miracle). One-sided, exact; 1 for labels
    without counts and where there is no other.
    """
    p_values = np.ones(len(counts))
    for label in np.flatnonzero(events):
        others = np.flatnonzero((counts > 0) & (np.arange(len(counts)) != label))
        if not len(others):
            continue
        order = others[np.argsort(events[others] / counts[others], kind='stable')]
        half = order[: 1 + int(np.searchsorted(np.cumsum(counts[order]), counts[order].sum() / 2))]
        usual = min(1.0, (2 * events[half].sum() + 1) / (counts[half].sum() + 1))
        p_values[label] = bdtrc(float(events[label] - 1), int(counts[label]), usual)
    return p_values


def excess(
    values: np.ndarray,
    present: np.ndarray,
    *,
    least: float,
    deviations: float,
    of_few: float = 0.0,
    images: np.ndarray | None = None,
) -> np.ndarray:
    """Says how far each label stands out, f64[c]; above 1 counts.

    How far each value f64[c] exceeds the usual, over what is asked for: `least` and `deviations` of
    the others (`usual_and_spread`), whichever is more; of fewer than `FEW` others at least
    `of_few`. `present` bool[c]: labels that have images; 0 for others and where there is nothing to
    compare with. With `images` i64[c] the values are shares of so many images: then the deviation
    that chance alone gives such shares is taken off the others', for chance is what a test of the
    counts asks about.
    """
    found = np.zeros(len(values))
    for label in np.flatnonzero(present):
        rest = present & (np.arange(len(values)) != label)
        others = values[rest]
        if len(others):
            usual, spread = usual_and_spread(others)
            if images is not None:
                chance = usual * (1 - usual) / np.median(images[rest])
                spread = max(0.0, spread**2 - chance) ** 0.5
            needed = least if len(others) >= FEW else max(least, of_few)
            found[label] = (values[label] - usual) / max(needed, deviations * spread, EPSILON)
    return found


def one_way(
    labels: np.ndarray, leaving: np.ndarray, goals: np.ndarray, num_classes: int
) -> np.ndarray:
    """Measures whether the images that leave a label all go to one other: f64[c], 0 evenly to 1.

    labels i32[n] as given, which images leave bool[n] and for which label i32[n]. A trigger draws
    images from all other classes, as many as each has; labels that were confused have one true
    class. So of the share that the most frequent goal has, the share is left out that this class
    has of all images with other labels. 0 where none leaves, with two labels, where there is but
    one goal, and where so few leave that chance sends as many to one (binomial, at `CHANCE`).
    """
    images = np.bincount(labels, minlength=num_classes)
    found = np.zeros(num_classes)
    for label in np.unique(labels[leaving]).tolist():
        counts = np.bincount(goals[leaving & (labels == label)], minlength=num_classes)
        goal = int(counts.argmax())
        others = images.sum() - images[label]
        base = images[goal] / others if others and goal != label else 1.0
        if base < 1 and bdtrc(float(counts[goal] - 1), int(counts.sum()), base) < CHANCE:
            found[label] = max(0.0, (counts[goal] / counts.sum() - base) / (1 - base))
    return found
