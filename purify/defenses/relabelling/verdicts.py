"""Decides which classes were poisoned, and what becomes of their images (Sabolić 2024)."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from purify.core.errors import UserError
from purify.core.limits import Limited, Positive, Share, ShareOrZero
from purify.core.types import Facts, Settings
from purify.data.table import Table
from purify.defenses.method import Decision
from purify.defenses.outliers import ONE_WAY, one_way
from purify.defenses.relabelling.poisoned_classes import (
    Strangers,
    Tail,
    foreign_nll,
    make_disruption_rule,
    nondisruptive_scores,
    own_and_foreign,
)
from purify.defenses.relabelling.strangers import judge_strangers

UNTOUCHED, CLEAN, AMBIGUOUS, POISONED = range(4)  # verdicts
NON_DISRUPTIVE, DISRUPTIVE, MISLABELLED = 'non-disruptive', 'disruptive', 'mislabelled'
EVERYWHERE = 0.08  # of most classes: then their densities reach everywhere


@dataclass(frozen=True)
class Relabel(Limited, Decision, place='defense.'):
    """Finds target classes and their clean, poisoned and ambiguous images (sections 4.4 to 4.6).

    A class whose density fits foreign images nearly as well as its own was fitted to some of them:
    non-disruptive poison. Where a class holds most of all strangers in the dataset, and twice as
    many as are asked for, it is enough that its density is nearer to foreign images than is usual
    (S_ND below 1). A class with images that no foreign density comes near has disruptive poison;
    this is not asked where most classes hold images of others, for then densities reach everywhere.
    The first test is made first; a class has one type.

    How much of a target class is touched follows from how many of its images look poisoned: of
    non-disruptive poison those that look more like another class (log s < 0), of disruptive poison
    those below mu. Where they are fewer than `narrow`, they alone are relabelled or dropped, and
    the rest stays: if the alarm is false, it costs little. Else the paper's shares `alpha` and
    `keep` hold, but no image that looks poisoned is kept, and none is relabelled that looks more
    like its own class: it is dropped.

    Attributes:
      nondisruptive: beta_ND; a class with a lower score (`nondisruptive_scores`) may be a target.
      strangers: of `purify.defenses.relabelling.poisoned_classes.Strangers`, which must agree;
        share 0 does not ask, as in the paper.
      disruptive: a rule of `DISRUPTIONS`, `name` and its attributes, for the images that no foreign
        density comes near.
      alpha: share of a target class that is taken for poisoned.
      keep: share of it that is kept as clean, alpha too in the paper; the rest is dropped.
      narrow: where less than this share of a target class looks poisoned, only those images are
        touched; 0 treats all alike, as the paper does.
    """

    nondisruptive: Positive
    strangers: Settings
    disruptive: Settings
    alpha: Share
    keep: Share
    narrow: ShareOrZero

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.alpha + self.keep > 1:
            raise UserError(
                f'defense.alpha={self.alpha} and keep={self.keep} of a target class are together'
                ' more than 1.'
            )
        if set(self.strangers) != {'share', 'deviations', 'level'}:
            raise UserError(
                f'defense.strangers={dict(self.strangers)}: give share, deviations and level;'
                ' share=0 does not ask for strangers.'
            )
        Strangers(**self.strangers)
        make_disruption_rule(self.disruptive)

    def decide(
        self, ids: np.ndarray, labels: np.ndarray, tables: Mapping[str, Table], num_classes: int
    ) -> Table:
        """See `Decision`; reads the table 'densities'.

        Columns: `score` f64[n], log s of eq. 6, or in a class divided by 'outside' the highest log
        density; `foreign` f64[n], log v of eq. 4; `best` i32[n], the foreign class of that;
        `verdict` u8[n], 0 class not suspected, 1 clean, 2 ambiguous and dropped, 3 poisoned;
        `poison_score` f64[n], higher is likelier poisoned, 0 outside the targets; `given` i32[n].
        `flagged` is verdict 3: of non-disruptive poison the images with the lowest scores,
        relabelled as `best` (eq. 7, with the p of each class y') where that is likelier than their
        own class; of disruptive poison those with the highest `poison_score`, dropped.
        """
        log_density = tables['densities'].of(ids, 'log_density').astype(np.float64)
        own, foreign, best = own_and_foreign(log_density, labels)
        score, strange = own - foreign, own < foreign
        types, facts, tails = self._suspect(log_density, labels)
        sizes = np.bincount(labels, minlength=num_classes)
        verdict, poison_score = np.zeros(len(ids), np.uint8), np.zeros(len(ids))
        new, keep = labels.astype(np.int32), np.ones(len(ids), np.bool_)
        margins = {row['label']: row for row in facts['labels']}
        for label, kind in types.items():
            rows, others = np.flatnonzero(labels == label), np.delete(sizes, label)
            looks, sign = strange[rows], -1
            apart = looks.mean()
            if kind == DISRUPTIVE:
                looks, apart = foreign[rows] < tails[label].place, tails[label].apart
                if self.disruptive['score'] == 'outside':
                    score[rows] = np.maximum(own, foreign)[rows]
                else:
                    sign = 1
            poison_score[rows] = sign * score[rows]
            usual = int(np.median(others[others > 0])) if others.any() else len(rows)
            narrow = kind == MISLABELLED or apart < self.narrow
            verdict[rows] = self._divide(poison_score[rows], looks, ids[rows], narrow, usual)
            keep[rows] = verdict[rows] == CLEAN
            moved = rows[(verdict[rows] == POISONED) & strange[rows] & (kind != DISRUPTIVE)]
            new[moved], keep[moved] = best[moved], True
            clean, gone = int((verdict[rows] == CLEAN).sum()), int((~keep[rows]).sum())
            fate = {'looks_poisoned': int(looks.sum()), 'kept': clean, 'relabelled': len(moved)}
            margins[label] |= fate | {'dropped': gone}
        flagged, named = verdict == POISONED, len(facts['target_labels'])
        relabelled, dropped = int((flagged & keep).sum()), int((~keep).sum())
        facts['counts'] = {'relabelled': relabelled, 'dropped': dropped}
        facts['counts'] |= {'kept': int((verdict == CLEAN).sum())}
        beyond, counts = any(row['strange'] for row in facts['labels']), (named, len(types) - named)
        facts['verdict'] = judge_strangers(counts, own - foreign, best, labels, beyond)
        columns = {'ids': ids, 'flagged': flagged, 'keep': keep, 'labels': new}
        columns |= {'candidate': np.full(len(ids), -1, np.int32), 'score': score}
        columns |= {'foreign': foreign, 'best': best, 'verdict': verdict}
        columns |= {'poison_score': poison_score, 'given': labels.astype(np.int32)}
        return Table(columns, facts)

    def _divide(
        self, poison_score: np.ndarray, looks: np.ndarray, ids: np.ndarray, narrow: bool, usual: int
    ) -> np.ndarray:
        """Verdicts u8[m] of a class's images, by scores f64[m], poisoned `looks` bool[m], ids.

        No more are kept than `keep` allows, than look clean, and than another class usually holds.
        """
        if narrow:
            return np.where(looks, POISONED, CLEAN).astype(np.uint8)
        clean, poison = (max(1, int(share * len(looks))) for share in (self.keep, self.alpha))
        clean = min(clean, int((~looks).sum()), max(1, usual))
        # Cleanest first, and those that look poisoned after all others.
        order = np.lexsort((ids, poison_score, looks))
        verdict = np.full(len(looks), AMBIGUOUS, np.uint8)
        verdict[order[:clean]] = CLEAN
        verdict[np.lexsort((ids, poison_score))[-poison:]] = POISONED
        return verdict

    def _suspect(
        self, log_density: np.ndarray, labels: np.ndarray
    ) -> tuple[dict[int, str], Facts, dict[int, Tail]]:
        """The types of suspects by label, facts of all classes with images, and their tails."""
        own, foreign, best = own_and_foreign(log_density, labels)
        strange = own < foreign
        scores, nll = nondisruptive_scores(log_density, labels), foreign_nll(log_density, labels)
        tails = make_disruption_rule(self.disruptive).judge(foreign, labels)
        near, excess, beyond = self._nearness(scores, strange, labels)
        asked, present = bool(self.strangers['share']), np.unique(labels).tolist()
        shares = {label: float(strange[labels == label].mean()) for label in present}
        crowded = float(np.median(list(shares.values()))) / EVERYWHERE
        confused = one_way(labels, strange, best, len(scores)) > ONE_WAY
        types = {label: NON_DISRUPTIVE for label in present if near[label] > 1 and beyond[label]}
        if asked:
            types |= {label: MISLABELLED for label in types if confused[label]}
        if crowded <= 1:
            bent = [label for label in present if tails[label].suspect and label not in types]
            types |= dict.fromkeys(bent, DISRUPTIVE)
        rows = []
        for label in present:
            mine, tail, kind = foreign[labels == label], tails[label], types.get(label, '')
            reached = min(max(near[label], 0.0), np.inf if beyond[label] else 1.0)
            outside = min(tail.margin, 1 / crowded if crowded else np.inf)
            rows.append(
                {
                    'label': label,
                    'images': len(mine),
                    'nd': _number(float(scores[label])),
                    'nll': _number(float(nll[label])),
                    'strangers': shares[label],
                    'strange': bool(asked and excess[label] > 1 and beyond[label]),
                    'disruptive': tail.share,
                    'margin': _number(round(float(max(reached, outside)), 4)),
                    'suspect': tail.suspect,
                    'mu': _number(tail.place),
                    'low': _number(float(mine.min())),
                    'high': _number(float(mine.max())),
                    'target': kind in (NON_DISRUPTIVE, DISRUPTIVE),
                    'type': kind,
                }
            )
        thresholds = {'nondisruptive': self.nondisruptive, 'disruptive': self.disruptive['share']}
        thresholds |= {'alpha': self.alpha, 'keep': self.keep, 'narrow': self.narrow}
        facts = {
            'target_labels': [row['label'] for row in rows if row['target']],
            'types': {str(label): kind for label, kind in types.items()},
            'labels': rows,
            'rule': dict(self.disruptive),
            'thresholds': thresholds,
            'chart': {'quantity': 'nd', 'threshold': self.nondisruptive},
        }
        return types, facts, tails

    def _nearness(
        self, scores: np.ndarray, strange: np.ndarray, labels: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """How near each class is to non-disruptive poison, beyond 1 enough; and its strangers.

        These are the excess f64[c] and whether it is no chance bool[c], see `Strangers.judge`.
        """
        count = len(scores)
        excess, beyond, alone = np.full(count, np.inf), np.ones(count, np.bool_), np.zeros(count)
        if self.strangers['share']:
            excess, beyond = Strangers(**self.strangers).judge(strange, labels, count)
            of_all = np.bincount(labels[strange], minlength=count) / max(1, strange.sum())
            # Enough beyond 1: most of all strangers, and twice as many as are asked for.
            alone = np.minimum(2 * of_all, excess / 2)
        low, lower = (limit / np.maximum(scores, 1e-9) for limit in (self.nondisruptive, 1.0))
        near = np.minimum(np.maximum(low, np.minimum(lower, alone)), excess)
        return near, excess, beyond


def _number(value: float) -> float | None:
    """For JSON, which has no infinities."""
    return float(value) if np.isfinite(value) else None
