"""Adaptive splitting (Gao et al. 2023, arXiv:2303.12993)."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from purify.core.errors import UserError
from purify.core.limits import Count, Limited, Share
from purify.core.registry import make_part
from purify.core.types import Facts, Settings
from purify.data.table import Table
from purify.defenses.filters.base import decided, lowest
from purify.defenses.measures import Predictions
from purify.defenses.method import Decision, Defense, Look, Method, Outcome, Step
from purify.defenses.needs import Needs, Presets
from purify.defenses.steps import anew, at_constant_rate
from purify.defenses.trainers.dbd import MIXMATCH, guesses_step
from purify.train.objectives.losses import check_symmetric
from purify.train.optim import OPTIMIZERS

PHASES = 3


@dataclass(frozen=True)
class AdaptiveSplitting(Limited, Defense, place='defense.'):
    """Trains by MixMatch in rounds, and chooses anew before each whose labels to believe.

    Before a round, the network so far looks at every image. Phase 1 believes the lowest losses of
    every class, more in every round (the first round believes the trusted images alone); phase 2
    the lowest of all, whatever their class; phase 3 those whose loss falls least when a copy of the
    network trains on the whole poisoned dataset, for poison is learned first. The trusted are
    believed throughout, beside those that are counted.

    As in the authors' code but for this: a choice lasts a round (theirs is made in every epoch), an
    optimiser starts anew with each, and in phases 2 and 3, too, the trusted are believed (there
    they must come first like all others). The verdicts are read as DBD's: an image that is not
    believed at last gets the label the student gives it; where this is another one, it is flagged.
    That half of the images is not believed says nothing of them.

    Of the student's config the network and batch serve throughout, its augmentations the copy
    alone; its rate is constant as the authors' is, and its objective is not used. The rounds are
    even parts of one run of `steps` updates: over it, the weight of MixMatch's second term grows,
    and images are drawn on and on.

    Attributes:
      rounds: how many in each of the three phases, of equal lengths; one at least in the first. The
        authors' phases have 60, 30 and 30 epochs, with a new choice every 5 (1 in the last two).
      add: of every class, how many more are believed in each round of phase 1.
      share: of all images, believed in phases 2 and 3.
      loss: `alpha` CE + `beta` reverse CE, by which images are chosen.
      copy: Adam at the constant `lr` for `epochs`, on cross-entropy; the last `groups` groups of
        layers and the head learn.
      mixmatch: `temperature`, `alpha`, `weight` of
        `purify.train.objectives.semi_supervised.MixMatch`; `pad_px` and `flip` of its weak views.
    """

    rounds: tuple[int, int, int] = (12, 6, 6)
    add: Count = 10
    share: Share = 0.5
    loss: Settings = field(default_factory=lambda: {'alpha': 0.1, 'beta': 1.0})
    copy: Settings = field(default_factory=lambda: {'epochs': 1.0, 'lr': 0.015, 'groups': 2})
    mixmatch: Settings = field(default_factory=MIXMATCH.copy)

    # As many as the authors' clean images.
    needs: ClassVar[Needs] = Needs(trusted={'per_class': 10}, steps=True)
    presets: ClassVar[Presets] = {
        'small': {'rounds': (4, 2, 2), 'mixmatch': {'pad_px': 1, 'flip': 0.0}}
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        check_symmetric('defense.loss', self.loss['alpha'], self.loss['beta'])
        whole = all(type(count) is int and count >= 0 for count in self.rounds)  # True is no number
        if len(self.rounds) != PHASES or not whole or self.rounds[0] < 1:
            raise UserError(
                f'defense.rounds={self.rounds} must be three whole numbers, the first of them 1 or'
                ' more.'
            )

    def method(self, student: Settings) -> Method:
        """The steps: round0, ([losses1, copy1,] split1, round1), ..., student, verdicts."""
        count = sum(self.rounds)
        if student['epochs'] or student['steps'] < count:
            raise UserError(
                f'student.epochs={student["epochs"]} and student.steps={student["steps"]}: asd'
                f' divides steps over its {count} rounds. Set epochs to 0 and steps to as many or'
                ' more.'
            )
        steps: list[Step] = []
        before, believed = '', 'trusted'
        for number in range(count):
            start = {}
            if number:
                steps += self._choose(number, before, student)
                start, believed = {'init': before}, f'split{number}'
            before = f'round{number}' if number + 1 < count else 'student'
            inputs = {'data': 'poisoned', 'edits': believed} | start
            steps.append(Step(before, 'classifier', inputs, self._round(number, student)))
        outcome = Outcome(classifier='student', findings='verdicts')
        return Method((*steps, guesses_step(believed)), outcome)

    def _choose(self, number: int, before: str, student: Settings) -> list[Step]:
        """The steps by which the network `before` chooses what round `number` believes."""
        losses = make_part('defense.loss', Predictions, 'sce', **self.loss)
        inputs = {'poisoned': 'poisoned', 'trusted': 'trusted', 'classifier': before}
        split, easiest = f'split{number}', EasiestOfAll(self.share)
        if number < self.rounds[0]:
            easiest = EasiestByClass(self.add * number)
        if number < self.rounds[0] + self.rounds[1]:
            return [Step(split, 'look', inputs, by=Look(losses, easiest, 'losses'))]
        copy, first = f'copy{number}', f'losses{number}'
        after = inputs | {'classifier': copy, 'losses': first}
        return [
            Step(first, 'measure', {'poisoned': 'poisoned', 'classifier': before}, by=losses),
            Step(copy, 'classifier', {'data': 'poisoned', 'init': before}, self._copy(student)),
            Step(split, 'look', after, by=Look(losses, easiest, 'relearned')),
        ]

    def _round(self, number: int, student: Settings) -> Facts:
        count = sum(self.rounds)
        part = tuple(k * student['steps'] // count for k in (number, number + 1))
        own: Settings = {'objective': {'name': 'mixmatch'} | self.mixmatch, 'augment': {}}
        own |= {'part': part, 'optim': at_constant_rate(student['optim'])}
        own |= {} if number == 0 else {'init_from': ''}
        own |= {} if number + 1 == count else {'load': ''}
        return student | own

    def _copy(self, student: Settings) -> Facts:
        objective = {'name': 'tail', 'groups': self.copy['groups']}
        optim = OPTIMIZERS.part('adam', lr=self.copy['lr'], schedule='constant')
        return student | anew(self.copy['epochs']) | {'objective': objective, 'optim': optim}


def _believe(
    ids: np.ndarray, labels: np.ndarray, chosen: np.ndarray, trusted: np.ndarray, scores: np.ndarray
) -> Table:
    """The table of a choice: the `chosen` and the `trusted`, bool[n] each, keep their labels."""
    keep = chosen | trusted
    if keep.all():
        raise UserError(
            f'asd: all {len(ids)} images are believed, so that none is left to be guessed. Lower'
            ' defense.add, defense.share or the first of defense.rounds, or trust fewer images.'
        )
    facts = {'trusted': int(trusted.sum()), 'believed': int(keep.sum())}
    facts |= {'highest': float(scores[chosen].max())}
    return decided(ids, labels, keep, facts, score=scores)


@dataclass(frozen=True)
class EasiestByClass(Decision):
    """Believes the `count` lowest losses of every given class, and the trusted, who do not count.

    Ties go by id; of a class that has fewer all are. Columns `keep` bool[n], `score` f64[n], the
    loss.
    """

    count: int

    def decide(
        self, ids: np.ndarray, labels: np.ndarray, tables: Mapping[str, Table], num_classes: int
    ) -> Table:
        """See `Decision`; reads the tables 'trusted' and 'losses'."""
        trusted = tables['trusted'].of(ids, 'keep')
        scores = tables['losses'].of(ids, 'loss').astype(np.float64)
        believed = np.zeros(len(ids), np.bool_)
        for label in range(num_classes):
            rows = np.flatnonzero((labels == label) & ~trusted)
            believed[rows] = lowest(scores[rows], ids[rows], self.count)
        return _believe(ids, labels, believed, trusted, scores)


@dataclass(frozen=True)
class EasiestOfAll(Decision):
    """Believes the `share` of images with the lowest scores, and the trusted; ties go by id.

    A score is the loss, or, where there is a table 'relearned', by how much the loss falls until
    then. Columns `keep` bool[n], `score` f64[n].
    """

    share: float

    def decide(
        self, ids: np.ndarray, labels: np.ndarray, tables: Mapping[str, Table], num_classes: int
    ) -> Table:
        """See `Decision`; reads the tables 'trusted' and 'losses', and 'relearned' if there."""
        trusted = tables['trusted'].of(ids, 'keep')
        scores = tables['losses'].of(ids, 'loss').astype(np.float64)
        if 'relearned' in tables:
            scores = scores - tables['relearned'].of(ids, 'loss')
        believed = lowest(scores, ids, max(1, round(self.share * len(ids))))
        return _believe(ids, labels, believed, trusted, scores)
