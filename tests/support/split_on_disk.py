"""A dataset of 30 grey images of 6 px on disk, as one split."""

import numpy as np

from purify.data import builders

COUNT = 30
IDS = 1000 - 7 * np.arange(COUNT)


def write(folder, records, *, variations=False):
    """Any records, in one file."""
    features = builders.make_features(6, 1, list('abc'), variations)
    writer = builders.DatasetWriter(folder, 'd', 'train', features, 1)
    writer.write(0, records)
    writer.finish([len(records)])
    return folder


def picture(i):
    """Noise that is i's own."""
    return np.random.default_rng(i).integers(0, 256, (6, 6, 1), np.uint8)


def write_all(folder):
    """All images; number i has id IDS[i] and label i % 3."""
    return write(
        folder, [{'id': IDS[i], 'image': picture(i), 'label': i % 3} for i in range(COUNT)]
    )
