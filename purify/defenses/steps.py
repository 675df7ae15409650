"""Steps that methods share: training the student at last, and an encoder without labels."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from purify.core.types import Facts, Settings
from purify.defenses.method import Outcome, Step
from purify.train.optim import OPTIMIZERS
from purify.train.views import Views

PURIFIED = Outcome(purified='purified', classifier='student', findings='verdicts')


def student_step(student: Settings, data: str) -> Step:
    """Trains `student` on the dataset `data`; its objective says whether the teacher helps."""
    helped = student['objective']['name'] == 'distill'
    inputs = {'data': data} | ({'teacher': 'teacher'} if helped else {})
    return Step('student', 'classifier', inputs, student)


def purified_steps(student: Settings) -> tuple[Step, Step]:
    """Writes the dataset 'purified' as the step 'verdicts' decides, and trains a student on it."""
    rewrite = Step('purified', 'rewrite', {'poisoned': 'poisoned', 'edits': 'verdicts'})
    return rewrite, student_step(student, 'purified')


def at_constant_rate(optim: Settings) -> Facts:
    """Drops the schedule of an optimiser: the rate stays as it is."""
    kept = {name: value for name, value in optim.items() if name not in ('drops', 'factor')}
    return kept | {'schedule': 'constant', 'warmup': 0.0}


def anew(epochs: float) -> Facts:
    """What a training of so many epochs, for another end, does not take from a student's config."""
    return {'epochs': epochs, 'steps': 0, 'least_steps': 0, 'load': '', 'init_from': ''}


def train_part(
    student: Settings, part: Settings, objective: Settings, *, constant: bool = False
) -> Facts:
    """Makes the student's config for a part of a defence's training; its lr may be `constant`."""
    optim = student['optim'] | {'lr': part['lr']}
    optim = at_constant_rate(optim) if constant else optim
    return student | anew(part['epochs']) | {'objective': objective, 'optim': optim}


@dataclass(frozen=True)
class Simclr:
    """The part `encoder` of a defence: trained by contrast, without labels (Chen et al. 2020).

    Attributes:
      network: of `purify.models.classifiers.registry.NETWORKS`.
      optim: see `purify.train.optim.make_optimizer`.
      epochs: passes over the images.
      batch: images of an update; an image is told from the others of its batch.
      temperature: of the softmax over them.
      projection: length of the embeddings that are compared.
      views: what is seen of an image.
    """

    network: Settings
    optim: Settings
    epochs: float
    batch: int = 256
    temperature: float = 0.5
    projection: int = 128
    views: Views = field(default_factory=Views)


def simclr(network: Settings, *, epochs: float, lr: float = 3e-4, **changes: Any) -> Facts:
    """Makes the settings of `Simclr` with the Adam, rate and batch of Sabolić 2024.

    How many epochs is not published.
    """
    optim = OPTIMIZERS.part('adam', lr=lr, b2=0.99)
    return asdict(Simclr(network, optim, float(epochs), **changes))


def encoder_step(part: Mapping[str, Any]) -> Step:
    """Step 'encoder': trains one on the poisoned images, as `Simclr` describes it."""
    own = {name: part[name] for name in ('network', 'optim', 'epochs', 'batch', 'projection')}
    objective = {'name': 'contrast', 'temperature': part['temperature'], 'views': part['views']}
    settings = own | {'steps': 0, 'accumulate': 1, 'augment': {}, 'objective': objective}
    return Step('encoder', 'encoder', {'data': 'poisoned'}, settings)
