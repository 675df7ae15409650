"""Label changes of an image's candidates, and the choice of one (Zhou 2024, sections 3.3 to 3.5).

Arithmetic on the host, in NumPy. Throughout, `candidates` i32[n k] are a classifier's labels of the
k = rounds x kept candidates of each image in order of time, `counts` [n c] how many of them carry
each label, of a small unsigned type: of 100,000 images and 1,000 labels that is .1 GB.
"""

from typing import Any

import numpy as np

BENIGN, POISONED, SUSPICIOUS = 0, 1, 2  # B, P and S of eq. 3
SETS = ('benign', 'poisoned', 'suspicious')
SLICE = 2**20  # counts


def count_labels(candidates: np.ndarray, num_classes: int) -> np.ndarray:
    """Counts the labels i32[n k] of each row: [n c], of the smallest unsigned type that holds k."""
    counts = np.empty((len(candidates), num_classes), np.min_scalar_type(candidates.shape[1]))
    step = max(1, SLICE // num_classes)  # rows: what bincount makes is eight times as large
    for start in range(0, len(candidates), step):
        part = candidates[start : start + step]
        places = np.arange(len(part))[:, None] * num_classes + part
        found = np.bincount(places.ravel(), minlength=len(part) * num_classes)
        counts[start : start + step] = found.reshape(len(part), -1)
    return counts


def transition_coefficient(counts: np.ndarray) -> np.ndarray:
    """Tells how undecided an image is: its second largest count of labels i64[n], eta (3.3).

    0 where there is one class.
    """
    if counts.shape[1] < 2:
        return np.zeros(len(counts), np.int64)
    return np.sort(counts, axis=1)[:, -2].astype(np.int64)


def vote(candidates: np.ndarray, counts: np.ndarray, first: bool) -> np.ndarray:
    """Finds the most common label of each image's candidates, i32[n] (y_g of eq. 3, y_v of 3.5).

    Of labels as common, the one `first` seen, as in the released code, or the one seen last, on the
    candidate that has been noised most often. Never by number: how classes are numbered says
    nothing.
    """
    common = np.take_along_axis(counts, candidates, axis=1) == counts.max(1, initial=0)[:, None]
    place = common.argmax(1) if first else common.shape[1] - 1 - common[:, ::-1].argmax(1)
    return candidates[np.arange(len(candidates)), place].astype(np.int32)


def sort_into_sets(
    counts: np.ndarray, votes: np.ndarray, own: np.ndarray, tau: float, majority: bool
) -> np.ndarray:
    """Sorts images by eq. 3 into the sets `BENIGN`, `POISONED` and `SUSPICIOUS`, u8[n].

    Suspicious where eta reaches tau; else the few candidates of another label are passed over, as
    in the released code, and the rest agree: with `own` i32[n] (the given label in the paper, the
    label predicted for the raw image in the code), or not.

    Args:
      counts: [n c].
      votes: i32[n].
      own: what candidates of a benign image are expected to be.
      tau: a share of the candidates.
      majority: whether an image is suspicious too where its vote holds no more than half of its
        candidates. With more labels than 1 / tau, or tau above a half, none need dominate although
        eta is small; the released code does not ask.
    """
    size = int(counts[0].sum()) if len(counts) else 0
    scattered = transition_coefficient(counts) >= round(tau * size, 9)  # .1 x 70 is a hair above 7
    if majority:
        scattered |= 2 * counts.max(1, initial=0).astype(np.int64) <= size
    agreed = np.where(votes == own, BENIGN, POISONED)
    return np.where(scattered, SUSPICIOUS, agreed).astype(np.uint8)


def place_of(rank: float, length: Any) -> Any:
    """Turns a rank from 0 to 1 into an index of a sorted list; -1 where its `length` is 0."""
    return np.minimum(np.floor(rank * length), length - 1).astype(np.int64)


def choose_candidate(
    distance: np.ndarray, allowed: np.ndarray, rank: float, count_raw: bool
) -> np.ndarray:
    """Chooses the candidate i32[n] at `rank` (0 least, 1 most different) of the allowed bool[n k].

    Candidates go by distance f[n k], equal ones in order of time. -1, the raw image itself, where
    none is allowed; with `count_raw` it is always allowed and counts as the least different, as in
    the released code.
    """
    order = np.argsort(np.where(allowed, distance, np.inf), axis=1, kind='stable')
    length = allowed.sum(1) + count_raw
    place = place_of(rank, length) - count_raw
    rows = np.arange(len(order))
    return np.where(place >= 0, order[rows, np.maximum(place, 0)], -1).astype(np.int32)
