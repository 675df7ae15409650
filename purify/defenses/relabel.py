"""Generative relabelling (Sabolić 2024): densities of each class's features find the poison, and its true labels."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from purify.core.errors import UserError
from purify.defenses.class_tests import Tail, far_outside, foreign_nll, make_disruption_rule, nondisruptive_scores, own_and_foreign
from purify.defenses.encoders import encoder_step
from purify.defenses.method import Method, Outcome, Step, Table
from purify.defenses.students import student_step

FEATURES = ('encoder', 'simclr', 'teacher')
UNTOUCHED, CLEAN, AMBIGUOUS, POISONED = range(4)  # verdicts
NON_DISRUPTIVE, DISRUPTIVE = 'non-disruptive', 'disruptive'


def check_tests(nondisruptive: float, disruptive: Mapping[str, Any], alpha: float, keep: float) -> None:
    """Raises `UserError` for numbers of `Relabel` that are out of range."""
    if not 0 < nondisruptive < np.inf:
        raise UserError(f'defense.nondisruptive={nondisruptive} must be above 0; clean classes score about 1.')
    if not 0 < alpha < 1 or not 0 < keep < 1 or alpha + keep > 1:
        raise UserError(f'defense.alpha={alpha} and keep={keep} must be shares of a target class, and together no more than 1.')
    make_disruption_rule(disruptive)


@dataclass(frozen=True)
class Relabelling:
    """Features without labels, a flow for each class, the classes that poison bends; then a student on the cleansed dataset.

    Attributes:
      features: 'simclr', of an `encoder` trained on the images without labels; 'teacher', of the poisoned classifier (the
        paper's ablation); 'encoder', of a finished one, such as CLIP.
      flows: of `purify.models.flow.CouplingFlow`, and `reduce`, to how many principal components features are brought.
      fit: of `purify.train.density.fit_flows`.
      nondisruptive: see `Relabel`, as the rest.
      encoder: of `purify.config.parts.simclr`; with features='simclr' only.
    """

    features: str
    flows: dict[str, Any]
    fit: dict[str, Any]
    nondisruptive: float
    disruptive: dict[str, Any]
    alpha: float
    keep: float
    encoder: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        if self.features not in FEATURES:
            raise UserError(f'defense.features={self.features!r}: choose from {", ".join(FEATURES)}.')
        if (self.features == 'simclr') != (self.encoder is not None):
            raise UserError(f"defense.encoder trains features='simclr' and no others; this is features={self.features!r}.")
        check_tests(self.nondisruptive, self.disruptive, self.alpha, self.keep)

    def method(self, student: dict[str, Any]) -> Method:
        """(Encoder ->) features -> densities -> verdicts -> purified -> student."""
        trained = (encoder_step(self.encoder),) if self.encoder is not None else ()
        source = 'teacher' if self.features == 'teacher' else 'encoder'
        tests = {name: getattr(self, name) for name in ('nondisruptive', 'disruptive', 'alpha', 'keep')}
        steps = (
            *trained,
            Step('features', 'measure', {'poisoned': 'poisoned', 'encoder': source}, {'name': 'embeddings'}),
            Step(
                'densities', 'densities', {'poisoned': 'poisoned', 'features': 'features'}, {'flows': self.flows, 'fit': self.fit}
            ),
            Step('verdicts', 'decide', {'poisoned': 'poisoned', 'densities': 'densities'}, {'name': 'relabel'} | tests),
            Step('purified', 'rewrite', {'poisoned': 'poisoned', 'edits': 'verdicts'}, {}),
            student_step(student, 'purified'),
        )
        outcome = Outcome(purified='purified', classifier='student', findings='verdicts', features='features')
        return Method(steps, outcome)


@dataclass(frozen=True)
class Relabel:
    """Target classes, and which of their images are clean, poisoned or neither (sections 4.4 to 4.6).

    A class whose density fits foreign images nearly as well as its own was fitted to some of them: non-disruptive poison. A class
    with images that no foreign density comes near has disruptive poison. The first test is made first; a class has one type.

    Attributes:
      nondisruptive: beta_ND; a class with a lower score (`nondisruptive_scores`) is a target.
      disruptive: a rule of `DISRUPTIONS`, `name` and its attributes, for the images that no foreign density comes near.
      alpha: share of a target class that is taken for poisoned.
      keep: share of it that is kept as clean, alpha too in the paper; the rest is dropped.
    """

    nondisruptive: float
    disruptive: dict[str, Any]
    alpha: float
    keep: float

    def __post_init__(self) -> None:
        check_tests(self.nondisruptive, self.disruptive, self.alpha, self.keep)

    def decide(self, ids: np.ndarray, labels: np.ndarray, tables: Mapping[str, Table], num_classes: int) -> Table:
        """See `Decision`; reads the table 'densities'.

        Columns: `score` f64[n], log s of eq. 6, or in a class divided by 'outside' the highest log density; `foreign` f64[n], log
        v of eq. 4; `best` i32[n], the foreign class of that; `verdict` u8[n], 0 class not suspected, 1 clean, 2 ambiguous and
        dropped, 3 poisoned; `poison_score` f64[n], higher is likelier poisoned, 0 outside the targets; `given` i32[n]. `flagged` is
        verdict 3: of non-disruptive poison the images with the lowest scores, relabelled as `best` (eq. 7, with the p of each class
        y'); of disruptive poison those with the highest `poison_score`, dropped.
        """
        del num_classes
        log_density = tables['densities'].of(ids, 'log_density').astype(np.float64)
        own, foreign, best = own_and_foreign(log_density, labels)
        score = own - foreign
        types, facts = self._suspect(log_density, labels, foreign)
        verdict, poison_score = np.zeros(len(ids), np.uint8), np.zeros(len(ids))
        new, keep = labels.astype(np.int32), np.ones(len(ids), np.bool_)
        for label, kind in types.items():
            rows = np.flatnonzero(labels == label)
            if kind == DISRUPTIVE and self.disruptive['score'] == 'outside':
                score[rows] = np.maximum(own, foreign)[rows]
            ratio = kind == DISRUPTIVE and self.disruptive['score'] == 'ratio'
            poison_score[rows] = score[rows] if ratio else -score[rows]
            order = rows[np.lexsort((ids[rows], poison_score[rows]))]  # cleanest first
            clean, poison = (max(1, int(share * len(rows))) for share in (self.keep, self.alpha))
            verdict[order] = AMBIGUOUS
            verdict[order[:clean]], verdict[order[-poison:]] = CLEAN, POISONED
            keep[order[clean:]] = False
            if kind == NON_DISRUPTIVE:
                new[order[-poison:]], keep[order[-poison:]] = best[order[-poison:]], True
        flagged = verdict == POISONED
        facts['counts'] = {
            'relabelled': int((flagged & keep).sum()),
            'dropped': int((~keep).sum()),
            'kept': int((verdict == CLEAN).sum()),
        }
        columns = {'ids': ids, 'flagged': flagged, 'keep': keep, 'labels': new, 'candidate': np.full(len(ids), -1, np.int32)}
        evidence = {'score': score, 'foreign': foreign, 'best': best, 'verdict': verdict, 'poison_score': poison_score}
        return Table(columns | evidence | {'given': labels.astype(np.int32)}, facts)

    def _suspect(self, log_density: np.ndarray, labels: np.ndarray, foreign: np.ndarray) -> tuple[dict[int, str], dict[str, Any]]:
        """The targets' types by label, and facts of all classes that have images."""
        scores, nll = nondisruptive_scores(log_density, labels), foreign_nll(log_density, labels)
        present = np.unique(labels)
        types = {int(label): NON_DISRUPTIVE for label in present if scores[label] < self.nondisruptive}
        tails = self._tails(foreign, labels)
        types |= {label: DISRUPTIVE for label, tail in tails.items() if tail.suspect and label not in types}
        rows = []
        for label in present.tolist():
            own, tail = foreign[labels == label], tails[label]
            found = {
                'nd': _number(float(scores[label])),
                'nll': _number(float(nll[label])),
                'disruptive': tail.share,
                'suspect': tail.suspect,
                'mu': _number(tail.place),
                'low': _number(float(own.min())),
                'high': _number(float(own.max())),
            }
            rows.append({'label': label, 'images': len(own)} | found | {'target': label in types, 'type': types.get(label, '')})
        thresholds = {
            'nondisruptive': self.nondisruptive,
            'disruptive': self.disruptive['share'],
            'alpha': self.alpha,
            'keep': self.keep,
        }
        facts = {'target_labels': sorted(types), 'types': {str(label): kind for label, kind in types.items()}, 'labels': rows}
        facts['rule'] = dict(self.disruptive)
        return types, facts | {'thresholds': thresholds, 'chart': {'quantity': 'nd', 'threshold': self.nondisruptive}}

    def _tails(self, foreign: np.ndarray, labels: np.ndarray) -> dict[int, Tail]:
        """Of each class. Rows of the others that lie far outside their own class are left out: poison would hide poison."""
        rule, present = make_disruption_rule(self.disruptive), np.unique(labels).tolist()
        usual = ~far_outside(foreign, labels)
        return {label: rule.judge(foreign[labels == label], foreign[usual & (labels != label)], len(present)) for label in present}


def _number(value: float) -> float | None:
    """For JSON, which has no infinities."""
    return float(value) if np.isfinite(value) else None
