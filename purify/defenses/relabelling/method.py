"""Generative relabelling: class densities find poison and its true labels (Sabolić 2024)."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Annotated, ClassVar

import numpy as np

from purify.core.errors import UserError
from purify.core.limits import Limited, Positive, Share, ShareOrZero, one_of
from purify.core.types import Facts, Settings
from purify.data.table import Table
from purify.defenses.measures import Embeddings
from purify.defenses.method import Decision, Defense, Method, Outcome, Step
from purify.defenses.needs import Needs, Presets
from purify.defenses.outliers import ONE_WAY, one_way
from purify.defenses.relabelling.poisoned_classes import (
    DISRUPTIONS,
    Strangers,
    Tail,
    foreign_nll,
    make_disruption_rule,
    nondisruptive_scores,
    own_and_foreign,
)
from purify.defenses.relabelling.strangers import judge_strangers
from purify.defenses.steps import encoder_step, simclr, student_step
from purify.models.classifiers.registry import NETWORKS
from purify.train.views import Views

FEATURES = ('encoder', 'simclr', 'teacher')
UNTOUCHED, CLEAN, AMBIGUOUS, POISONED = range(4)  # verdicts
NON_DISRUPTIVE, DISRUPTIVE, MISLABELLED = 'non-disruptive', 'disruptive', 'mislabelled'
EVERYWHERE = 0.08  # of most classes: then their densities reach everywhere


@dataclass(frozen=True)
class Relabelling(Limited, Defense, place='defense.'):
    """Fits a flow to each class's features, relabels or drops what bends them, trains a student.

    Attributes:
      features: 'simclr', of an `encoder` trained on the images without labels; 'teacher', of the
        poisoned classifier (the paper's ablation); 'encoder', of a finished one, such as CLIP.
      flows: of `purify.models.flow.CouplingFlow`, and `reduce`, to how many principal components
        features are brought.
      fit: of `purify.train.density.fit_flows`.
      nondisruptive: see `Relabel`, as the rest.
      encoder: of `purify.generative.clip_encoder.Simclr`; with features='simclr' only.
    """

    features: Annotated[str, one_of(FEATURES)] = 'simclr'
    flows: Settings = field(
        default_factory=lambda: {
            'couplings': 2,
            'hidden': 0,
            'transform': 'affine',
            'mixing': 'swap',
            'reduce': 0,
        }
    )
    fit: Settings = field(
        default_factory=lambda: {
            'epochs': 50.0,
            'batch': 16,
            'lr': 1e-3,
            'b1': 0.9,
            'b2': 0.99,
            'hold_out': 0.1,
            'members': 1,
        }
    )
    nondisruptive: float = 0.6
    strangers: Settings = field(default_factory=lambda: asdict(Strangers()))
    disruptive: Settings = field(default_factory=lambda: DISRUPTIONS.part('outlying'))
    alpha: float = 0.15
    keep: float = 0.15
    narrow: float = 0.15
    encoder: Settings | None = None

    needs: ClassVar[Needs] = Needs(dataset=True)
    presets: ClassVar[Presets] = {
        # views that a digit survives, flows in few dimensions; a class of 80 spares none to stop by
        'small': {
            'encoder': simclr(
                NETWORKS.part('resnet', width=16, norm='group'),
                epochs=60,
                lr=3e-3,
                batch=200,
                temperature=0.3,
                projection=64,
                views=Views(crop=(0.6, 1.0), flip=0.0, grey=0.0),
            ),
            'flows': {'reduce': 18},
            'fit': {'epochs': 60.0, 'hold_out': 0.0, 'members': 5},
            'keep': 0.35,  # .15 of 80 images leave too few of a class to learn it
        }
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.features == 'simclr') != (self.encoder is not None):
            raise UserError(
                "defense.encoder trains features='simclr' and no others; this is"
                f' features={self.features!r}.'
            )
        self._rule()

    def _rule(self) -> 'Relabel':
        return Relabel(**{field.name: getattr(self, field.name) for field in fields(Relabel)})

    def method(self, student: Settings) -> Method:
        """The steps: (encoder,) features, densities, verdicts, purified dataset, student."""
        trained = (encoder_step(self.encoder),) if self.encoder is not None else ()
        source = 'teacher' if self.features == 'teacher' else 'encoder'
        steps = (
            *trained,
            Step(
                'features', 'measure', {'poisoned': 'poisoned', 'encoder': source}, by=Embeddings()
            ),
            Step(
                'densities',
                'densities',
                {'poisoned': 'poisoned', 'features': 'features'},
                {'flows': self.flows, 'fit': self.fit},
            ),
            Step(
                'verdicts',
                'decide',
                {'poisoned': 'poisoned', 'densities': 'densities'},
                by=self._rule(),
            ),
            Step('purified', 'rewrite', {'poisoned': 'poisoned', 'edits': 'verdicts'}),
            student_step(student, 'purified'),
        )
        outcome = Outcome(
            purified='purified', classifier='student', findings='verdicts', features='features'
        )
        return Method(steps, outcome)


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
      narrow: share of a target class; 0 treats all alike, as the paper does.
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
        types, facts, tails = self._suspect(
            log_density, labels, foreign, strange, best, num_classes
        )
        sizes = np.bincount(labels, minlength=num_classes)
        verdict, poison_score = np.zeros(len(ids), np.uint8), np.zeros(len(ids))
        new, keep, margins = (
            labels.astype(np.int32),
            np.ones(len(ids), np.bool_),
            {row['label']: row for row in facts['labels']},
        )
        for label, kind in types.items():
            rows = np.flatnonzero(labels == label)
            looks = foreign < tails[label].place if kind == DISRUPTIVE else strange
            if kind == DISRUPTIVE and self.disruptive['score'] == 'outside':
                score[rows] = np.maximum(own, foreign)[rows]
            ratio = kind == DISRUPTIVE and self.disruptive['score'] == 'ratio'
            poison_score[rows] = score[rows] if ratio else -score[rows]
            apart = tails[label].apart if kind == DISRUPTIVE else looks[rows].mean()
            usual = (
                int(np.median(np.delete(sizes, label)[np.delete(sizes, label) > 0]))
                if (sizes > 0).sum() > 1
                else len(rows)
            )
            verdict[rows] = self._divide(
                poison_score[rows],
                looks[rows],
                ids[rows],
                kind == MISLABELLED or apart < self.narrow,
                usual,
            )
            keep[rows] = verdict[rows] == CLEAN
            moved = rows[(verdict[rows] == POISONED) & strange[rows] & (kind != DISRUPTIVE)]
            new[moved], keep[moved] = best[moved], True
            margins[label] |= {
                'looks_poisoned': int(looks[rows].sum()),
                'kept': int((verdict[rows] == CLEAN).sum()),
            }
            margins[label] |= {'relabelled': len(moved), 'dropped': int((~keep[rows]).sum())}
        flagged = verdict == POISONED
        facts['counts'] = {
            'relabelled': int((flagged & keep).sum()),
            'dropped': int((~keep).sum()),
            'kept': int((verdict == CLEAN).sum()),
        }
        beyond, wrong = (
            any(row['strange'] for row in facts['labels']),
            len(types) - len(facts['target_labels']),
        )
        facts['verdict'] = judge_strangers(
            len(facts['target_labels']), wrong, own - foreign, best, labels, beyond
        )
        columns = {
            'ids': ids,
            'flagged': flagged,
            'keep': keep,
            'labels': new,
            'candidate': np.full(len(ids), -1, np.int32),
        }
        evidence = {
            'score': score,
            'foreign': foreign,
            'best': best,
            'verdict': verdict,
            'poison_score': poison_score,
        }
        return Table(columns | evidence | {'given': labels.astype(np.int32)}, facts)

    def _divide(
        self, poison_score: np.ndarray, looks: np.ndarray, ids: np.ndarray, narrow: bool, usual: int
    ) -> np.ndarray:
        """Verdicts u8[m] of a class's images, by scores f64[m], poisoned `looks` bool[m], ids.

        No more are kept than look clean, and no more than `keep` allows of a class that was as
        large as the others usually are: poison, which adds to a class, does not add to what is
        kept.
        """
        if narrow:
            return np.where(looks, POISONED, CLEAN).astype(np.uint8)
        clean, poison = (max(1, int(share * len(looks))) for share in (self.keep, self.alpha))
        clean = min(clean, int((~looks).sum()), max(1, usual))
        order = np.lexsort(
            (ids, poison_score, looks)
        )  # cleanest first, and those that look poisoned after all others
        verdict = np.full(len(looks), AMBIGUOUS, np.uint8)
        verdict[order[:clean]] = CLEAN
        verdict[np.lexsort((ids, poison_score))[-poison:]] = POISONED
        return verdict

    def _suspect(
        self,
        log_density: np.ndarray,
        labels: np.ndarray,
        foreign: np.ndarray,
        strange: np.ndarray,
        best: np.ndarray,
        num_classes: int,
    ) -> tuple[dict[int, str], Facts, dict[int, Tail]]:
        """The types of suspects by label, facts of all classes with images, and their tails."""
        scores, nll = nondisruptive_scores(log_density, labels), foreign_nll(log_density, labels)
        present, tails = (
            np.unique(labels).tolist(),
            make_disruption_rule(self.disruptive).judge(foreign, labels),
        )
        excess, beyond, alone = (
            np.full(num_classes, np.inf),
            np.ones(num_classes, np.bool_),
            np.zeros(num_classes),
        )
        if self.strangers['share']:
            excess, beyond = Strangers(**self.strangers).judge(strange, labels, num_classes)
            of_all = np.bincount(labels[strange], minlength=num_classes) / max(1, strange.sum())
            alone = np.minimum(
                2 * of_all, excess / 2
            )  # enough beyond 1: most of all strangers, and twice as many as are asked for
        low, lower = (limit / np.maximum(scores, 1e-9) for limit in (self.nondisruptive, 1.0))
        near = np.minimum(np.maximum(low, np.minimum(lower, alone)), excess)
        bent = (near > 1) & beyond
        types = {label: NON_DISRUPTIVE for label in present if bent[label]}
        confused = one_way(labels, strange, best, num_classes) > ONE_WAY
        crowded = (
            float(np.median([strange[labels == label].mean() for label in present])) / EVERYWHERE
        )
        if self.strangers['share']:
            types |= {label: MISLABELLED for label in types if confused[label]}
        if crowded <= 1:
            types |= {
                label: DISRUPTIVE
                for label, tail in tails.items()
                if tail.suspect and label not in types
            }
        rows = []
        for label in present:
            mine, tail = foreign[labels == label], tails[label]
            reached = min(max(near[label], 0.0), np.inf if beyond[label] else 1.0)
            found = {
                'nd': _number(float(scores[label])),
                'nll': _number(float(nll[label])),
                'strangers': float(strange[labels == label].mean()),
                'strange': bool(self.strangers['share'] and excess[label] > 1 and beyond[label]),
                'disruptive': tail.share,
                'margin': _number(
                    round(
                        max(float(reached), min(tail.margin, 1 / crowded if crowded else np.inf)), 4
                    )
                ),
                'suspect': tail.suspect,
                'mu': _number(tail.place),
                'low': _number(float(mine.min())),
                'high': _number(float(mine.max())),
            }
            target = types.get(label) in (NON_DISRUPTIVE, DISRUPTIVE)
            rows.append(
                {'label': label, 'images': len(mine)}
                | found
                | {'target': target, 'type': types.get(label, '')}
            )
        thresholds = {'nondisruptive': self.nondisruptive, 'disruptive': self.disruptive['share']}
        thresholds |= {'alpha': self.alpha, 'keep': self.keep, 'narrow': self.narrow}
        named = sorted(label for label, kind in types.items() if kind != MISLABELLED)
        facts = {
            'target_labels': named,
            'types': {str(label): kind for label, kind in types.items()},
            'labels': rows,
        }
        chart = {'quantity': 'nd', 'threshold': self.nondisruptive}
        return (
            types,
            facts | {'rule': dict(self.disruptive), 'thresholds': thresholds, 'chart': chart},
            tails,
        )


def _number(value: float) -> float | None:
    """For JSON, which has no infinities."""
    return float(value) if np.isfinite(value) else None
