"""Poison applied by the attacker's own loader, where it is not a fact on disk: after augmentation, or anew at each draw."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from purify.data.loader import Record


@dataclass(frozen=True)
class Poisoner:
    """A random transform that stamps and relabels some records.

    Attributes:
      attack: an object with `stamp(image, id)` and `relabel(label)`.
      ids: the fixed subset that is poisoned at every draw, or None to poison at random.
      rate: where ids is None, the probability at each draw.
      spared: where ids is None, the label that is never poisoned (the target class), or None.
    """

    attack: Any
    ids: frozenset[int] | None
    rate: float
    spared: int | None

    def random_map(self, record: Record, rng: np.random.Generator) -> Record:
        """{'image': u8[h w c], 'label', 'id'} -> the same, poisoned or not."""
        identity, label = int(record['id']), int(record['label'])
        if self.ids is None:
            hit = rng.random() < self.rate and label != self.spared
        else:
            hit = identity in self.ids
        if not hit:
            return record
        relabelled = np.asarray(self.attack.relabel(label), np.asarray(record['label']).dtype)
        return record | {'image': self.attack.stamp(record['image'], identity), 'label': relabelled}
