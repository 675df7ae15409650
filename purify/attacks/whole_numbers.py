"""Rounding of numbers that ought to be whole before they become grey levels."""

import numpy as np

NOISE = 1e-9  # far above the error of float64, far below a grey level


def settle(values: np.ndarray) -> np.ndarray:
    """Rounds values within `NOISE` of a whole number to it, and leaves all others alone.

    A trigger is added and truncated: what ought to add 0 but is computed as -1e-15 would cost a
    whole grey level, on one machine and not on another.
    """
    whole = np.rint(values)
    return np.where(np.abs(values - whole) < NOISE, whole, values)
