"""Decoupling-based backdoor defence (Huang et al. 2022, arXiv:2202.03423)."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import ClassVar

import numpy as np

from purify.core.errors import UserError
from purify.core.limits import Limited, Share
from purify.core.types import Facts, Settings
from purify.data.table import Table
from purify.defenses.filters.base import decided, lowest
from purify.defenses.measures import Predictions
from purify.defenses.method import Decision, Defense, Look, Method, Outcome, Step
from purify.defenses.needs import Needs, Presets
from purify.defenses.steps import anew, encoder_step
from purify.train.objectives.losses import check_symmetric
from purify.train.optim import OPTIMIZERS
from purify.train.views import Views

DECAY, MOMENTUM = 1e-4, 0.9  # of the encoder's SGD
MIXMATCH = {'temperature': 0.5, 'alpha': 0.75, 'weight': 15.0, 'pad_px': 4, 'flip': 0.5}


@dataclass(frozen=True)
class Decoupling(Limited, Defense, place='defense.'):
    """Learns features without labels, a head on them, then only from labels the head finds easy.

    The labels are divided once, as in the paper's section 4.4, on images as they are; the released
    code divides them anew in every epoch, on augmented images. Of the student's config the network
    serves throughout, its augmentations the head alone, its optimiser, length and batch the last
    part, where an epoch is one pass over the credible half; its objective is not used.

    Attributes:
      encoder: SimCLR by SGD with a cosine schedule: `epochs`, `batch`, peak `lr`, `temperature`,
        and `projection`, the numbers that points have which are compared.
      views: of `purify.train.views.Views`.
      head: Adam at the constant `lr` for `epochs`, in the student's batches, by `alpha` CE + `beta`
        reverse CE.
      credible: share of all images with the lowest such losses, whose labels are kept.
      mixmatch: `temperature`, `alpha`, `weight` of
        `purify.train.objectives.semi_supervised.MixMatch`; `pad_px` and `flip` of its weak views.
    """

    encoder: Settings = field(
        default_factory=lambda: (
            {'epochs': 1000.0, 'batch': 512, 'lr': 0.4} | {'temperature': 0.5, 'projection': 128}
        )
    )
    views: Settings = field(default_factory=lambda: asdict(Views()))
    head: Settings = field(
        default_factory=lambda: {'epochs': 10.0, 'lr': 1e-3, 'alpha': 0.1, 'beta': 1.0}
    )
    credible: Share = 0.5
    mixmatch: Settings = field(default_factory=MIXMATCH.copy)

    needs: ClassVar[Needs] = Needs(steps=True)
    presets: ClassVar[Presets] = {
        'small': {
            'encoder': {'epochs': 60.0, 'batch': 200, 'lr': 0.1},
            'views': {'crop': (0.6, 1.0), 'flip': 0.0, 'grey': 0.0},
            'mixmatch': {'pad_px': 1, 'flip': 0.0},
        }
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        check_symmetric('defense.head', self.head['alpha'], self.head['beta'])

    def method(self, student: Settings) -> Method:
        """The steps: encoder, head, split by its losses, student, verdicts by its guesses."""
        if student['init_from']:
            raise UserError(
                f'student.init_from={student["init_from"]!r}: dbd starts from its own encoder.'
                ' Leave it empty.'
            )
        losses = Predictions('sce', self.head['alpha'], self.head['beta'])
        look = Look(losses, Credible(self.credible), 'losses')
        last = student | {'objective': {'name': 'mixmatch'} | self.mixmatch, 'augment': {}}
        data = {'data': 'poisoned'}
        steps = (
            self._encoder(student),
            Step('head', 'classifier', data | {'init': 'encoder'}, self._head(student)),
            Step('split', 'look', {'poisoned': 'poisoned', 'classifier': 'head'}, by=look),
            Step('student', 'classifier', data | {'edits': 'split', 'init': 'head'}, last),
            guesses_step('split'),
        )
        return Method(steps, Outcome(classifier='student', findings='verdicts'))

    def _encoder(self, student: Settings) -> Step:
        decay = {'momentum': MOMENTUM, 'weight_decay': DECAY}
        optim = OPTIMIZERS.part('sgd', lr=self.encoder['lr'], schedule='cosine', **decay)
        own = {'network': student['network'], 'optim': optim, 'views': self.views}
        return encoder_step(self.encoder | own)

    def _head(self, student: Settings) -> Facts:
        objective = {'name': 'head', 'alpha': self.head['alpha'], 'beta': self.head['beta']}
        optim = OPTIMIZERS.part('adam', lr=self.head['lr'], schedule='constant')
        return student | anew(self.head['epochs']) | {'objective': objective, 'optim': optim}


@dataclass(frozen=True)
class Credible(Decision):
    """Lets the `share` of images with the lowest losses keep their labels; ties by id.

    Columns `keep` bool[n], `loss` f32[n].
    """

    share: float

    def decide(
        self, ids: np.ndarray, labels: np.ndarray, tables: Mapping[str, Table], num_classes: int
    ) -> Table:
        """See `Decision`; reads the table 'losses'."""
        losses = tables['losses'].of(ids, 'loss')
        keep = lowest(losses, ids, max(1, round(self.share * len(ids))))
        facts = {'share': self.share, 'credible': int(keep.sum())}
        facts |= {'highest_loss': float(losses[keep].max())}
        return decided(ids, labels, keep, facts, loss=losses)


def guesses_step(split: str) -> Step:
    """Step 'verdicts': the student labels what table `split` does not keep, see `Guessed`."""
    inputs = {'poisoned': 'poisoned', 'classifier': 'student', 'split': split}
    return Step('verdicts', 'look', inputs, by=Look(Predictions(), Guessed(), 'guesses'))


@dataclass(frozen=True)
class Guessed(Decision):
    """Gives all images but the credible ones the student's labels, and flags changed labels."""

    def decide(
        self, ids: np.ndarray, labels: np.ndarray, tables: Mapping[str, Table], num_classes: int
    ) -> Table:
        """See `Decision`; reads the tables 'split' and 'guesses'."""
        believed = tables['split'].of(ids, 'keep')
        guesses = np.where(believed, labels, tables['guesses'].of(ids, 'label'))
        flagged = guesses != labels
        facts = {'credible': int(believed.sum()), 'relabelled': int(flagged.sum())}
        keep = np.ones(len(ids), np.bool_)
        return decided(ids, guesses, keep, facts, flagged=flagged, credible=believed)
