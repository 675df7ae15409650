"""Attacks without a trigger: the clean baseline, and poison by label alone."""

import dataclasses
from typing import Any, ClassVar

import numpy as np

from purify.attacks.attack import Arrays, Attack
from purify.core.errors import UserError


@dataclasses.dataclass(frozen=True, kw_only=True)
class RelabelOnly(Attack):
    """Changes labels and no pixel, the ablation of Pan et al. 2024: there is no success rate.

    Raises `UserError` for the scheme 'clean_label', as neither would change then.
    """

    has_trigger: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.scheme == 'clean_label' and not isinstance(self, NoAttack):
            raise UserError(
                "relabel_only with scheme='clean_label' changes nothing. Choose another scheme, or"
                " the attack 'none'."
            )

    def apply(self, xp: Any, image: Any, shared: Arrays, drawn: Arrays) -> Any:
        """An unchanged copy of `image: u8[h w c]`."""
        return xp.array(image)

    def pattern_pixels(self) -> np.ndarray:
        """Nothing: `u8[0]`."""
        return np.zeros(0, np.uint8)


@dataclasses.dataclass(frozen=True, kw_only=True)
class NoAttack(RelabelOnly):
    """Changes neither pixels nor labels.

    Its `target` is the class that evaluation asks about, its rate is 0.
    """

    usual_rate: ClassVar[float] = 0.0

    def relabel(self, label: int) -> int:
        """`label` as it is."""
        return label
