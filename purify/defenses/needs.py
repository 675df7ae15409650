"""What a defence needs in the config that it is given to."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Presets = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Needs:
    """What a config needs beside its part `defense`: the variable `needs` of a defence's class.

    Attributes:
      trusted: which training images the defender must know to be clean: `per_class` or `share`;
        empty for none.
      steps: whether its student is trained for so many steps by MixMatch, not for the epochs of the
        teacher.
      prior: whether it asks a diffusion model.
      dataset: whether it leaves a purified dataset, whose images are then compared with those it
        was given.
    """

    trusted: Mapping[str, Any] = field(default_factory=dict)
    steps: bool = False
    prior: bool = False
    dataset: bool = False
