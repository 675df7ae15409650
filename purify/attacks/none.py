"""No attack: the clean baseline, under the same interface."""

import dataclasses

import numpy as np

from purify.attacks.attack import Attack
from purify.attacks.pixels import check_image


@dataclasses.dataclass(frozen=True)
class NoAttack(Attack):
    """Changes neither pixels nor labels. Its `target` is the class that evaluation asks about, its rate is 0."""

    def stamp(self, image: np.ndarray, id: int) -> np.ndarray:
        """`image: u8[h w c]` -> an equal copy."""
        check_image(image)
        del id
        return image.copy()

    def relabel(self, label: int) -> int:
        """`label` as it is."""
        return label

    def pattern_pixels(self) -> np.ndarray:
        """Nothing: `u8[0]`."""
        return np.zeros(0, np.uint8)
