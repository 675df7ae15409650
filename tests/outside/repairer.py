"""A repairer in its own file: it tunes the poisoned classifier on images known to be clean."""

from dataclasses import dataclass
from typing import ClassVar

from purify.defenses.method import Defense, Method, Outcome, Step
from purify.defenses.needs import Needs
from purify.defenses.steps import train_part


@dataclass(frozen=True)
class Tuned(Defense):
    """The teacher after `epochs` on the trusted images."""

    epochs: float = 2.0
    lr: float = 1e-3

    needs: ClassVar[Needs] = Needs(trusted={'per_class': 2})

    def method(self, student):
        part = train_part(
            student,
            {'epochs': self.epochs, 'lr': self.lr},
            {'name': 'classify', 'label_smoothing': 0.0},
        )
        inputs = {'data': 'poisoned', 'edits': 'trusted', 'init': 'teacher'}
        return Method((Step('tuned', 'classifier', inputs, part),), Outcome(repaired='tuned'))
