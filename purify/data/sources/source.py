"""What every source gives: labelled images by position, cut into training, test and reference."""

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from purify.core.devices import say_once
from purify.core.errors import UserError
from purify.core.files import user_path
from purify.core.randomness import stream_rng
from purify.data.notes import Notes

TEST_SHARE = 0.2  # of each class, held out where a source has no test images


@dataclass(frozen=True)
class Pool:
    """Labelled images by position.

    Attributes:
      ids: i64[n], what the images are called for good (their index in the source's own order).
      labels: i32[n].
      fetch: position -> u8[h w c], decoded and resized on each call.
    """

    ids: np.ndarray
    labels: np.ndarray
    fetch: Callable[[int], np.ndarray]

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, positions: np.ndarray) -> 'Pool':
        """The pool of the given positions, in that order."""
        fetch, chosen = self.fetch, positions.tolist()
        return Pool(self.ids[positions], self.labels[positions], lambda k: fetch(chosen[k]))

    def mapped(self, change: Callable[[np.ndarray], np.ndarray]) -> 'Pool':
        """The pool whose images are `change(image)`."""
        fetch = self.fetch
        return Pool(self.ids, self.labels, lambda k: change(fetch(k)))


@dataclass(frozen=True)
class Source:
    """A clean dataset: class names, training and test images, and reference images or None.

    No other pool holds the reference images. `notes` fills while images are fetched: what was
    peculiar to their files, counted.
    """

    class_names: list[str]
    train: Pool
    test: Pool
    reference: Pool | None = None
    notes: Notes = field(default_factory=Notes)


def root_of(path: str) -> Path:
    """The folder of a source, '~' written out. Raises `UserError` where none is given."""
    if not path:
        raise UserError(
            'the source has no path; give its folder, like source=imagefolder:FOLDER or'
            ' source=arrays:FOLDER.'
        )
    return user_path(path)


def check_apart(train: Path, test: Path) -> None:
    """Raises `UserError` where training and test images are the same or lie within each other."""
    first, second = (Path(os.path.realpath(path)) for path in (train, test))
    if first.is_relative_to(second) or second.is_relative_to(first):
        raise UserError(
            f'{train} for training and {test} for testing hold the same images: a model would be'
            ' tested on what it was trained on. Give two that lie apart as source.train= and'
            ' source.test=, or leave both out.'
        )


def say_share_unused(what: str, share: float) -> None:
    """Says that a changed `source.test_share` has no effect where `what` has test images."""
    if share != TEST_SHARE:
        say_once(f'{what}: has test images, so source.test_share={share:g} has no effect.')


def held_out(labels: np.ndarray, share: float) -> np.ndarray:
    """Draws a test set: bool[n], true for `share` of every class (rounded up), always the same.

    `labels` are i32[n]. Raises `UserError` for a share outside (0, 1).
    """
    if not 0 < share < 1:
        raise UserError(f'source.test_share={share}: choose a share between 0 and 1.')
    mask = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        positions = np.flatnonzero(labels == label)
        count = int(np.ceil(share * len(positions)))
        mask[stream_rng(0, 'held_out', int(label)).permutation(positions)[:count]] = True
    return mask
