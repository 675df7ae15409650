"""Generative relabelling: class densities find poison and its true labels (Sabolić 2024)."""

from dataclasses import asdict, dataclass, field, fields, replace
from typing import Annotated, ClassVar

from purify.core.errors import UserError
from purify.core.limits import Limited, one_of
from purify.core.registry import EMPTY, defaults
from purify.core.types import Facts, Settings
from purify.defenses.measures import Embeddings
from purify.defenses.method import Defense, Method, Step
from purify.defenses.needs import Needs, Presets
from purify.defenses.relabelling.poisoned_classes import DISRUPTIONS, Strangers
from purify.defenses.relabelling.verdicts import Relabel
from purify.defenses.steps import PURIFIED, encoder_step, purified_steps, simclr
from purify.models.classifiers.registry import NETWORKS
from purify.models.flow import CouplingFlow
from purify.train.class_batches import Fit
from purify.train.views import Views

FEATURES = ('encoder', 'simclr', 'teacher')


def flow_settings() -> Facts:
    """Lists the usual settings of a class's flow: those of `CouplingFlow`, on all features."""
    own = {key: value for key, value in defaults(CouplingFlow).items() if value is not EMPTY}
    return own | {'reduce': 0}


@dataclass(frozen=True)
class Relabelling(Limited, Defense, place='defense.'):
    """Fits a flow to each class's features, relabels or drops what bends them, trains a student.

    Attributes:
      features: 'simclr', of an `encoder` trained on the images without labels; 'teacher', of the
        poisoned classifier (the paper's ablation); 'encoder', of a finished one, such as CLIP.
      flows: of `purify.models.flow.CouplingFlow`, and `reduce`, to how many principal components
        features are brought.
      fit: of `purify.train.class_batches.Fit`.
      nondisruptive: see `Relabel`, as the rest.
      encoder: of `purify.defenses.steps.Simclr`; with features='simclr' only.
    """

    features: Annotated[str, one_of(FEATURES)] = 'simclr'
    flows: Settings = field(default_factory=flow_settings)
    fit: Settings = field(default_factory=lambda: asdict(Fit()))
    nondisruptive: float = 0.6
    strangers: Settings = field(default_factory=lambda: asdict(Strangers()))
    disruptive: Settings = field(default_factory=lambda: DISRUPTIONS.part('outlying'))
    alpha: float = 0.15
    keep: float = 0.15
    narrow: float = 0.15
    encoder: Settings | None = None

    needs: ClassVar[Needs] = Needs(dataset=True)
    presets: ClassVar[Presets] = {
        # Views that a digit survives, and flows in few dimensions. A class of 80 spares no images
        # to stop by, and .15 of it would be too few to learn it.
        'small': {
            'encoder': simclr(NETWORKS.part('resnet', width=16, norm='group'), epochs=60, lr=3e-3)
            | {'batch': 200, 'temperature': 0.3, 'projection': 64}
            | {'views': asdict(Views(crop=(0.6, 1.0), flip=0.0, grey=0.0))},
            'flows': {'reduce': 18},
            'fit': {'epochs': 60.0, 'hold_out': 0.0, 'members': 5},
            'keep': 0.35,
        }
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.features == 'simclr') != (self.encoder is not None):
            raise UserError(
                f"defense.features={self.features!r}: defense.encoder goes with features='simclr',"
                " and with no others. A finished encoder is the config's part `encoder`."
            )
        self._rule()

    def _rule(self) -> Relabel:
        return Relabel(**{field.name: getattr(self, field.name) for field in fields(Relabel)})

    def method(self, student: Settings) -> Method:
        """The steps: (encoder,) features, densities, verdicts, purified dataset, student."""
        trained = (encoder_step(self.encoder),) if self.encoder is not None else ()
        source = 'teacher' if self.features == 'teacher' else 'encoder'
        data = {'poisoned': 'poisoned'}
        fitted = {'flows': self.flows, 'fit': self.fit}
        steps = (
            *trained,
            Step('features', 'measure', data | {'encoder': source}, by=Embeddings()),
            Step('densities', 'densities', data | {'features': 'features'}, fitted),
            Step('verdicts', 'decide', data | {'densities': 'densities'}, by=self._rule()),
            *purified_steps(student),
        )
        return Method(steps, replace(PURIFIED, features='features'))
