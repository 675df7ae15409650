"""Records that carry a second image with them, one whose label is not believed."""

from typing import Any

import numpy as np

from purify.core.errors import UserError
from purify.data.loader import Record


def pair(record: Record, other: Record) -> Record:
    """`record` with the image and the id of `other` as 'unlabelled' u8[h w c] and 'unlabelled_id'; its label stays behind."""
    return {**record, 'unlabelled': other['image'], 'unlabelled_id': other['id']}


class Paired:
    """A random transform: to every record one of `others` (a `Split`), drawn with replacement, by the record's place alone."""

    def __init__(self, others: Any):
        if not len(others):
            raise UserError(
                'mixmatch: every label is believed, so no image is left without one; lower the'
                ' share of credible ones.'
            )
        self.others = others

    def random_map(self, record: Record, rng: np.random.Generator) -> Record:
        """One record -> the record and another's image."""
        return pair(record, self.others[int(rng.integers(len(self.others)))])
