"""Features with a planted group, for the tests of filters."""

import numpy as np

from purify.data.table import Table


def planted(seed=0, classes=3, images=60, poisoned=9, target=1, width=16, shift=6.0):
    """(ids, labels, features by id as a table in another order, bool[n] the planted): a far group
    in class `target`.
    """
    rng = np.random.default_rng(seed)
    count = classes * images
    ids = rng.permutation(10 * count)[:count].astype(np.int64)
    labels = rng.permutation(np.arange(count) % classes).astype(np.int32)
    features = rng.normal(size=(count, width)) + 3 * rng.normal(size=(classes, width))[labels]
    bad = np.zeros(count, np.bool_)
    bad[rng.permutation(np.flatnonzero(labels == target))[:poisoned]] = True
    features[bad] += shift * rng.normal(size=width) / np.sqrt(width)
    order = rng.permutation(count)
    return ids, labels, table_of(ids[order], features[order]), bad


def table_of(ids, features):
    return Table({'ids': ids, 'features': np.asarray(features, np.float32)})
