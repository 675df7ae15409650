"""DataElixir (Zhou 2024): the steps, and the decisions that they take."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from purify.core.errors import UserError
from purify.defenses.candidates import Candidates
from purify.defenses.method import Method, Outcome, Step, Table
from purify.defenses.students import student_step
from purify.defenses.transitions import (
    BENIGN,
    POISONED,
    SETS,
    SUSPICIOUS,
    choose,
    count_labels,
    describe,
    gather_evidence,
    make_target_rule,
    sort_into_sets,
    transition_coefficient,
    vote,
)


@dataclass(frozen=True)
class Choice:
    """Which candidate becomes the purified image (section 3.5).

    Attributes:
      rank: the place among them in order of growing distance (eq. 5), as a share; .8 in the paper.
      count_raw: whether the raw image counts as one of them, as in the released code.
      choice: 'all' candidates, or the 'agreeing' ones that a classifier gives the new label, as in the released code.
    """

    rank: float
    count_raw: bool
    choice: str

    def __post_init__(self) -> None:
        if not 0 <= self.rank <= 1 or self.choice not in ('all', 'agreeing'):
            raise UserError(
                f"defense: rank={self.rank} must lie between 0 and 1, and choice={self.choice!r} be 'all' or 'agreeing'."
            )

    def among(self, distance: np.ndarray, candidates: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """Distances f[m k], a classifier's labels of the candidates i32[m k], new labels i32[m] -> candidate i32[m], -1: raw."""
        allowed = candidates == labels[:, None] if self.choice == 'agreeing' else np.ones(distance.shape, bool)
        return choose(distance, allowed, self.rank, self.count_raw)


@dataclass(frozen=True)
class LabelTransition(Choice):
    """Table 'candidates' -> sets, target labels, and what becomes of every image whose label is plain by now.

    Columns besides those that others act on: `set` u8 (`SETS`), `eta` i32, `given` i32, `raw` i32 (predicted for the raw image),
    `vote` i32. Images of P under a target label get their vote and a candidate; those of S under one are not kept, for they
    are still to be labelled, but get a candidate too where its choice does not wait for the label. `pick`: the images to be made.

    Attributes:
      tau: of eq. 3, as a share of the candidates.
      benign: what candidates of a benign image agree with, the 'given' label (eq. 3) or the one 'predicted' for it (the
        released code).
      targets: `TARGETS` and their attributes.
      labels: 'benign', as above, or 'vote': every image is given its vote, whatever its set and label (appendix F).
    """

    tau: float
    benign: str
    targets: dict[str, Any]
    labels: str

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.tau <= 1:
            raise UserError(f'defense.tau={self.tau} is a share of the candidates: choose more than 0 and at most 1.')
        if self.benign not in ('given', 'predicted'):
            raise UserError(f"defense.benign={self.benign!r}: choose 'given' or 'predicted'.")
        if self.labels not in ('benign', 'vote'):
            raise UserError(f"defense.labels={self.labels!r}: choose 'benign' or 'vote'.")
        make_target_rule(self.targets)

    def decide(self, ids: np.ndarray, labels: np.ndarray, tables: Mapping[str, Table], num_classes: int) -> Table:
        """As of `Decision`."""
        measured = {name: tables['candidates'].aligned(ids, name, 0) for name in ('candidates', 'distance', 'raw')}
        counts = count_labels(measured['candidates'], num_classes)
        votes = vote(counts)
        sets = sort_into_sets(counts, labels if self.benign == 'given' else measured['raw'], self.tau)
        evidence = gather_evidence(labels, counts, sets, measured['raw'] if self.count_raw else None)
        found = describe(make_target_rule(self.targets), evidence)
        aimed_at = np.isin(labels, found['target_labels'])
        plain = (votes != labels) if self.labels == 'vote' else aimed_at & (sets == POISONED)
        replaced = plain if self.choice == 'agreeing' or self.labels == 'vote' else aimed_at & (sets != BENIGN)
        new = np.where(plain, votes, labels).astype(np.int32)
        candidate = np.where(replaced, self.among(measured['distance'], measured['candidates'], new), -1).astype(np.int32)
        columns = {
            'set': sets,
            'eta': transition_coefficient(counts).astype(np.int32),
            'given': labels.astype(np.int32),
            'raw': measured['raw'].astype(np.int32),
            'vote': votes,
            'keep': np.ones(len(ids), bool) if self.labels == 'vote' else ~(aimed_at & (sets == SUSPICIOUS)),
        }
        facts = found | {'sets': {name: int((sets == number).sum()) for number, name in enumerate(SETS)}}
        return _verdicts(ids, columns, new, candidate, candidate >= 0, facts)


@dataclass(frozen=True)
class LeftOut:
    """Table 'edits' -> the same rows not kept there, as `pick`: what the next measurement looks at."""

    def decide(self, ids: np.ndarray, labels: np.ndarray, tables: Mapping[str, Table], num_classes: int) -> Table:
        """As of `Decision`."""
        del labels, num_classes
        return Table({'ids': ids, 'pick': ~tables['edits'].aligned(ids, 'keep', True)})


@dataclass(frozen=True)
class TrueLabels(Choice):
    """Labels for images that were left out, from a benign classifier (section 3.5, stages one and two).

    Tables 'edits' (what was decided before), 'candidates' (for distances) and 'measured', which looked at the images left out:
    by `Predictions`, or by `Candidates` with the benign classifier where the choice is among the 'agreeing' ones. The columns
    are those of `LabelTransition`; `pick`: the images to be made now.

    Attributes:
      agreement: only where the classifier's label is the vote too; the others stay left out.
    """

    agreement: bool

    def decide(self, ids: np.ndarray, labels: np.ndarray, tables: Mapping[str, Table], num_classes: int) -> Table:
        """As of `Decision`."""
        del num_classes
        edits, measured = tables['edits'], tables['measured']
        name = 'raw' if self.choice == 'agreeing' else 'label'
        old = {key: edits.aligned(ids, key, 0) for key in edits.columns if key not in ('ids', 'pick', 'flagged')}
        predicted = measured.aligned(ids, name, 0)
        settled = ~old['keep'] & ((predicted == old['vote']) | (not self.agreement))
        new = np.where(settled, predicted, old['labels']).astype(np.int32)
        distance = tables['candidates'].aligned(ids, 'distance', np.inf)
        theirs = measured if self.choice == 'agreeing' else tables['candidates']
        chosen = self.among(distance, theirs.aligned(ids, 'candidates', -1), new)
        candidate = np.where(settled, chosen, old['candidate']).astype(np.int32)
        columns = {key: old[key] for key in ('set', 'eta', 'given', 'raw', 'vote')} | {'keep': old['keep'] | settled}
        facts = edits.facts | {'settled': int(settled.sum())}
        return _verdicts(ids, columns, new, candidate, settled & (candidate >= 0) & (old['candidate'] < 0), facts)


def _verdicts(
    ids: np.ndarray,
    columns: dict[str, np.ndarray],
    labels: np.ndarray,
    candidate: np.ndarray,
    pick: np.ndarray,
    facts: dict[str, Any],
) -> Table:
    found = {'ids': ids} | columns
    found |= {'labels': labels, 'candidate': candidate, 'pick': pick, 'flagged': labels != columns['given']}
    return Table(found, facts)


@dataclass(frozen=True)
class DataElixir:
    """Finds what was poisoned by how labels change when an image is noised and denoised, and gives it back purified.

    Attributes: those of `Candidates` (the chain), `LabelTransition` and `Choice` (the readings), and
      finetune: of the benign model's second stage, `epochs_share` and `lr_share` of the student's epochs and learning rate.
    """

    rounds: int
    start: int
    steps: int
    window: int
    kept: int
    sampler: dict[str, Any]
    forward: str
    state: str
    dtype: str
    tau: float
    rank: float
    benign: str
    count_raw: bool
    choice: str
    targets: dict[str, Any]
    labels: str
    finetune: dict[str, float]

    def __post_init__(self) -> None:
        Candidates(**self._chain())
        LabelTransition(**self._readings())
        if set(self.finetune) != {'epochs_share', 'lr_share'} or not min(self.finetune.values()) > 0:
            raise UserError(f'defense.finetune={self.finetune}: give epochs_share and lr_share, both positive.')

    def method(self, student: dict[str, Any]) -> Method:
        """Candidates -> targets -> a benign model in two stages -> verdicts -> purified dataset -> student."""
        measured = {'poisoned': 'poisoned', 'prior': 'prior', 'classifier': 'teacher'}
        candidates = Step('candidates', 'measure', measured, {'name': 'candidates', **self._chain()})
        first = 'verdicts' if self.labels == 'vote' else 'targets'
        inputs = {'poisoned': 'poisoned', 'candidates': 'candidates'}
        found = Step(first, 'decide', inputs, {'name': 'label_transition', **self._readings()})
        if self.labels == 'vote':
            middle = (found, self._remake('replaced', 'verdicts'))
            datasets, benign = ('replaced',), None
        else:
            middle = (found, *self._two_stages(student))
            datasets = tuple(step.name for step in middle if step.name.startswith('replaced'))
            benign = 'finetuned'
        inputs = {'poisoned': 'poisoned', 'edits': 'verdicts'} | {name: name for name in datasets}
        last = (Step('purified', 'rewrite', inputs, {}), student_step(student, 'purified'))
        outcome = Outcome('purified', 'student', benign, 'verdicts', 'candidates')
        return Method((candidates, *middle, *last), outcome)

    def _two_stages(self, student: dict[str, Any]) -> tuple[Step, ...]:
        """Section 3.5: a model that has not seen S under the target labels labels it; where the vote agrees it learns that too."""
        data = {'data': 'poisoned', 'edits': 'targets', 'replaced': 'replaced'}
        waits = self.choice == 'agreeing'  # for the labels; else all images were made at first
        agreed = (self._remake('replaced_agreed', 'agreed'),) * waits
        rest = (self._remake('replaced_rest', 'verdicts'),) * waits
        more = data | {'edits': 'agreed', 'init': 'benign'} | {step.name: step.name for step in agreed}
        benign = benign_recipe(student)
        return (
            self._remake('replaced', 'targets'),
            Step('benign', 'classifier', data, benign),
            *self._label('suspects', 'targets', 'benign', 'agreed', agreement=True),
            *agreed,
            Step('finetuned', 'classifier', more, finetuning_recipe(benign, **self.finetune)),
            *self._label('rest', 'agreed', 'finetuned', 'verdicts', agreement=False),
            *rest,
        )

    def _label(self, name: str, edits: str, classifier: str, verdicts: str, agreement: bool) -> tuple[Step, ...]:
        """What `edits` leaves out, looked at with `classifier`, and what is made of it."""
        inputs = {'poisoned': 'poisoned', 'classifier': classifier, 'picked': f'open_{name}'}
        if self.choice == 'agreeing':
            look = Step(name, 'measure', inputs | {'prior': 'prior'}, {'name': 'candidates', **self._chain()})
        else:
            look = Step(name, 'measure', inputs, {'name': 'predictions', 'loss': 'ce'})
        tables = {'poisoned': 'poisoned', 'edits': edits, 'candidates': 'candidates', 'measured': name}
        return (
            Step(f'open_{name}', 'decide', {'poisoned': 'poisoned', 'edits': edits}, {'name': 'left_out'}),
            look,
            Step(verdicts, 'decide', tables, {'name': 'true_labels', 'agreement': agreement, **self._choice()}),
        )

    def _remake(self, name: str, picked: str) -> Step:
        """The images that a table's rows become."""
        inputs = {'poisoned': 'poisoned', 'prior': 'prior', 'picked': picked}
        return Step(name, 'purify', inputs, {'name': 'remade', **self._chain()})

    def _chain(self) -> dict[str, Any]:
        names = ('rounds', 'start', 'steps', 'window', 'kept', 'sampler', 'forward', 'state', 'dtype')
        return {name: getattr(self, name) for name in names}

    def _choice(self) -> dict[str, Any]:
        return {'rank': self.rank, 'count_raw': self.count_raw, 'choice': self.choice}

    def _readings(self) -> dict[str, Any]:
        own = {'tau': self.tau, 'benign': self.benign, 'targets': self.targets, 'labels': self.labels}
        return own | self._choice()


def benign_recipe(student: dict[str, Any]) -> dict[str, Any]:
    """The student's part without its teacher: the benign model is trained as the student is, from where it starts."""
    objective = student['objective'] if student['objective']['name'] == 'classify' else {'name': 'classify', 'label_smoothing': 0.0}
    return student | {'objective': objective, 'load': ''}


def finetuning_recipe(benign: dict[str, Any], *, epochs_share: float, lr_share: float) -> dict[str, Any]:
    """The same for a share of the epochs (or steps) at a share of the learning rate, from the benign model's own weights."""
    length = {'epochs': epochs_share * benign['epochs']}
    length['steps'] = max(1, round(epochs_share * benign['steps'])) if benign['steps'] else 0
    return benign | length | {'optim': benign['optim'] | {'lr': lr_share * benign['optim']['lr']}, 'init_from': ''}
