"""A source in a file of its own: bars, lying or standing."""

import numpy as np

from purify.data.sources.arrays import make_pool
from purify.data.sources.source import Source


def read_bars(channels, *, noise=20):
    """120 training and 60 test images of 16 px, reference images beside them."""
    rng = np.random.default_rng(0)
    labels = np.arange(240) % 2
    images = rng.integers(0, noise + 1, (240, 16, 16, channels)).astype(np.uint8)
    for image, label, at in zip(images, labels, rng.integers(2, 14, 240), strict=True):
        image[(at, slice(None)) if label else (slice(None), at)] = 255
    pool = make_pool(images, labels)
    parts = [pool.take(np.arange(low, high)) for low, high in ((0, 120), (120, 180), (180, 240))]
    return Source(['standing', 'lying'], *parts)
