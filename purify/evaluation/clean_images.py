"""The training images as they were before the attack; for stages that open the truth."""

from pathlib import Path
from typing import SupportsIndex

import numpy as np

from purify.data.loader import Split


class CleanImages:
    """Gives the images u8[h w c] before the attack, by position in `given`, the poisoned split."""

    def __init__(self, given: Split, truth: Path):
        self.given = given
        # Of poisoned images and covers alone; no folder where there are none.
        kept = truth / 'originals'
        self.changed = Split(kept, 'train') if kept.is_dir() else None
        ids = [] if self.changed is None else self.changed.ids.tolist()
        self.places = {identity: place for place, identity in enumerate(ids)}

    def __len__(self) -> int:
        return len(self.given)

    def __getitem__(self, position: SupportsIndex) -> np.ndarray:
        place = self.places.get(int(self.given.ids[position]))
        if self.changed is None or place is None:
            return self.given[position]['image']
        return self.changed[place]['image']
