"""The classifier a defence trains last, with or without a teacher."""

from dataclasses import dataclass
from typing import Any

from purify.core.errors import UserError
from purify.defenses.method import Method, Outcome, Step


def student_step(student: dict[str, Any], data: str) -> Step:
    """Trains `student` on the dataset `data`; its objective says whether the teacher helps."""
    inputs = {'data': data} | ({'teacher': 'teacher'} if student['objective']['name'] == 'distill' else {})
    return Step('student', 'classifier', inputs, student)


def at_constant_rate(optim: dict[str, Any]) -> dict[str, Any]:
    """The optimiser without its schedule."""
    kept = {name: value for name, value in optim.items() if name not in ('drops', 'factor')}
    return kept | {'schedule': 'constant', 'warmup': 0.0}


def train_part(
    student: dict[str, Any], part: dict[str, Any], objective: dict[str, Any], *, constant: bool = False
) -> dict[str, Any]:
    """The student's config with the `epochs`, `lr` and objective of one part of a defence; the rate may be `constant`."""
    optim = student['optim'] | {'lr': part['lr']}
    optim = at_constant_rate(optim) if constant else optim
    fresh = {'epochs': part['epochs'], 'steps': 0, 'objective': objective, 'load': '', 'init_from': ''}
    return student | fresh | {'optim': optim}


@dataclass(frozen=True)
class NoDefense:
    """Nothing but the teacher: what training on the poisoned dataset does."""

    def method(self, student: dict[str, Any]) -> Method:
        """No step."""
        del student
        return Method()


@dataclass(frozen=True)
class Augmentations:
    """A student on the poisoned images themselves, told from the teacher by its augmentations alone.

    The ablation 'augmentations + KD' of Struppek 2023: what is left of the defence without the diffusion model.
    """

    def method(self, student: dict[str, Any]) -> Method:
        """One step."""
        if not student['augment']:
            raise UserError('defense.name=augmentations needs student.augment; see purify.pipelines.training.STRONG_AUGMENTATIONS.')
        return Method((student_step(student, 'poisoned'),), Outcome(classifier='student'))
