"""Decides what becomes of every image, by its candidates' labels (DataElixir, Zhou 2024)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

import numpy as np

from purify.core.limits import Chance, Limited, Portion, one_of
from purify.core.types import Facts, Settings
from purify.data.table import Table
from purify.defenses.dataelixir.evidence import gather_evidence
from purify.defenses.dataelixir.label_changes import (
    BENIGN,
    POISONED,
    SETS,
    SUSPICIOUS,
    choose_candidate,
    count_labels,
    sort_into_sets,
    transition_coefficient,
    vote,
)
from purify.defenses.dataelixir.target_labels import describe_targets, make_target_rule
from purify.defenses.method import Decision


@dataclass(frozen=True)
class Choice(Limited, place='defense.'):
    """Chooses which candidate becomes the purified image (section 3.5).

    Attributes:
      rank: the place among an image's candidates in order of growing distance (eq. 5), as a share;
        .8 in the paper.
      count_raw: whether the raw image counts as a candidate, as in the released code.
      choice: for images of S 'all' candidates, or the 'agreeing' ones that a classifier gives the
        new label, as in the released code. Images of B and P are left with the candidates of their
        vote (eq. 3): the choice is among these.
    """

    rank: Chance
    count_raw: bool
    choice: Annotated[str, one_of(('all', 'agreeing'))]

    def among(
        self, distance: np.ndarray, candidates: np.ndarray, labels: np.ndarray, sets: np.ndarray
    ) -> np.ndarray:
        """Chooses a candidate i32[m], or -1 for the raw image, for each of m images.

        By distances f[m k], labels of `candidates` i32[m k], new `labels` i32[m] and sets u8[m].
        """
        free = (sets == SUSPICIOUS) & (self.choice == 'all')
        allowed = free[:, None] | (candidates == labels[:, None])
        return choose_candidate(distance, allowed, self.rank, self.count_raw)


@dataclass(frozen=True)
class LabelTransition(Choice, Decision):
    """Sorts images into sets, finds target labels, and decides on images whose label is plain.

    Reads the table 'candidates'. Columns besides those that others act on: `set` u8 (`SETS`), `eta`
    i32, `given` i32, `raw` i32 (predicted for the raw image), `vote` i32. Images of P under a
    suspect label (a target, or one with wrong labels) get their vote and a candidate; those of S
    under one are not kept, for they are still to be labelled, but get a candidate too where its
    choice does not wait for the label. `pick`: the images to be made; `open`, where labels are
    still to come: those left out, at which a benign classifier looks next.

    Attributes:
      tau: of eq. 3, as a share of the candidates.
      benign: what candidates of a benign image agree with, the 'given' label (eq. 3) or the one
        'predicted' for it (the released code). 'given' also takes an image for suspicious whose
        vote holds no more than half of its candidates, and 'predicted' does not, as released; of
        labels as common 'given' votes for the last seen, 'predicted' for the first.
      targets: `TARGETS` and their attributes.
      labels: 'benign': a model trained without the doubtful images labels S; or 'vote': every image
        is given its vote, whatever its set and label (appendix F). No other classifier is asked
        then, so 'agreeing' candidates are those that the teacher gives the vote.
    """

    tau: Portion
    benign: Annotated[str, one_of(('given', 'predicted'))]
    targets: Settings
    labels: Annotated[str, one_of(('benign', 'vote'))]

    def __post_init__(self) -> None:
        super().__post_init__()
        make_target_rule(self.targets)

    def decide(
        self, ids: np.ndarray, labels: np.ndarray, tables: Mapping[str, Table], num_classes: int
    ) -> Table:
        """See `Decision`."""
        names = ('candidates', 'distance', 'raw')
        candidates, distance, raw = (tables['candidates'].of(ids, name) for name in names)
        given = self.benign == 'given'
        counts = count_labels(candidates, num_classes)
        votes = vote(candidates, counts, first=not given)
        sets = sort_into_sets(counts, votes, labels if given else raw, self.tau, majority=given)
        evidence = gather_evidence(labels, counts, votes, sets, raw, count_raw=self.count_raw)
        found = describe_targets(make_target_rule(self.targets), evidence)
        aimed_at = np.isin(labels, found['suspect_labels'])
        voted = self.labels == 'vote'
        plain = (votes != labels) if voted else aimed_at & (sets == POISONED)
        waits = voted or self.choice == 'agreeing'
        replaced = plain if waits else aimed_at & (sets != BENIGN)
        new = np.where(plain, votes, labels).astype(np.int32)
        candidate = np.where(replaced, self.among(distance, candidates, new, sets), -1)
        candidate = candidate.astype(np.int32)
        keep = voted | ~(aimed_at & (sets == SUSPICIOUS))
        columns = {'set': sets, 'eta': transition_coefficient(counts).astype(np.int32)}
        columns |= {'given': labels.astype(np.int32), 'raw': raw.astype(np.int32)}
        columns |= {'vote': votes, 'keep': keep} | ({} if voted else {'open': ~keep})
        sizes = dict(zip(SETS, np.bincount(sets, minlength=3).tolist(), strict=True))
        return _verdicts(ids, columns, new, candidate, candidate >= 0, found | {'sets': sizes})


@dataclass(frozen=True)
class TrueLabels(Choice, Decision):
    """Labels images that were left out, by a benign classifier (section 3.5, stages one and two).

    Tables 'edits' (what was decided before), 'candidates' (for distances) and 'measured', which
    looked at the images left out: by `Predictions`, or by `Candidates` with the benign classifier
    where the choice is among the 'agreeing' ones. The columns are those of `LabelTransition`;
    `pick`: the images to be made now.

    Attributes:
      agreement: only where the classifier's label is the vote too; the others stay left out, and
        are `open` to the next look.
      again: whether those labelled here are `open` too: the next look labels them anew, and chooses
        their candidates anew.
    """

    agreement: bool
    again: bool

    def decide(
        self, ids: np.ndarray, labels: np.ndarray, tables: Mapping[str, Table], num_classes: int
    ) -> Table:
        """See `Decision`."""
        edits, measured = tables['edits'], tables['measured']
        unasked = ('ids', 'pick', 'flagged')
        old = {key: edits.of(ids, key) for key in edits.columns if key not in unasked}
        rows = np.flatnonzero(old['open'])
        predicted = measured.of(ids[rows], 'raw' if self.choice == 'agreeing' else 'label')
        sure = (predicted == old['vote'][rows]) | (not self.agreement)
        settled, predicted = rows[sure], predicted[sure]
        if self.choice == 'agreeing':
            theirs = measured.of(ids[rows], 'candidates')[sure]
        else:
            theirs = tables['candidates'].of(ids, 'candidates')[settled]
        distance = tables['candidates'].of(ids, 'distance')[settled]
        new, candidate, keep = old['labels'].copy(), old['candidate'].copy(), old['keep'].copy()
        new[settled], keep[settled] = predicted, True
        candidate[settled] = self.among(distance, theirs, predicted, old['set'][settled])
        columns = {key: old[key] for key in ('set', 'eta', 'given', 'raw', 'vote')} | {'keep': keep}
        columns |= {'open': old['open'] if self.again else ~keep} if self.agreement else {}
        facts, pick = edits.facts | {'settled': len(settled)}, candidate >= 0
        pick &= candidate != old['candidate']
        return _verdicts(ids, columns, new, candidate, pick, facts)


def _verdicts(
    ids: np.ndarray,
    columns: dict[str, np.ndarray],
    labels: np.ndarray,
    candidate: np.ndarray,
    pick: np.ndarray,
    facts: Facts,
) -> Table:
    found = {'labels': labels, 'candidate': candidate, 'pick': pick}
    flagged = labels != columns['given']
    return Table({'ids': ids} | columns | found | {'flagged': flagged}, facts)
