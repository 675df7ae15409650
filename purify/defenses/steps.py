"""Steps that several methods share: the classifier that is trained last, and an encoder without labels."""

from collections.abc import Mapping
from typing import Any

from purify.defenses.method import Step


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


def encoder_step(part: Mapping[str, Any]) -> Step:
    """Step 'encoder': SimCLR on the poisoned images, as `purify.config.parts.simclr` describes it.

    `part` holds `network`, `optim`, `epochs`, `batch`, `temperature`, `projection` (numbers of the points that are compared) and
    `views` (of `purify.train.views.Views`).
    """
    own = {name: part[name] for name in ('network', 'optim', 'epochs', 'batch', 'projection')}
    objective = {'name': 'contrast', 'temperature': part['temperature'], 'views': part['views']}
    settings = own | {'steps': 0, 'accumulate': 1, 'augment': {}, 'objective': objective}
    return Step('encoder', 'encoder', {'data': 'poisoned'}, settings)
