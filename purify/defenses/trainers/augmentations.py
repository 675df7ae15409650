"""Strong augmentations and distillation, without a diffusion model (Struppek 2023's ablation)."""

from dataclasses import dataclass

from purify.core.errors import UserError
from purify.core.types import Settings
from purify.defenses.method import Defense, Method, Outcome
from purify.defenses.steps import student_step


@dataclass(frozen=True)
class Augmentations(Defense):
    """Trains a student on the poisoned images under strong augmentations ('augmentations + KD')."""

    def method(self, student: Settings) -> Method:
        """The only step: the student."""
        if not student['augment']:
            raise UserError(
                'defense.name=augmentations needs student.augment; see'
                ' purify.stages.train_classifier.STRONG_AUGMENTATIONS.'
            )
        return Method((student_step(student, 'poisoned'),), Outcome(classifier='student'))
