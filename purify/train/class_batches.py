"""Batches of the rows of one class each, for models that are fitted to every class by itself."""

import math
from dataclasses import dataclass
from typing import Annotated

import numpy as np

from purify.core.errors import UserError
from purify.core.limits import Count, Limited, Positive, ShareOrZero, number
from purify.core.randomness import stream_rng

LEAST_IMAGES = 8  # of a class; from fewer nobody learns a density


@dataclass(frozen=True)
class Fit(Limited, place='fit.'):
    """How flows are fitted.

    Attributes:
      epochs: passes over the images of each class, fractions too; a class of fewer images than a
        batch has one update in each.
      batch: images of one update; where a class has fewer, they repeat.
      lr: of Adam, constant.
      b1: of Adam.
      b2: of Adam.
      hold_out: share of each class that is not trained on; the parameters of the epoch are kept
        under which these images were likeliest, each class counting alike. 0: those of the last
        epoch.
      members: flows of each class, from other beginnings and with other batches; their log
        densities are averaged, which few images need: what one flow makes of the space between them
        is chance.
    """

    epochs: Positive = 50.0
    batch: Count = 16
    lr: Positive = 1e-3
    b1: ShareOrZero = 0.9
    b2: ShareOrZero = 0.99
    hold_out: Annotated[float, number(least=0, most=0.9)] = 0.1
    members: Count = 1


@dataclass(frozen=True)
class Classes:
    """Rows to train on and rows held out, one entry per flow; a class's flows lie side by side.

    Attributes:
      train: positions i64[m] of each flow's training rows.
      held: positions of those held out.
      fit: how they are fitted.
      seed: of the batches.
    """

    train: list[np.ndarray]
    held: list[np.ndarray]
    fit: Fit
    seed: int

    @property
    def rounds(self) -> int:
        """Epochs, the last one perhaps cut short."""
        return math.ceil(self.fit.epochs)

    def until(self, epoch: int) -> np.ndarray:
        """Counts the updates that each flow has had before `epoch`, i64[C]."""
        epochs, batch = min(epoch, self.fit.epochs), self.fit.batch
        return np.array([_count_updates(epochs, len(rows), batch) for rows in self.train])

    def longest(self) -> int:
        """Most updates that any class has in an epoch."""
        return max(int((self.until(k + 1) - self.until(k)).max()) for k in range(self.rounds))

    def picks(self, epoch: int, length: int) -> tuple[np.ndarray, np.ndarray]:
        """Draws an epoch's batches for each class.

        Returns training rows i32[C length batch], and which batches count, bool[C length]. A class
        goes through its rows in an order drawn anew for each pass; a batch may end one pass and
        begin the next.
        """
        first, last, batch = self.until(epoch), self.until(epoch + 1), self.fit.batch
        picks = np.zeros((len(self.train), length * batch), np.int32)
        for label, rows in enumerate(self.train):
            places = np.arange(first[label] * batch, last[label] * batch)
            passes, steps = places // len(rows), places % len(rows)
            for turn in np.unique(passes):
                now = passes == turn
                rng = stream_rng(self.seed, 'flow batches', label, int(turn))
                order = rng.permutation(len(rows))
                picks[label, : len(places)][now] = rows[order[steps[now]]]
        live = np.arange(length) < (last - first)[:, None]
        return picks.reshape(len(self.train), length, batch), live

    def apart(self) -> tuple[np.ndarray, np.ndarray]:
        """Gives the positions of each class's held-out rows, padded with zeros, and their counts.

        i32[C h] with h >= 1, and i32[C].
        """
        counts = np.array([len(rows) for rows in self.held], np.int32)
        whole = np.zeros((len(counts), max(1, counts.max())), np.int32)
        for own, rows in zip(whole, self.held, strict=True):
            own[: len(rows)] = rows
        return whole, counts


def divide(labels: np.ndarray, ids: np.ndarray, num_classes: int, fit: Fit, seed: int) -> Classes:
    """Divides rows with labels i32[n] and ids i64[n] into each flow's training and held-out rows.

    The order of the rows changes nothing. Raises `UserError` for a class of fewer than 8 images, or
    for which `fit.epochs` are no update.
    """
    train, held = [], []
    for label in range(num_classes):
        rows = np.flatnonzero(labels == label)
        if len(rows) < LEAST_IMAGES:
            raise UserError(
                f'class {label} has {len(rows)} images; a density needs {LEAST_IMAGES} or more.'
                ' Take a larger part of the dataset, or leave the class out of it.'
            )
        rows = rows[np.argsort(ids[rows])]
        apart = max(round(fit.hold_out * len(rows)), 1) if fit.hold_out else 0
        if not _count_updates(fit.epochs, len(rows) - apart, fit.batch):
            raise UserError(
                f'fit.epochs={fit.epochs} of the {len(rows) - apart} images that class {label} is'
                f' trained on, in batches of {fit.batch}, is no update at all. Raise fit.epochs; 1'
                ' is enough for every class.'
            )
        order = stream_rng(seed, 'held out', label).permutation(len(rows))
        held += [rows[np.sort(order[:apart])]] * fit.members
        train += [rows[np.sort(order[apart:])]] * fit.members
    return Classes(train, held, fit, seed)


def _count_updates(epochs: float, images: int, batch: int) -> int:
    """Updates in so many passes over the images of a class, to the nearest."""
    return round(epochs * max(images / batch, 1))
