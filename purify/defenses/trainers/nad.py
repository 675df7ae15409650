"""Neural attention distillation (Li et al. 2021, arXiv:2101.05930)."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from purify.core.limits import Limited, Positive, number
from purify.core.types import Facts, Settings
from purify.defenses.method import Defense, Method, Outcome, Step
from purify.defenses.needs import Needs, Presets
from purify.defenses.steps import train_part
from purify.train.objectives.attention import check_attention
from purify.train.objectives.registry import OBJECTIVES


@dataclass(frozen=True)
class AttentionDistillation(Limited, Defense, place='defense.'):
    """Tunes the network on trusted images, and teaches the poisoned one the result's attention.

    Both parts see the trusted images alone, and start from the poisoned network. Each has its own
    length and peak rate; of the student's config the epochs, the objective, the rate and
    `init_from` are not used, and its network must be the teacher's.

    Attributes:
      finetune: `epochs` and the peak `lr` of tuning the teacher.
      epochs: of the distillation.
      lr: the peak rate of the distillation.
      beta: weights of the distance of attention: one for all groups of layers, or one for each.
      power: p of the attention, the sum over channels of |F|^p.
    """

    finetune: Settings = field(default_factory=lambda: {'epochs': 10.0, 'lr': 0.01})
    epochs: Positive = 20.0
    lr: Positive = 0.01
    beta: Sequence[float] = (1000.0,)
    power: float = 2.0

    needs: ClassVar[Needs] = Needs(trusted={'share': 0.05})  # as the authors' clean images
    # few trusted images of a small dataset are few updates an epoch
    presets: ClassVar[Presets] = {'small': {'finetune': {'epochs': 20.0}, 'epochs': 60.0}}

    @staticmethod
    def after(teacher: Settings) -> Facts:
        """Settings that follow from the teacher's: BackdoorBench's rate of SGD, or half for Adam.

        (The authors' is .1, from the third epoch on .01.) It follows the optimiser that the config
        names; a flag that changes that one leaves it.
        """
        lr = 0.01 if teacher['optim']['name'] == 'sgd' else 5e-3
        return {'finetune': {'lr': lr}, 'lr': lr}

    def __post_init__(self) -> None:
        super().__post_init__()
        check_attention('defense', self.beta, self.power)
        for name in ('epochs', 'lr'):
            number(above=0).check(f'defense.finetune.{name}', self.finetune[name])

    def method(self, student: Settings) -> Method:
        """The steps: finetuned, which teaches, and student."""
        inputs = {'data': 'poisoned', 'edits': 'trusted', 'init': 'teacher'}
        attentive = {'name': 'attention', 'beta': self.beta, 'power': self.power}
        first = train_part(student, self.finetune, OBJECTIVES.part('classify'))
        last = train_part(student, {'epochs': self.epochs, 'lr': self.lr}, attentive)
        last |= {'load': student['load']}
        steps = (
            Step('finetuned', 'classifier', inputs, first),
            Step('student', 'classifier', inputs | {'teacher': 'finetuned'}, last),
        )
        return Method(steps, Outcome(classifier='student'))
