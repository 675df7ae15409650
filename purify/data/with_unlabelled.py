"""Records that are paired with a second image whose label is not believed."""

from typing import Any

import numpy as np

from purify.core.errors import UserError
from purify.data.loader import RandomTransform, Record


def pair(record: Record, other: Record) -> Record:
    """Adds image and id of `other` to `record` as 'unlabelled' u8[h w c] and 'unlabelled_id'."""
    return {**record, 'unlabelled': other['image'], 'unlabelled_id': other['id']}


class Paired(RandomTransform):
    """A transform that pairs every record with one of `others` (a `Split`), with replacement."""

    def __init__(self, others: Any):
        if not len(others):
            raise UserError('mixmatch: every label is believed; lower the share of credible ones.')
        self.others = others

    def random_map(self, record: Record, rng: np.random.Generator) -> Record:
        """The record with another's image."""
        return pair(record, self.others[int(rng.integers(len(self.others)))])
