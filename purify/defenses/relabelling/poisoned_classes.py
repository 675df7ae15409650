"""Finds classes that poison bends, by densities of features (Sabolić 2024, section 4.4; NumPy)."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Protocol

import numpy as np
from scipy.stats import binom

from purify.core.errors import UserError
from purify.core.limits import Limited, NotNegative, Portion, Share, ShareOrZero, one_of, whole
from purify.core.registry import Registry
from purify.defenses.outliers import NORMAL_MAD, UNUSUAL_FEW, departure_p_values, excess

# By what the images of a class with disruptive poison are ranked. 'ratio' is eq. 6, of which the
# paper says that poison has the highest: its own class's density was fitted to it, no other was.
# 'outside' is how unlikely an image is under all densities, its own class's too, which the paper
# says it looks for.
Score = Annotated[str, one_of(('outside', 'ratio'))]
FAR = 10.0  # so far out hardly any image of a clean class lies
UPPER, TINY = 0.55, 1e-9


def own_and_foreign(
    log_density: np.ndarray, labels: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Log densities f64[n] of images under their own class and the best foreign one, and its class.

    By log densities f64[n c] and given labels i32[n]. The second is log v of eq. 4, the third
    i32[n]; -inf and -1 where there is no other class. A class without a density has -inf
    throughout.
    """
    rows = np.arange(len(labels))
    foreign = log_density.copy()
    foreign[rows, labels] = -np.inf
    highest = foreign.max(1, initial=-np.inf)
    best = np.where(np.isfinite(highest), foreign.argmax(1), -1).astype(np.int32)
    return log_density[rows, labels], highest, best


def foreign_nll(log_density: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The mean negative log-likelihood f64[c] of all images of other classes, in nats (eq. 3)."""
    sums = [-log_density[labels != label, label] for label in range(log_density.shape[1])]
    return np.array([values.mean() if len(values) else np.nan for values in sums])


def nondisruptive_scores(log_density: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Scores how little each class's density fits other classes' images (low is suspect).

    S_ND f64[c]; 1 is usual, inf unknown. Eq. 3 counts nats, which depend on the dimensions of the
    features and on their units, and in many dimensions on how wide a class is; the paper's
    threshold .6 cannot be meant for them. Here the mean negative log-likelihood of the same foreign
    images under their own classes is subtracted, which leaves the mean divergence of the other
    classes from this one, and that is divided by its upper median over the classes. A density that
    was fitted to images of all classes diverges little from any. Up to half of the classes may be
    poisoned; with two classes, one. A clean class in the midst of the others scores lower than
    they.
    """
    own = log_density[np.arange(len(labels)), labels]
    others = (labels != label for label in range(log_density.shape[1]))
    theirs = [own[rows].mean() if rows.any() else np.nan for rows in others]
    present = np.isin(np.arange(log_density.shape[1]), labels)
    apart = foreign_nll(log_density, labels) + np.array(theirs)
    scores = np.where(present & np.isfinite(apart), apart, np.inf)
    known = np.isfinite(scores)
    middle = np.sort(scores[known])[known.sum() // 2] if known.any() else 0.0
    return np.where(known, scores / middle, np.inf) if middle > 0 else np.full(len(scores), np.inf)


def standings(foreign: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Measures how far each image lies above what is usual in its class, f64[n].

    Foreign log densities f64[n] less the `UPPER` quantile of their class, in units of how far those
    above it lie above it on average. Nearly half of a class may be poison that lies below.
    """
    out = np.zeros(len(foreign))
    for label in np.unique(labels).tolist():
        own = foreign[labels == label]
        start = float(np.quantile(own, UPPER))
        out[labels == label] = (own - start) / max(float(own[own >= start].mean()) - start, TINY)
    return out


def far_outside(foreign: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Which images lie `FAR` deviations below their class's median foreign log density, bool[n].

    The deviation is 1.4826 times the median, over all images, of how far one lies from the median
    of its class.
    """
    middles = np.zeros(len(foreign))
    for label in np.unique(labels):
        middles[labels == label] = np.median(foreign[labels == label])
    below = middles - foreign
    return below > FAR * NORMAL_MAD * (np.median(np.abs(below)) if len(below) else 0.0)


@dataclass(frozen=True)
class Strangers(Limited, place='defense.strangers.'):
    """Finds classes with unusually many images more like another class: log s < 0 (eq. 6).

    Non-disruptive poison keeps the features of its true class. A clean class in the midst of the
    others, or a wide one, comes near to their images, and scores low by `nondisruptive_scores` too;
    its own images stay its own. So both are asked.

    Attributes:
      share: least excess of the share of such images over the other classes' lower median; 0 does
        not ask, as the paper.
      deviations: of the other classes, likewise (`purify.defenses.outliers.excess`).
      level: of a binomial test, for all classes of the dataset together (`departure_p_values`).
    """

    share: ShareOrZero = 0.03
    deviations: NotNegative = 5.0
    level: Share = 0.05

    def judge(
        self, strange: np.ndarray, labels: np.ndarray, num_classes: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Counts each class's look-alikes of other classes, and tests if chance explains them.

        Gives its excess f64[c] of `strange` images, enough beyond 1, and bool[c]: no chance.
        """
        images = np.bincount(labels, minlength=num_classes)
        counts = np.bincount(labels[strange], minlength=num_classes)
        present = images > 0
        shares = counts / np.maximum(images, 1)
        few = {'of_few': UNUSUAL_FEW, 'images': images}
        found = excess(shares, present, least=self.share, deviations=self.deviations, **few)
        return found, departure_p_values(images, counts) < self.level / max(1, present.sum())


@dataclass(frozen=True)
class Tail:
    """The images of a class that no other class's density explains.

    Attributes:
      place: mu, the foreign log density below which they lie, in nats; NaN where no place was
        found.
      share: S_D of eq. 5, of the class; 0 where no place was found.
      apart: the share that lies outside when the class is measured by its own upper part; the same
        where a rule does not ask.
      margin: how far the class has come to being suspect: 1 is enough.
      suspect: whether the rule takes them for disruptive poison.
    """

    place: float
    share: float
    apart: float
    margin: float
    suspect: bool


NO_TAIL = Tail(math.nan, 0.0, 0.0, 0.0, False)


class DisruptionRule(Protocol):
    """Says where the tail of a class begins, and whether it is poison."""

    name: ClassVar[str]
    share: float
    score: str

    def judge(self, foreign: np.ndarray, labels: np.ndarray) -> dict[int, Tail]:
        """The tail of every class, by highest foreign log densities f64[n] and labels i32[n]."""
        ...


@dataclass(frozen=True)
class Outlying(Limited, DisruptionRule, place='defense.disruptive.'):
    """The default: images that lie farther out than nearly all of the rest of the dataset does.

    mu is the `quantile` of the other classes' images, so a clean class has about that share below
    it. The paper's histogram asks for two hills, which a class of a hundred images does not show
    and has by chance; this asks how many lie outside, as the paper's introduction does. Up to
    `level`, for all classes together, clean classes are not taken for poisoned by chance (binomial
    test, exact, one-sided) where `share` is what they may have.

    A clean class that is wide, or lies apart from all others, has images outside too. So the same
    is asked of each class measured by its own upper part, which poison does not reach
    (`standings`): more than `apart` of it must lie outside there, at `level`. Where they are more
    than `most` of it, the class is taken to lie apart. With fewer than three classes there is
    nothing to compare with.

    Attributes:
      share: beta_D, the least share of a class that is poison.
      most: the greatest share of a class that is poison.
      quantile: mu is this quantile of the other classes' foreign densities.
      apart: the share of a class, measured by its upper part, that a clean one may have outside.
      level: of the binomial tests, for all classes of the dataset together.
      score: what ranks the images of the class: 'outside', how unlikely under all flows, or
        'ratio', eq. 6.
    """

    share: Share = 0.05
    most: Portion = 0.75
    quantile: Share = 0.01
    apart: Share = 0.03
    level: Share = 0.05
    score: Score = 'outside'

    name: ClassVar[str] = 'outlying'

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.quantile <= self.share < self.most:
            raise UserError(
                f'defense.disruptive: quantile={self.quantile} must be at most share={self.share},'
                f' and that below most={self.most}.'
            )

    def judge(self, foreign: np.ndarray, labels: np.ndarray) -> dict[int, Tail]:
        """See `DisruptionRule`.

        Images far outside their own class are left out of the others': poison would hide poison.
        """
        present = np.unique(labels).tolist()
        if len(present) < 3:
            return dict.fromkeys(present, NO_TAIL)
        standing, found = standings(foreign, labels), {}
        usual, usual_standing = (~far_outside(values, labels) for values in (foreign, standing))
        for label in present:
            own = labels == label
            images = int(own.sum())
            place, below = _below(foreign, own, usual, self.quantile)
            _, apart = _below(standing, own, usual_standing, self.quantile)
            least = float(binom.isf(self.level / len(present), images, self.share) + 1)
            least_apart = float(binom.isf(self.level, images, self.apart) + 1)
            share = below / images
            wide = self.most / share if share > self.most else np.inf
            margin = min(below / least, apart / least_apart, wide)
            found[label] = Tail(place, share, apart / images, margin, margin >= 1)
        return found


def _below(
    values: np.ndarray, own: np.ndarray, usual: np.ndarray, quantile: float
) -> tuple[float, int]:
    """The `quantile` of the other classes' `usual` values f64[n], and how many of `own` lie below.

    Those far outside their own class are no usual ones: poison would hide poison.
    """
    others = values[usual & ~own]
    place = float(np.quantile(others, quantile)) if len(others) else -np.inf
    return place, int((values[own] < place).sum())


@dataclass(frozen=True)
class Valley(Limited, DisruptionRule, place='defense.disruptive.'):
    """The paper's rule: images left of the minimum of their class's histogram, if beyond `share`.

    Its histogram is of densities, which in hundreds of dimensions all fall into one bin: logarithms
    are counted here, and 0 and 1 of `limit` are the class's lowest and highest. mu is the centre of
    the lowest bin left of it; of equal ones the right-most, and there are images on its left. In
    small classes bins are empty by chance, and the rule finds poison where there is none.

    Attributes:
      share: beta_D. (The paper says "less" than it once, and calls it the least share of poisoned
        images.)
      limit: lambda.
      bins: of equal widths.
      score: see `Score`.
    """

    share: ShareOrZero = 0.05
    limit: Share = 0.75
    bins: Annotated[int, whole(3)] = 30
    score: Score = 'ratio'

    name: ClassVar[str] = 'valley'

    def judge(self, foreign: np.ndarray, labels: np.ndarray) -> dict[int, Tail]:
        """See `DisruptionRule`."""
        return {label: self._look(foreign[labels == label]) for label in np.unique(labels).tolist()}

    def _look(self, own: np.ndarray) -> Tail:
        low, high = own.min(), own.max()
        if not high > low:
            return NO_TAIL
        counts, edges = np.histogram(own, self.bins, (low, high))
        centres, limit = (edges[:-1] + edges[1:]) / 2, low + self.limit * (high - low)
        left = [number for number in range(1, self.bins) if centres[number] < limit]
        if not left:
            return NO_TAIL
        place = float(centres[min(left, key=lambda number: (counts[number], -number))])
        share = float((own < place).mean())
        margin = share / self.share if self.share else np.inf
        return Tail(place, share, share, margin, share > self.share)


DISRUPTIONS: Registry[Callable[..., DisruptionRule]] = Registry(
    'rule for disruptive poison', outlying=Outlying, valley=Valley
)


def make_disruption_rule(settings: Mapping[str, Any]) -> DisruptionRule:
    """Makes the rule that settings such as `{'name': 'outlying', ...}` describe."""
    options = dict(settings)
    return DISRUPTIONS.make(options.pop('name', ''), **options)
