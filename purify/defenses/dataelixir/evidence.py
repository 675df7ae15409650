"""Sums up what the labels of candidates say of each label of a dataset (Zhou 2024, section 3.4).

Arithmetic on the host, in NumPy; sets, counts and votes are those of
`purify.defenses.dataelixir.label_changes`.
"""

from dataclasses import dataclass

import numpy as np

from purify.defenses.dataelixir.label_changes import BENIGN, POISONED
from purify.defenses.outliers import lower_median, one_way

GONE = 0.1  # of an image's candidates: where no more carry its label, it is as good as gone
BORROWED = 3  # images of the usual kind that are added to every label's
ENOUGH = 5  # images that moved, to look at these alone


@dataclass(frozen=True)
class Evidence:
    """What is known of each label: arrays [c].

    Attributes:
      images: i64, of the dataset with that given label.
      anomalous: i64, those of P or S.
      left: i64, those of P, and those with that label on fewer than half of their candidates.
      moved: i64, those of P alone, whose candidates agree on another label.
      gone: i64, of the anomalous ones those with that label on at most `GONE` of their candidates.
      held: f64, of those that moved (of those that left, where fewer than `ENOUGH` moved) the share
        whose raw image the classifier gives that label: these leave only when they are noised; 0
        where none did.
      one_way: f64, how far the most of the same go to one label
        (`purify.defenses.outliers.one_way`): above `ONE_WAY` of there no trigger drew them from all
        others.
      divergence: f64, KL of one-hot y from the labels of C_y (eq. 4), -ln of the share that is y
        itself, in nats.
      scatter: f64, the same with `BORROWED` more images in C_y, which keep y as often as those of
        the usual label (the lower median of all that have anomalous images): few images say little.
    """

    images: np.ndarray
    anomalous: np.ndarray
    left: np.ndarray
    moved: np.ndarray
    gone: np.ndarray
    held: np.ndarray
    one_way: np.ndarray
    divergence: np.ndarray
    scatter: np.ndarray


def gather_evidence(
    labels: np.ndarray,
    counts: np.ndarray,
    votes: np.ndarray,
    sets: np.ndarray,
    raw: np.ndarray,
    *,
    count_raw: bool,
) -> Evidence:
    """Sums up, for each label, how many of its images change their label.

    By given labels i32[n], counts [n c], votes i32[n], sets u8[n], and `raw` i32[n], the labels
    predicted for raw images. The candidates of eq. 4 that P passed over are left out; with
    `count_raw` the raw images count as candidates too (as in the released code). Where no candidate
    is y its share is taken for half of one, so that the divergence is a number; where no image is
    anomalous it is 0.
    """
    num_classes = counts.shape[1]
    size = counts.sum(1, dtype=np.int64)
    rows = np.arange(len(labels))
    own, most = (counts[rows, of].astype(np.int64) for of in (labels, votes))
    passed, anomalous = sets == POISONED, sets != BENIGN
    # of each image, how many of its candidates are in C_y, and how many of them are y
    pool = np.where(passed, most, size)
    stayed = np.where(passed & (votes != labels), 0, own)
    if count_raw:
        pool, stayed = pool + 1, stayed + (raw == labels)

    def sum_up(which: np.ndarray, values: np.ndarray | None = None) -> np.ndarray:
        """Sums of each label over its images among `which`."""
        weights = None if values is None else values[which]
        return np.bincount(labels[which], weights, num_classes).astype(np.int64)

    whole, same = sum_up(anomalous, pool), sum_up(anomalous, stayed)
    divergence = np.where(whole > 0, -np.log(np.maximum(same, 0.5) / np.maximum(whole, 1)), 0.0)
    divergence += 0.0  # no -0
    borrowed = BORROWED * max(1, int(pool.max(initial=0)))
    usual = np.exp(-lower_median(divergence[whole > 0])) if whole.any() else 1.0
    scatter = -np.log((same + borrowed * usual) / (whole + borrowed)) + 0.0
    left, moved = passed | (2 * own < size), passed & (votes != labels)
    plain = sum_up(moved) >= ENOUGH
    seen = np.where(plain[labels], moved, left)
    return Evidence(
        images=sum_up(np.ones(len(labels), bool)),
        anomalous=sum_up(anomalous),
        left=sum_up(left),
        moved=sum_up(moved),
        gone=sum_up(anomalous & (own <= GONE * size)),
        held=sum_up(seen & (raw == labels)) / np.maximum(sum_up(seen), 1),
        one_way=one_way(labels, seen, votes, num_classes),
        divergence=divergence,
        scatter=scatter,
    )
