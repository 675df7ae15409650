"""A drawn cartoon that stands in for the copyrighted picture of the Blended attack.

The reference codes blend a well-known cartoon cat, which cannot be passed on. What matters for the
attack is that the picture is smooth, colourful, of high contrast and full-frame; the 32 x 32 copy
that BiBadDiff (Pan et al. 2024) blends spans 8..255 with mean 178.75, and so does this one.
"""

import functools

import numpy as np

DARKEST, BRIGHTEST, MEAN = 8.0, 255.0, 178.75
EDGE = 0.02  # softness of outlines, as a share of the frame
CANVAS_PX = 128  # the tones are settled on this canvas, so that every size shows the same picture


def draw_cartoon(seed: int, height: int, width: int) -> np.ndarray:
    """Draws a face on a striped, dotted ground, the same at every size: u8[height width 3]."""
    low, high, exponent = _tones(seed)
    share = np.clip((_paint(seed, height, width) - low) / (high - low), 0, 1)
    return np.rint(DARKEST + (BRIGHTEST - DARKEST) * share**exponent).astype(np.uint8)


@functools.lru_cache(maxsize=8)
def _tones(seed: int) -> tuple[float, float, float]:
    """The darkest and brightest tone, and the exponent that brings the mean to `MEAN`."""
    painting = _paint(seed, CANVAS_PX, CANVAS_PX)
    low, high = float(painting.min()), float(painting.max())
    share = (painting - low) / (high - low)
    wanted = (MEAN - DARKEST) / (BRIGHTEST - DARKEST)
    smallest, largest = 1 / 16, 16.0
    for _ in range(50):  # the mean falls as the exponent grows
        exponent = (smallest * largest) ** 0.5
        if np.mean(share**exponent) > wanted:
            smallest = exponent
        else:
            largest = exponent
    return low, high, exponent


def _paint(seed: int, height: int, width: int) -> np.ndarray:
    """Layers from the ground up -> `f64[height width 3]`."""
    rng = np.random.default_rng(seed)
    y, x = ((np.arange(size) + 0.5) / size for size in (height, width))
    y, x = y[:, None, None], x[None, :, None]
    bright, vivid = rng.uniform(0.7, 1, (2, 3)), rng.permutation(np.eye(3))
    angle, waves = rng.uniform(0, np.pi), rng.uniform(2, 4)
    stripe = 0.5 + 0.5 * np.sin(2 * np.pi * waves * (x * np.cos(angle) + y * np.sin(angle)))
    painting = bright[0] * stripe + bright[1] * vivid[0] * (1 - stripe)

    def add_disc(row: float, column: float, tall: float, wide: float, colour: np.ndarray) -> None:
        nonlocal painting
        distance = np.hypot((y - row) / tall, (x - column) / wide)
        cover = 1 / (1 + np.exp(np.clip((distance - 1) * min(tall, wide) / EDGE * 4, -50, 50)))
        painting = painting * (1 - cover) + colour * cover

    for row, column, radius in rng.uniform((0, 0, 0.05), (1, 1, 0.12), (12, 3)):
        add_disc(row, column, radius, radius, vivid[rng.integers(3)])
    dark, light = np.full(3, 0.0), np.full(3, 1.0)
    row, column = rng.uniform(0.45, 0.6, 2)
    for side in (-1, 1):
        add_disc(row - 0.25, column + 0.22 * side, 0.13, 0.1, dark)
        add_disc(row - 0.25, column + 0.22 * side, 0.1, 0.07, vivid[1])
    add_disc(row, column, 0.33, 0.39, dark)
    add_disc(row, column, 0.3, 0.36, light)
    for side in (-1, 1):
        add_disc(row - 0.04, column + 0.17 * side, 0.07, 0.045, dark)
    add_disc(row + 0.08, column, 0.045, 0.06, vivid[2])
    return painting
