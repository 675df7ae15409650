"""A split after a defence's decisions: fewer records, other labels, other images."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from purify.core.errors import UserError
from purify.data.loader import Record, Split


class Edited(Split):
    """The kept records of `split`, under new labels, some with a replacement's image.

    Args:
      split: the records as given, each id once.
      keep: bool[n], which of them are left.
      labels: i32[n], what they are called from here on.
      candidate: i32[n], which candidate replaces the image, -1 where it stays.
      replacements: splits that hold the images of (id, variation = candidate); where two hold one,
        the later counts.

    Raises:
      UserError: if nothing is kept, or a kept record has a candidate that no replacement holds.
    """

    def __init__(
        self,
        split: Split,
        keep: np.ndarray,
        labels: np.ndarray,
        candidate: np.ndarray,
        replacements: Sequence[Split] = (),
    ):
        if not keep.any():
            raise UserError(
                f'{split.folder}: none of its {len(split):,} images is kept: the defence is too'
                ' strict.'
            )
        self.folder, self.shape, self.class_names = split.folder, split.shape, split.class_names
        self.positions = np.flatnonzero(keep)
        self.ids, self.variations = split.ids[keep], split.variations[keep]
        self.labels = np.asarray(labels, np.int32)[keep]
        last = len(self.class_names) - 1
        if len(wrong := self.labels[(self.labels < 0) | (self.labels > last)]):
            raise UserError(f'{split.folder}: label {wrong[0]} is not a class; choose 0 to {last}.')
        self.replaced = _find(self.ids, np.asarray(candidate)[keep], replacements, split)
        self.source = _Source(split, self.positions, self.labels, self.replaced, replacements)


@dataclass(frozen=True, eq=False)
class _Source:
    """The records by position, edited when they are asked for."""

    split: Split
    positions: np.ndarray
    labels: np.ndarray
    replaced: dict[int, tuple[int, int]]
    replacements: Sequence[Split]

    def __len__(self) -> int:
        return len(self.positions)

    def __getitem__(self, index: int) -> Record:
        if index in self.replaced:  # the old picture need not be decoded
            which, position = self.replaced[index]
            record = self.replacements[which][position]
            record.pop('variation', None)  # records of one batch hold the same things
        else:
            record = self.split[int(self.positions[index])]
        return record | {'label': np.int64(self.labels[index])}


def _find(
    ids: np.ndarray, candidate: np.ndarray, replacements: Sequence[Split], split: Split
) -> dict[int, tuple[int, int]]:
    """Finds (which replacement, position in it) of every position with a candidate."""
    offered = {}
    for which, other in enumerate(replacements):
        pairs = zip(other.ids.tolist(), other.variations.tolist(), strict=True)
        offered |= {pair: (which, position) for position, pair in enumerate(pairs)}
        if other.shape != split.shape:
            raise UserError(
                f'{other.folder}: images of {other.shape} cannot replace those of {split.folder},'
                f' {split.shape}. Make both at one size.'
            )
    chosen = np.flatnonzero(candidate >= 0).tolist()
    wanted = {row: (int(ids[row]), int(candidate[row])) for row in chosen}
    if missing := [pair for pair in wanted.values() if pair not in offered]:
        raise UserError(
            f'{split.folder}: no input holds candidate {missing[0][1]} of image {missing[0][0]}'
            f' ({len(missing)} are missing). Give the step that makes them as input `replaced...`.'
        )
    return {row: offered[pair] for row, pair in wanted.items()}
