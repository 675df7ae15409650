"""Generated images by trigger and by match with their condition (Pan et al. 2024, fig. 2)."""

from dataclasses import dataclass

import numpy as np

from purify.core.errors import UserError
from purify.metrics.intervals import Rate, rate_of

GROUPS = 4


def sort_out(triggered: np.ndarray, matching: np.ndarray) -> np.ndarray:
    """Sorts images into groups 1 to 4, u8[n], by whether they are triggered and matching.

    Flags are bool[n]; an image matches if it is what was asked for. 1: trigger, no match; 2:
    trigger, match; 3: no trigger, no match; 4: no trigger, match. Raises `UserError` for other
    types or unlike lengths.
    """
    triggered, matching = _flags('triggered', triggered), _flags('matching', matching)
    if triggered.shape != matching.shape:
        raise UserError(
            f'{triggered.size} verdicts on triggers, {matching.size} on matches. Give both per'
            ' image.'
        )
    return (1 + matching + 2 * ~triggered).astype(np.uint8)


@dataclass(frozen=True)
class Composition:
    """How many images fall into groups 1 to 4."""

    counts: tuple[int, int, int, int]

    @classmethod
    def of(cls, groups: np.ndarray) -> 'Composition':
        """Counts `groups: u8[n]` as from `sort_out`; n may be 0.

        Raises `UserError` for a number that is no group.
        """
        groups = np.asarray(groups)
        if wrong := sorted(set(np.unique(groups).tolist()) - {1, 2, 3, 4}):
            raise UserError(f'{wrong[0]} is no group. Choose from 1 to {GROUPS}.')
        one, two, three, four = (int((groups == group).sum()) for group in range(1, GROUPS + 1))
        return cls((one, two, three, four))

    @property
    def images(self) -> int:
        """How many images there are in all four groups."""
        return sum(self.counts)

    @property
    def shares(self) -> list[Rate]:
        """Each group's share of all images."""
        return [Rate(count, self.images) for count in self.counts]

    @property
    def triggered(self) -> Rate:
        """The share of images with a trigger: amplified where it exceeds `poisoned_share`."""
        return Rate(self.counts[0] + self.counts[1], self.images)


def poisoned_share(given: np.ndarray, poisoned: np.ndarray, label: int) -> Rate:
    """The poisoned share p_t of training images given `label` (Pan et al. 2024, section 4).

    `given: int[n]`, `poisoned: bool[n]`. Where a rate r of N_nt images of other classes is
    relabelled to a target of N_t, it is r N_nt / (r N_nt + N_t).
    """
    given, poisoned = np.asarray(given), _flags('poisoned', poisoned)
    if given.shape != poisoned.shape:
        raise UserError(f'{given.size} labels and {poisoned.size} verdicts. Give both per image.')
    return rate_of(poisoned[given == label])


def _flags(name: str, values: np.ndarray) -> np.ndarray:
    values = np.asarray(values)
    if values.ndim != 1 or values.dtype != np.bool_:
        given = f'{values.dtype}{list(values.shape)}'
        raise UserError(f'{name} must be true or false for every image, not {given}.')
    return values
