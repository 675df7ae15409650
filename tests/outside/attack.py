"""An attack in a file of its own: a bright stripe down the right edge."""

import dataclasses
from typing import ClassVar

import numpy as np

from purify.attacks.attack import Attack


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stripe(Attack):
    """The last `width_px` columns become white."""

    width_px: int = 2

    usual_rate: ClassVar[float] = 0.2

    def apply(self, xp, image, shared, drawn):
        right = xp.arange(image.shape[1]) >= image.shape[1] - self.width_px
        return xp.where(right[None, :, None], xp.asarray(255, image.dtype), image)

    def pattern_pixels(self):
        return np.full((8, self.width_px, 1), 255, np.uint8)
