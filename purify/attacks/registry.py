"""The attacks by name."""

from collections.abc import Callable
from functools import partial
from typing import Any

from purify.attacks.attack import Attack
from purify.attacks.fixed.adaptive_blend import AdaptiveBlend
from purify.attacks.fixed.adaptive_patch import AdaptivePatch
from purify.attacks.fixed.blended import Blended
from purify.attacks.fixed.dct import Dct
from purify.attacks.fixed.label_consistent import LabelConsistent
from purify.attacks.fixed.none import NoAttack, RelabelOnly
from purify.attacks.fixed.patch import Patch
from purify.attacks.fixed.sinusoid import Sinusoid
from purify.attacks.fixed.warp import Warp
from purify.attacks.learned.input_aware import InputAware
from purify.attacks.learned.lira import Lira
from purify.attacks.learned.low_frequency import LowFrequency
from purify.attacks.learned.sample_specific import SampleSpecific
from purify.attacks.selection import PoisonSettings
from purify.core.registry import Registry

ATTACKS: Registry[Callable[..., Attack]] = Registry(
    'attack',
    common=PoisonSettings,
    hidden=('seed', 'num_classes', 'targets'),
    none=NoAttack,
    relabel_only=RelabelOnly,
    patch=partial(Patch, colours=('white', 'black')),
    blended=Blended,
    sinusoid=Sinusoid,
    warp=Warp,
    dct=Dct,
    low_frequency=LowFrequency,
    adaptive_patch=AdaptivePatch,
    adaptive_blend=AdaptiveBlend,
    label_consistent=LabelConsistent,
    sample_specific=SampleSpecific,
    input_aware=InputAware,
    lira=Lira,
)
_DBD = {'size_px': 2, 'colours': ('#b4f970', '#9b327e', '#ea5244', '#bbc9db'), 'margin_px': 4}
# the triggers of papers under names of their own; presets leave them as they are
PUBLISHED: dict[str, Callable[..., Attack]] = {
    # BackdoorBench on 32 px; DataElixir, figure 2
    'white_patch': partial(Patch, pattern='solid'),
    'dataelixir_patch': partial(Patch, pattern='blocks', size_px=4),  # Zhou et al. 2024
    # Sabolić et al. 2024 on 32 px, by the file of DBD's code
    'dbd_patch': partial(Patch, pattern='blocks', corner='top_left', **_DBD),
    'grid_patch': partial(Patch, pattern='grid'),  # NAD, ABL
    'badnets1': partial(Patch, pattern='band', size_px=0),  # Pan et al. 2024
    'badnets2': partial(Blended, pattern='cartoon', ratio=0.2),  # Pan et al. 2024
}
ATTACKS.update(PUBLISHED)


def build(name: str, /, **parameters: Any) -> Attack:
    """The attack called `name`; `target` and `seed` are 0 unless given.

    Raises `UserError` for an unknown name or parameter, and for values out of range.
    """
    return ATTACKS.make(name, **parameters)
