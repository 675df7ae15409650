"""Generative relabelling: class densities find poison and its true labels (Sabolić 2024)."""

from dataclasses import asdict, dataclass, field, fields
from typing import Annotated, ClassVar

from purify.core.errors import UserError
from purify.core.limits import Limited, one_of
from purify.core.types import Settings
from purify.defenses.measures import Embeddings
from purify.defenses.method import Defense, Method, Outcome, Step
from purify.defenses.needs import Needs, Presets
from purify.defenses.relabelling.poisoned_classes import DISRUPTIONS, Strangers
from purify.defenses.relabelling.verdicts import Relabel
from purify.defenses.steps import encoder_step, simclr, student_step
from purify.models.classifiers.registry import NETWORKS
from purify.train.views import Views

FEATURES = ('encoder', 'simclr', 'teacher')


@dataclass(frozen=True)
class Relabelling(Limited, Defense, place='defense.'):
    """Fits a flow to each class's features, relabels or drops what bends them, trains a student.

    Attributes:
      features: 'simclr', of an `encoder` trained on the images without labels; 'teacher', of the
        poisoned classifier (the paper's ablation); 'encoder', of a finished one, such as CLIP.
      flows: of `purify.models.flow.CouplingFlow`, and `reduce`, to how many principal components
        features are brought.
      fit: of `purify.train.density.fit_flows`.
      nondisruptive: see `Relabel`, as the rest.
      encoder: of `purify.generative.clip_encoder.Simclr`; with features='simclr' only.
    """

    features: Annotated[str, one_of(FEATURES)] = 'simclr'
    flows: Settings = field(
        default_factory=lambda: {
            'couplings': 2,
            'hidden': 0,
            'transform': 'affine',
            'mixing': 'swap',
            'reduce': 0,
        }
    )
    fit: Settings = field(
        default_factory=lambda: {
            'epochs': 50.0,
            'batch': 16,
            'lr': 1e-3,
            'b1': 0.9,
            'b2': 0.99,
            'hold_out': 0.1,
            'members': 1,
        }
    )
    nondisruptive: float = 0.6
    strangers: Settings = field(default_factory=lambda: asdict(Strangers()))
    disruptive: Settings = field(default_factory=lambda: DISRUPTIONS.part('outlying'))
    alpha: float = 0.15
    keep: float = 0.15
    narrow: float = 0.15
    encoder: Settings | None = None

    needs: ClassVar[Needs] = Needs(dataset=True)
    presets: ClassVar[Presets] = {
        # views that a digit survives, flows in few dimensions; a class of 80 spares none to stop by
        'small': {
            'encoder': simclr(
                NETWORKS.part('resnet', width=16, norm='group'),
                epochs=60,
                lr=3e-3,
                batch=200,
                temperature=0.3,
                projection=64,
                views=Views(crop=(0.6, 1.0), flip=0.0, grey=0.0),
            ),
            'flows': {'reduce': 18},
            'fit': {'epochs': 60.0, 'hold_out': 0.0, 'members': 5},
            'keep': 0.35,  # .15 of 80 images leave too few of a class to learn it
        }
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.features == 'simclr') != (self.encoder is not None):
            raise UserError(
                "defense.encoder trains features='simclr' and no others; this is"
                f' features={self.features!r}.'
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
            Step('purified', 'rewrite', data | {'edits': 'verdicts'}),
            student_step(student, 'purified'),
        )
        outcome = Outcome(
            purified='purified', classifier='student', findings='verdicts', features='features'
        )
        return Method(steps, outcome)
