"""Anti-backdoor learning (Li et al. 2021, arXiv:2110.11571)."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from purify.core.limits import Limited, Share, one_of
from purify.core.types import Facts, Settings
from purify.data.table import Table
from purify.defenses.filters.base import lowest, verdicts
from purify.defenses.measures import Predictions
from purify.defenses.method import Decision, Defense, Look, Method, Outcome, Step
from purify.defenses.needs import Presets
from purify.defenses.steps import train_part
from purify.train.objectives.registry import OBJECTIVES
from purify.train.objectives.unlearn import HELD


@dataclass(frozen=True)
class AntiBackdoor(Limited, Defense, place='defense.'):
    """Isolates what a network learns first, trains it on the rest, and unlearns the isolated.

    Every part has its own length and rate: of the student's config the epochs, the objective and
    the rate are not used, and the schedule serves the part in the middle alone. The four phases
    follow the paper's code, which ends on the ascent by itself (eq. 3 also descends on the rest
    meanwhile).

    Attributes:
      isolation: `loss` ('local_ascent' or 'flooding') that holds the cross-entropy up at `gamma`
        nats, for `epochs`, at the constant rate `lr`. Few epochs: later, everything is learned.
      share: of all images with the lowest cross-entropies, taken for poisoned. The authors' .01
        bounds what is found: of 10 % poison at most a tenth, which may do for unlearning, but makes
        no high TPR.
      finetune: `epochs` and the peak `lr` of training on the others.
      unlearn: `epochs` and the constant `lr` of gradient ascent on the isolated.
    """

    isolation: Settings = field(
        default_factory=lambda: {'loss': 'local_ascent', 'gamma': 0.5, 'epochs': 20.0, 'lr': 0.1}
    )
    share: Share = 0.01
    finetune: Settings = field(default_factory=lambda: {'epochs': 60.0, 'lr': 0.1})
    unlearn: Settings = field(default_factory=lambda: {'epochs': 5.0, 'lr': 5e-4})

    # a small network learns 800 small digits in few epochs, and a hundredth of them is eight
    presets: ClassVar[Presets] = {
        'small': {'isolation': {'epochs': 2.0}, 'unlearn': {'epochs': 5.0}, 'share': 0.05}
    }

    @staticmethod
    def after(teacher: Settings) -> Facts:
        """Settings that follow from the teacher's: as published, 20, 60 and 5 % of its epochs."""
        epochs, lr = teacher['epochs'], teacher['optim']['lr']
        first, middle = {'epochs': 0.2 * epochs, 'lr': lr}, {'epochs': 0.6 * epochs, 'lr': lr}
        return {'isolation': first, 'finetune': middle, 'unlearn': {'epochs': 0.05 * epochs}}

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of(HELD).check('defense.isolation.loss', self.isolation['loss'])

    def method(self, student: Settings) -> Method:
        """The steps: isolation, isolated, finetuned on the others, student, which unlearns."""
        data, look = {'data': 'poisoned'}, Look(Predictions(), LowestLosses(self.share), 'losses')
        held = {'name': self.isolation['loss'], 'gamma': self.isolation['gamma']}
        first = train_part(student, self.isolation, held, constant=True)
        first |= {'init_from': student['init_from']}
        middle = train_part(student, self.finetune, OBJECTIVES.part('classify'))
        last = train_part(student, self.unlearn, OBJECTIVES.part('unlearn'), constant=True)
        last |= {'load': student['load']}
        others = data | {'edits': 'isolated', 'init': 'isolation'}
        isolated = data | {'flagged': 'isolated', 'init': 'finetuned'}
        steps = (
            Step('isolation', 'classifier', data, first),
            Step('isolated', 'look', {'poisoned': 'poisoned', 'classifier': 'isolation'}, by=look),
            Step('finetuned', 'classifier', others, middle),
            Step('student', 'classifier', isolated, last),
        )
        return Method(steps, Outcome(classifier='student', findings='isolated'))


@dataclass(frozen=True)
class LowestLosses(Decision):
    """Flags the `share` of images, one at least, with the lowest `loss` f32[n]; ties by id."""

    share: float

    def decide(
        self, ids: np.ndarray, labels: np.ndarray, tables: Mapping[str, Table], num_classes: int
    ) -> Table:
        """See `Decision`; reads the table 'losses'."""
        losses = tables['losses'].of(ids, 'loss')
        flagged = lowest(losses, ids, max(1, round(self.share * len(ids))))
        highest = float(losses[flagged].max())
        facts = {'share': self.share, 'isolated': int(flagged.sum()), 'highest_loss': highest}
        return verdicts(ids, labels, flagged, {'loss': losses}, facts)
