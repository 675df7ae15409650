"""Made-up worlds for decision rules: what the measurements of a dataset might look like, without
training anything.

DataElixir's are labels of candidates (`label_world`), relabelling's are log densities of features
(`density_world`). Rates differ between classes and between images, as they do in datasets: classes
that are hard, images that nobody could tell.
"""

from dataclasses import dataclass

import numpy as np

from purify.data.table import Table
from purify.defenses.dataelixir.evidence import gather_evidence
from purify.defenses.dataelixir.label_changes import count_labels, sort_into_sets, vote
from purify.defenses.dataelixir.target_labels import describe_targets, make_target_rule
from purify.defenses.relabelling.verdicts import Relabel

CANDIDATES = 25  # five rounds, of which five states are kept


@dataclass(frozen=True)
class LabelWorld:
    """Given labels i32[n], the classifier's of the raw images i32[n], of candidates i32[n k], and
    who is poisoned bool[n].
    """

    labels: np.ndarray
    raw: np.ndarray
    candidates: np.ndarray
    poisoned: np.ndarray


def equal(classes, images):
    """So many classes of so many images."""
    return np.full(classes, images)


def long_tailed(classes, images, ratio=50):
    """Classes from `images` down to `images / ratio`, but not below 8, each smaller than the one
    before by the same factor.
    """
    return np.maximum(8, images * ratio ** (-np.arange(classes) / max(1, classes - 1))).astype(int)


def _logit_normal(rng, mean, spread, size):
    return 1 / (1 + np.exp(-(np.log(mean / (1 - mean)) + spread * rng.normal(size=size))))


def _drawn(rng, own, others, share, evenness, steadiness):
    """Candidates of images: the `own` label [m] in about the `share` [m] of them, else one of the
    favourites in `others` [m j].
    """
    share = np.clip(share, 1e-3, 1 - 1e-3)
    stays = (
        rng.random((len(own), CANDIDATES))
        < rng.beta(steadiness * share, steadiness * (1 - share))[:, None]
    )
    favours = rng.dirichlet(np.full(others.shape[1], evenness), len(own)).cumsum(1)
    choice = (rng.random((len(own), CANDIDATES, 1)) > favours[:, None, :-1]).sum(-1)
    return np.where(stays, own[:, None], np.take_along_axis(others, choice, 1))


def _poisoned(rng, true, poison, *, own=False):
    """(Labels with those of poison among them, which are poisoned bool[n]), of images of other
    classes or of the target's `own`.
    """
    labels, poisoned = true.copy(), np.zeros(len(true), bool)
    if poison == 'all_to_all':
        poisoned = rng.random(len(true)) < 1 / 11
        return np.where(poisoned, (true + 1) % (1 + int(true.max())), true), poisoned
    for target, count in (poison or {}).items():
        free = np.flatnonzero(((true == target) if own else (true != target)) & ~poisoned)
        chosen = rng.choice(free, count, replace=False)
        labels[chosen], poisoned[chosen] = target, True
    return labels, poisoned


def _confused(rng, true, labels, noise):
    """(Labels with wrong ones among them, which are wrong bool[n]), `noise` as of `label_world`."""
    classes, wrong = 1 + int(true.max()), np.zeros(len(true), bool)
    if noise and noise[1] == 'symmetric':
        wrong = rng.random(len(true)) < noise[0]
        labels = np.where(wrong, (true + rng.integers(1, classes, len(true))) % classes, labels)
    elif noise:
        wrong = (rng.random(len(true)) < noise[0]) & (true % 2 == 0) & (true + 1 < classes)
        labels = np.where(wrong, true + 1, labels)
    return labels, wrong


def label_world(
    rng,
    sizes,
    *,
    h=0.1,
    q=0.5,
    spread_h=0.6,
    spread_q=0.3,
    poison=None,
    e=0.05,
    blur=0.0,
    learned=0.98,
    noise=None,
    memorised=0.5,
):
    """A world of DataElixir.

    Args:
      rng: source of chance.
      sizes: clean images of each class [c].
      h: share of honest images that are anomalous, in the middle of the classes; `spread_h` is the
        deviation of its logarithm.
      q: share of an anomalous honest image's candidates that keep its label; `spread_q` the
        deviation of its logit.
      poison: {target: count} of images from other classes that are given the target; or
        'all_to_all', an eleventh of every class.
      e: share of a poisoned image's candidates that keep the target.
      blur: share of its other candidates that are not of its true class either.
      learned: share of the poisoned images that the classifier takes for the target.
      noise: (share, 'symmetric' or 'asymmetric'): wrong labels without a trigger; asymmetric: of
        every other class, to the next.
      memorised: share of wrong labels that the classifier repeats.
    """
    classes = len(sizes)
    true = np.repeat(np.arange(classes), sizes)
    labels, poisoned = _poisoned(rng, true, poison)
    labels, wrong = _confused(rng, true, labels, noise)
    honest = ~poisoned & ~wrong
    rates = np.minimum(0.6, h * np.exp(spread_h * rng.normal(size=classes)))
    odd = honest & (rng.random(len(true)) < rates[true])
    candidates = np.repeat(true[:, None], CANDIDATES, 1)
    stay = _logit_normal(rng, q, spread_q, classes)
    # what a class is taken for
    neighbours = np.array(
        [rng.permutation(np.delete(np.arange(classes), k))[:6] for k in range(classes)]
    )
    candidates[odd] = _drawn(rng, true[odd], neighbours[true[odd]], stay[true[odd]], 0.4, 2.0)
    moved = poisoned | wrong  # these go where they belong, but for the share e
    candidates[moved] = _drawn(
        rng, labels[moved], true[moved, None], np.full(moved.sum(), e), 1.0, 4.0
    )
    lost = moved[:, None] & (candidates != labels[:, None]) & (rng.random(candidates.shape) < blur)
    candidates = np.where(
        lost, _drawn(rng, true, neighbours[true], np.zeros(len(true)), 0.4, 2.0), candidates
    )
    raw = np.where(poisoned & (rng.random(len(true)) < learned), labels, true)
    raw = np.where(wrong & (rng.random(len(true)) < memorised), labels, raw)
    astray = odd & (rng.random(len(true)) < 0.15)
    raw = np.where(astray, candidates[:, 0], raw)
    return LabelWorld(
        labels.astype(np.int32), raw.astype(np.int32), candidates.astype(np.int32), poisoned
    )


@dataclass(frozen=True)
class DensityWorld:
    """Given labels i32[n], log densities f64[n c] of features under the densities of all classes,
    and who is poisoned bool[n].
    """

    labels: np.ndarray
    log_density: np.ndarray
    poisoned: np.ndarray


def density_world(
    rng,
    sizes,
    *,
    dimensions=16,
    apart=6.0,
    poison=None,
    kind='non-disruptive',
    odd=None,
    middle=None,
    wide=None,
    far=None,
    noise=None,
):
    """A world of relabelling: Gaussian classes, and a Gaussian fitted to the features of all images
    with a given label.

    Args:
      rng: source of chance.
      sizes: clean images of each class [c].
      dimensions: of the features.
      apart: how far classes lie from the middle of all, in their deviations.
      poison: {target: count}, or 'all_to_all', an eleventh of every class to the next.
      kind: 'non-disruptive' poison keeps the features of its true class; 'disruptive' lies in a
        place of its own.
      odd: {label: share} of its clean images that lie far from everything, each in another
        direction.
      middle: a label whose class lies in the midst of the others; `wide`: one of twice the width;
        `far`: of twice the distance.
      noise: (share, 'symmetric' or 'asymmetric'), as of `label_world`.
    """
    classes = len(sizes)
    true = np.repeat(np.arange(classes), sizes)
    centres = rng.normal(size=(classes, dimensions))
    centres *= (
        apart
        / np.linalg.norm(centres, axis=1, keepdims=True)
        * np.exp(0.15 * rng.normal(size=(classes, 1)))
    )
    widths = np.exp(0.15 * rng.normal(size=classes))
    if middle is not None:
        centres[middle] *= 0.2
    if wide is not None:
        widths[wide] = 2.0
    if far is not None:
        centres[far] *= 2.0
    features = centres[true] + widths[true, None] * rng.normal(size=(len(true), dimensions))
    for label, share in (odd or {}).items():
        which = np.flatnonzero((true == label) & (rng.random(len(true)) < share))
        away = rng.normal(size=(len(which), dimensions))
        features[which] = 4 * apart * away / np.linalg.norm(away, axis=1, keepdims=True)
    own = kind == 'disruptive'
    labels, poisoned = _poisoned(rng, true, poison, own=own)
    for target in (poison or {}) if own else ():
        chosen, place = poisoned & (labels == target), rng.normal(size=dimensions)
        near = 0.7 * rng.normal(size=(int(chosen.sum()), dimensions))
        features[chosen] = 3 * apart * place / np.linalg.norm(place) + near
    labels, _ = _confused(rng, true, labels, noise)
    log_density = np.stack(
        [_gaussian(features[labels == label], features) for label in range(classes)], 1
    )
    return DensityWorld(labels.astype(np.int32), log_density, poisoned)


def _gaussian(seen, features):
    """Log density f64[n] of a Gaussian fitted to `seen` [m d], a tenth drawn towards a sphere."""
    mean, dimensions = seen.mean(0), seen.shape[1]
    cov = np.atleast_2d(np.cov(seen, rowvar=False)) if len(seen) > 1 else np.eye(dimensions)
    cov = 0.9 * cov + 0.1 * np.trace(cov) / dimensions * np.eye(dimensions)
    factor = np.linalg.cholesky(cov + 1e-6 * np.eye(dimensions))
    white = np.linalg.solve(factor, (features - mean).T)
    return (
        -0.5 * (white**2).sum(0)
        - np.log(np.diag(factor)).sum()
        - dimensions / 2 * np.log(2 * np.pi)
    )


def classes_of(world):
    """How many classes there are, where some have no image."""
    return 1 + int(max(world.labels.max(), getattr(world, 'candidates', world.labels).max()))


def decide_labels(world, settings):
    """What DataElixir concludes from a world of labels by a rule for targets
    (`purify.defenses.dataelixir.target_labels`).
    """
    counts = count_labels(world.candidates, classes_of(world))
    votes = vote(world.candidates, counts, first=False)
    sets = sort_into_sets(counts, votes, world.labels, 0.1, majority=True)
    evidence = gather_evidence(world.labels, counts, votes, sets, world.raw, count_raw=False)
    return describe_targets(make_target_rule(settings), evidence)


def decide_densities(world, settings):
    """What relabelling concludes from a world of densities: its table of verdicts."""
    ids = np.arange(len(world.labels))
    table = Table({'ids': ids, 'log_density': world.log_density})
    return Relabel(**settings).decide(
        ids, world.labels, {'densities': table}, world.log_density.shape[1]
    )


def label_cases(sizes):
    """Name -> (arguments of `label_world`, targets) of datasets with clean classes so large."""
    total, classes = int(sizes.sum()), len(sizes)

    def aimed_at(targets, rate, **more):
        spare = total - int(sizes[list(targets)].sum())
        return {
            'poison': {t: max(2, int(rate * spare / len(targets))) for t in targets}
        } | more, set(targets)

    half, most = _half_and_most(classes)
    return {
        'clean': ({}, set()),
        'clean, many odd images': ({'h': 0.3, 'q': 0.3}, set()),
        '1 %': aimed_at([0], 0.01),
        '5 %': aimed_at([0], 0.05),
        '10 %': aimed_at([0], 0.1),
        '10 %, a fifth stays': aimed_at([0], 0.1, e=0.2, blur=0.3),
        '10 %, two targets': aimed_at([0, classes - 1] if classes > 3 else [0], 0.1),
        '10 %, half of the labels': aimed_at(half, 0.1),
        '20 %, most labels': (
            {'poison': dict.fromkeys(most, int(0.2 * total / len(most)))},
            set(most),
        ),
        'all-to-all': ({'poison': 'all_to_all'}, set()),
        'symmetric noise 10 %': ({'noise': (0.1, 'symmetric')}, set()),
        'asymmetric noise 10 %': ({'noise': (0.1, 'asymmetric')}, set()),
        'asymmetric noise 20 %': ({'noise': (0.2, 'asymmetric')}, set()),
    }


def _half_and_most(classes):
    """Half of the labels, and three quarters (rounded up), as targets."""
    return range(0, classes, 2) if classes % 2 == 0 else range(1, classes, 2), range(
        -(-3 * classes // 4)
    )


def density_cases(sizes):
    """Name -> (arguments of `density_world`, the targets)."""
    total, (half, most) = int(sizes.sum()), _half_and_most(len(sizes))
    other = total - int(sizes[0])
    odd = {'odd': {0: 0.08}}

    def aimed_at(targets, rate):
        return {'poison': dict.fromkeys(targets, max(2, int(rate * total / len(targets))))}, set(
            targets
        )

    return {
        'clean': ({}, set()),
        'a class in the midst': ({'middle': 0}, set()),
        'a wide class': ({'wide': 0}, set()),
        'a far class': ({'far': 0}, set()),
        'a class with 8 % odd images': (odd, set()),
        **{
            f'non-disruptive {100 * rate:.0f} %': ({'poison': {0: max(2, int(rate * other))}}, {0})
            for rate in (0.01, 0.05, 0.1)
        },
        'non-disruptive 10 %, two targets': aimed_at([0, 1], 0.1),
        'non-disruptive 10 %, half of the classes': aimed_at(half, 0.1),
        'non-disruptive 20 %, most classes': aimed_at(most, 0.2),
        'disruptive, half of a class': (
            {'poison': {0: int(sizes[0]) // 2}, 'kind': 'disruptive'},
            {0},
        ),
        'all-to-all': ({'poison': 'all_to_all'}, set()),
        'symmetric noise 10 %': ({'noise': (0.1, 'symmetric')}, set()),
        'asymmetric noise 10 %': ({'noise': (0.1, 'asymmetric')}, set()),
        'asymmetric noise 20 %': ({'noise': (0.2, 'asymmetric')}, set()),
    }
