"""The ablation of Struppek 2023 without a diffusion model: strong augmentations and distillation."""

from dataclasses import dataclass

from purify.core.errors import UserError
from purify.core.types import Settings
from purify.defenses.method import Defense, Method, Outcome
from purify.defenses.steps import student_step


@dataclass(frozen=True)
class Augmentations(Defense):
    """A student on the poisoned images themselves, told from the teacher by its augmentations alone.

    The ablation 'augmentations + KD' of Struppek 2023: what is left of the defence without the
    diffusion model.
    """

    def method(self, student: Settings) -> Method:
        """One step."""
        if not student['augment']:
            raise UserError(
                'defense.name=augmentations needs student.augment; see'
                ' purify.config.parts.STRONG_AUGMENTATIONS.'
            )
        return Method((student_step(student, 'poisoned'),), Outcome(classifier='student'))
