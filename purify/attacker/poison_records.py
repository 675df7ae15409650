"""Poison as a transform of records, for the dataset on disk and for the attacker's own loader."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from purify.data.loader import Record

# which of the attacks, and its mode: 'training' (relabelled) or 'cover' (keeps its label)
Role = tuple[int, str]


def poison_records(
    attacks: Sequence[Any], records: Sequence[Record], roles: Sequence[Role | None]
) -> list[Record]:
    """Stamps and relabels the records that have a role; the others stay as they are.

    A record is {'image': u8[h w c], 'label', 'id', ...}; all images must be of one shape. `attacks`
    are objects with `stamp_many(images, ids, mode)` and `relabel(label)`.
    """
    out = list(records)
    for role in dict.fromkeys(role for role in roles if role is not None):
        places = [i for i, other in enumerate(roles) if other == role]
        attack, mode = attacks[role[0]], role[1]
        images, ids = [out[i]['image'] for i in places], [int(out[i]['id']) for i in places]
        for i, image in zip(places, attack.stamp_many(images, ids, mode), strict=True):
            out[i] = out[i] | {'image': image}
            if mode != 'cover':
                label = out[i]['label']
                out[i]['label'] = np.asarray(attack.relabel(int(label)), np.asarray(label).dtype)
    return out


@dataclass(frozen=True)
class FixedPoison:
    """A transform that poisons the same records at every draw; `roles` by id."""

    attacks: Sequence[Any]
    roles: Mapping[int, Role]

    def random_map(self, record: Record, rng: np.random.Generator) -> Record:
        """Returns the record {'image': u8[h w c], 'label', 'id'}, poisoned where it has a role."""
        return poison_records(self.attacks, [record], [self.roles.get(int(record['id']))])[0]


@dataclass(frozen=True)
class RandomPoison:
    """A transform that draws anew each time who is poisoned, who covers, and what the trigger is.

    Attributes:
      attacks: as in `poison_records`; each is as likely as the others.
      labels: the classes that may be poisoned.
      cover_labels: the classes that may cover.
      rate: the probability that an image of `labels` is poisoned.
      cover_rate: the probability that an image of `cover_labels` covers.
    """

    attacks: Sequence[Any]
    labels: frozenset[int]
    cover_labels: frozenset[int]
    rate: float
    cover_rate: float

    def random_map(self, record: Record, rng: np.random.Generator) -> Record:
        """Returns the record {'image': u8[h w c], 'label', 'id'}, poisoned by chance."""
        which, chance = int(rng.integers(len(self.attacks))), rng.random()
        fresh = int(rng.integers(2**31))
        label = int(record['label'])
        rate = self.rate if label in self.labels else 0.0
        if chance >= rate + (self.cover_rate if label in self.cover_labels else 0.0):
            return record
        role = (which, 'training' if chance < rate else 'cover')
        changed = poison_records(self.attacks, [record | {'id': fresh}], [role])[0]
        return changed | {'id': record['id']}
