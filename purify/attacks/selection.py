"""How many samples are poisoned, which, and which others cover for them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Annotated, Any

import numpy as np

from purify.attacks.attack import Scheme
from purify.core.errors import UserError
from purify.core.limits import Chance, Limited, one_of, whole

BASES = ('all', 'nontarget', 'target')


@dataclass(frozen=True)
class Rules(Limited):
    """Who may be poisoned, and how many are.

    Attributes:
      rate: share of `base` that is poisoned, over all triggers together.
      base: what the rate is a share of: 'all' samples, those 'nontarget', or those of the 'target'
        classes.
      include_target: whether samples of a target class may be poisoned too (all-to-one only).
      sources: the classes that poison is drawn from (source-specific attacks); empty for all.
      cover_rate: share of all samples that carry a trigger and keep their label.
      scheme: as in `Attack`. Under 'all_to_all' every class is poisoned, under 'clean_label' the
        target classes only.
      targets: the target class of each trigger.

    Raises:
      UserError: at construction, for values out of range and for rules that contradict each other.
    """

    rate: Chance
    base: Annotated[str, one_of(BASES)] = 'all'
    include_target: bool = False
    sources: tuple[int, ...] = ()
    cover_rate: Chance = 0.0
    scheme: Scheme = 'all_to_one'
    targets: tuple[int, ...] = (0,)

    def __post_init__(self) -> None:
        super().__post_init__()
        for source in self.sources:
            whole(0).check('sources', source)
        if self.scheme == 'all_to_all' and len(self.targets) > 1:
            raise UserError(
                f"'all_to_all' takes one trigger, not {len(self.targets)}: leave `more` empty."
            )
        if self.scheme == 'all_to_all' and self.base != 'all':
            raise UserError(
                f"scheme 'all_to_all' knows no target class: set base to 'all', not {self.base!r}."
            )
        if self.include_target and self.scheme != 'all_to_one':
            raise UserError(
                f"include_target is for scheme 'all_to_one', not {self.scheme!r}. Set it to False."
            )
        if self.scheme == 'clean_label' and self.sources:
            raise UserError(
                f"scheme 'clean_label' draws from the target: leave sources={self.sources} empty."
            )
        aimed = set(self.sources) <= set(self.targets)
        if self.sources and aimed and self.scheme == 'all_to_one':
            raise UserError(
                f'sources={self.sources} are targets: there is nothing to relabel. Choose others.'
            )

    def allows(self, labels: np.ndarray) -> np.ndarray:
        """Which samples may be poisoned: `labels: int[n]` -> bool[n]."""
        aimed = np.isin(labels, self.targets)
        if self.scheme == 'clean_label':
            return aimed
        allowed = np.isin(labels, self.sources) if self.sources else np.ones(len(labels), bool)
        return allowed if self.include_target or self.scheme == 'all_to_all' else allowed & ~aimed

    def covers(self, labels: np.ndarray) -> np.ndarray:
        """Which samples may cover: `labels: int[n]` -> bool[n].

        All classes, as in the authors' codes: a cover of the target class then looks as poison
        does. For source-specific attacks those that are neither source nor target, for clean-label
        ones (where it would be poison) not the target's.
        """
        apart = self.sources or self.scheme == 'clean_label'
        barred = (*self.sources, *self.targets) if apart else ()
        return ~np.isin(labels, barred)

    def succeeds_on(self, labels: np.ndarray, goals: np.ndarray) -> np.ndarray:
        """Which test images count for the success rate, by true labels and goals: bool[n]."""
        return (labels != goals) & (np.isin(labels, self.sources) if self.sources else True)


@dataclass(frozen=True)
class PoisonSettings(Rules):
    """The settings of the part `attack` that any attack has beside its own.

    Attributes:
      replicated_images: of so many images there are copies in the dataset, before anybody is
        poisoned.
      replicas: copies of each.
      poison_replicas: whether the copies are poisoned before other images are.
      poison_first: whether an image is poisoned before it is augmented; if not, the attacker
        poisons in his own loader.
      random_poisoning: whether he draws anew in every epoch who is poisoned.
      more: further triggers, name -> changed settings, such as another target; they share the rate.
    """

    replicated_images: int = 0
    replicas: int = 0
    poison_replicas: bool = False
    poison_first: bool = True
    random_poisoning: bool = False
    more: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


def poison_count(rules: Rules, labels: np.ndarray) -> int:
    """How many samples are poisoned: the rate times the size of its base, rounded half up.

    `labels: int[n]`. The rate counts as the decimal number it is written as, so .29 of 50 is 14.5
    and rounds to 15. Raises `UserError` for a rate that is not 0 but gives no sample, more samples
    than there are to draw from, and a target that is no class of the labels.
    """
    if rules.rate == 0:
        return 0
    labels = np.asarray(labels)
    for target in rules.targets if rules.scheme != 'all_to_all' else ():
        if not np.any(labels == target):
            classes = np.unique(labels)
            span = f'{classes[0]} to {classes[-1]}' if classes.size else 'none: it is empty'
            raise UserError(
                f'target={target} is not a class of this dataset (classes: {span}). Set target to'
                ' one of them.'
            )
    of_target = int(np.isin(labels, rules.targets).sum())
    sizes = {'all': labels.size, 'nontarget': labels.size - of_target, 'target': of_target}
    count = _share(rules.rate, sizes[rules.base])
    if not count:
        raise UserError(
            f'rate={rules.rate} of {sizes[rules.base]} samples (base {rules.base!r}) rounds to 0'
            ' poisoned samples. Raise the rate (one sample of'
            f" {labels.size} is {1 / labels.size:.3g}), or choose attack 'none' with rate 0."
        )
    pool = int(rules.allows(labels).sum())
    if count > pool:
        raise UserError(
            f'rate={rules.rate} of {sizes[rules.base]} samples (base {rules.base!r}) asks for'
            f' {count} poisoned samples, but only {pool} {_where(rules)}. Lower the'
            f' rate{_remedy(rules)}.'
        )
    return count


def _share(rate: float, size: int) -> int:
    return int(Fraction(repr(float(rate))) * size + Fraction(1, 2))


def _where(rules: Rules) -> str:
    targets = sorted(set(rules.targets))
    named = f'target class{"es" if len(targets) > 1 else ""} {", ".join(map(str, targets))}'
    if rules.scheme == 'clean_label':
        return f'lie in {named}'
    if rules.sources:
        return f'lie in the source classes {", ".join(map(str, rules.sources))}'
    everywhere = rules.include_target or rules.scheme == 'all_to_all'
    return 'lie in the dataset' if everywhere else f'lie outside {named}'


def _remedy(rules: Rules) -> str:
    if rules.scheme == 'clean_label':
        return ", or set base='target' for a share of the target class"
    wider = not (rules.include_target or rules.sources or rules.scheme == 'all_to_all')
    return ', or set include_target' if wider else ''


def choose_victims(
    rules: Rules, labels: np.ndarray, ids: np.ndarray, seed: int, first: np.ndarray | None = None
) -> list[np.ndarray]:
    """Draws the poisoned samples: for each trigger their ids i64[count], ascending, none twice.

    `labels: int[n]`, `ids: int[n]`; of samples whose id is in `first`, as many as possible are
    taken before any other. Triggers share the count equally, earlier ones take what is left over. A
    function of (seed, ids, labels): the order of the samples does not matter. With all else equal,
    those drawn at a lower rate are among those drawn at a higher one, so sweeps over the rate
    differ in nothing else. Counts and errors as in `poison_count`; also raises `UserError` for ids
    that repeat, and for a clean-label target whose class is too small for its share.
    """
    labels, ids = _check_pairs(labels, ids)
    count, triggers = poison_count(rules, labels), len(rules.targets)
    first = np.zeros(0, np.int64) if first is None else first
    if rules.scheme != 'clean_label':
        drawn = _permuted(ids[rules.allows(labels)], seed, first)[:count]
        return [np.sort(drawn[k::triggers]) for k in range(triggers)]
    taken: list[np.ndarray] = []
    for k, target in enumerate(rules.targets):
        pool = _permuted(ids[labels == target], seed, first)
        pool = pool[~np.isin(pool, np.concatenate(taken))] if taken else pool
        share = len(range(k, count, triggers))
        if share > len(pool):
            raise UserError(
                f'rate={rules.rate} asks for {share} poisoned samples of target class {target},'
                f" which has {len(pool)}. Lower the rate, or set base='target'."
            )
        taken.append(np.sort(pool[:share]))
    return taken


def choose_cover(
    rules: Rules, labels: np.ndarray, ids: np.ndarray, poisoned: np.ndarray, seed: int
) -> np.ndarray:
    """Draws `cover_rate` of all samples as covers, none of them poisoned: ascending ids i64[count].

    Raises `UserError` where there are not so many.
    """
    labels, ids = _check_pairs(labels, ids)
    count = _share(rules.cover_rate, ids.size)
    free = rules.covers(labels) & ~np.isin(ids, poisoned)
    if count > free.sum():
        raise UserError(
            f'cover_rate={rules.cover_rate} of {ids.size} samples asks for {count} cover samples,'
            f' but only {free.sum()} are left beside the poisoned ones. Lower cover_rate or rate.'
        )
    order = np.random.default_rng(seed).permutation(np.sort(ids))
    return np.sort(order[np.isin(order, ids[free])][:count]).astype(np.int64)


def choose_replicated(
    rules: Rules, labels: np.ndarray, ids: np.ndarray, images: int, seed: int
) -> np.ndarray:
    """Draws the samples that get copies, among those that may be poisoned: ids i64[images]."""
    labels, ids = _check_pairs(labels, ids)
    pool = ids[rules.allows(labels)]
    if images > len(pool):
        raise UserError(
            f'replicated_images={images}, but only {len(pool)} {_where(rules)}. Lower it.'
        )
    return np.sort(_permuted(pool, seed, np.zeros(0, np.int64))[:images])


def _permuted(pool: np.ndarray, seed: int, first: np.ndarray) -> np.ndarray:
    order = np.random.default_rng(seed).permutation(np.sort(pool)).astype(np.int64)
    early = np.isin(order, first)
    return np.concatenate([order[early], order[~early]])


def _check_pairs(labels: np.ndarray, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    labels, ids = np.asarray(labels), np.asarray(ids)
    if labels.shape != ids.shape or ids.ndim != 1:
        raise UserError(
            f'labels {labels.shape} and ids {ids.shape} must be two lists of the same length.'
        )
    values, counts = np.unique(ids, return_counts=True)
    if values.size < ids.size:
        raise UserError(
            f'id {values[counts > 1][0]} occurs more than once. Give every sample an id of its own.'
        )
    return labels, ids
