"""Defences that score every image and drop the highest, and their scores for other methods."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from purify.core.errors import UserError
from purify.core.limits import Limited, Share
from purify.core.registry import Registry, make_part
from purify.core.types import Facts, Settings
from purify.data.table import Table
from purify.defenses.filters.base import lowest, verdicts
from purify.defenses.filters.cognitive_distillation import CognitiveDistillation
from purify.defenses.filters.fct import SPREAD, Fct, FeatureConsistency, network_steps
from purify.defenses.filters.strip import Strip
from purify.defenses.method import Decision, Defense, Measure, Method, Step
from purify.defenses.needs import Needs
from purify.defenses.steps import PURIFIED, purified_steps

SCORES: Registry[Callable[..., Measure]] = Registry(
    'score', cognitive_distillation=CognitiveDistillation, fct=Fct, strip=Strip
)


def score(name: str, **changes: Any) -> Facts:
    """Makes the settings of a score: the numbers of its paper, with `changes`.

    Raises ValueError as `Registry.part` does.
    """
    return {key: value for key, value in SCORES.part(name, **changes).items() if key != 'name'}


def score_steps(
    scores: Mapping[str, Mapping[str, Any]], student: Settings, sets: Mapping[str, str]
) -> tuple[tuple[Step, ...], dict[str, tuple[str, ...]]]:
    """Lists the steps that measure scores on datasets, named after both, such as 'strip_given'.

    The column is `score`. The classifier is the teacher, or FCT's own network, whose steps then
    come first.

    Args:
      scores: name, of `SCORES`, -> the settings of that measure. FCT's also say by which `network`
        it looks: 'teacher' (the poisoned classifier, as of the others), or its 'own', with `early`
        and `spread` of `network_steps`.
      student: config of the classifier that is trained last.
      sets: a word for a dataset -> 'poisoned', or the step that makes it: {'given': 'poisoned',
        'made': 'generated'}.

    Returns:
      The steps, and of each score the names of those that measure it, in the order of `sets`.

    Raises:
      UserError: for a score or a network of another name.
    """
    steps: list[Step] = []
    for name, settings in scores.items():
        SCORES[name]  # raises for an unknown one, with the choices
        own, classifier = dict(settings), 'teacher'
        if name == 'fct' and _has_own(own):
            steps += network_steps(own.pop('early'), own.pop('spread'), student)
            classifier = SPREAD
        kind = FeatureConsistency if name == 'fct' else SCORES[name]
        measure = make_part(f'score {name!r}', kind, **own)
        for word, data in sets.items():
            inputs = {'poisoned': data, 'classifier': classifier}
            steps.append(Step(f'{name}_{word}', 'measure', inputs, by=measure))
    return tuple(steps), {name: tuple(f'{name}_{word}' for word in sets) for name in scores}


def _has_own(fct: Facts) -> bool:
    """Whether FCT trains a network of its own; its settings lose the word for it."""
    network, parts = fct.pop('network'), sorted({'early', 'spread'} & set(fct))
    if (network, parts) not in (('own', ['early', 'spread']), ('teacher', [])):
        raise UserError(
            f"fct: network={network!r} with {parts}: choose 'own' with early and spread, or"
            " 'teacher' without them."
        )
    return network == 'own'


@dataclass(frozen=True)
class ScoreFilter(Limited, Defense, place='defense.'):
    """Drops the images of the whole dataset that score highest, and trains a student on the rest.

    Attributes:
      measure: the score, of `SCORES`; the defence's own name.
      score: its settings, see `score_steps`.
      remove: share of all images that goes.
    """

    measure: str
    score: Settings
    remove: Share = 0.05

    needs: ClassVar[Needs] = Needs(dataset=True)

    def method(self, student: Settings) -> Method:
        """The steps: (the score's network,) scores, verdicts, purified dataset, student."""
        steps, names = score_steps({self.measure: self.score}, student, {'given': 'poisoned'})
        looked = {'poisoned': 'poisoned', 'scores': names[self.measure][0]}
        verdicts = Step('verdicts', 'decide', looked, by=HighestScores(self.remove))
        return Method((*steps, verdicts, *purified_steps(student)), PURIFIED)


@dataclass(frozen=True)
class HighestScores(Limited, Decision, place='defense.'):
    """Flags the `remove` share of all images with the highest `score` f32[n]; ties by id.

    The fact `comparable` says that scores may be held against each other over the whole dataset; no
    class is named.
    """

    remove: Share

    def decide(
        self, ids: np.ndarray, labels: np.ndarray, tables: Mapping[str, Table], num_classes: int
    ) -> Table:
        """See `Decision`; reads the table 'scores'."""
        score = tables['scores'].of(ids, 'score')
        flagged = lowest(-score, ids, int(self.remove * len(ids) + 1e-9))
        removed = np.bincount(labels[flagged], minlength=num_classes).tolist()
        facts = {'comparable': True, 'remove': self.remove, 'removed': removed}
        return verdicts(ids, labels, flagged, {'score': score}, facts)
