"""Optimisers and learning-rate schedules from optax, by config."""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import jax
import optax
from optax.contrib import MuonDimensionNumbers, muon

from purify.core.errors import UserError
from purify.core.registry import Registry


def total_steps(epochs: float, steps: int, images: int, batch: int, least: int = 0) -> int:
    """Counts updates: `epochs` passes over `images`, or `steps`; exactly one of the two is not 0.

    A pass over fewer images than a batch is one update, on a batch in which they repeat. Epochs are
    `least` updates or more.
    """
    if bool(epochs) == bool(steps):
        raise UserError(
            f'train.epochs={epochs} and train.steps={steps}: give one of them, and 0 for the other.'
        )
    count = steps or max(round(epochs * max(images / batch, 1)), least)
    if count < 1:
        raise UserError(
            f'train.epochs={epochs} of {images} images in batches of {batch} is no step at all.'
        )
    return int(count)


def constant(lr: float, total: int) -> optax.Schedule:
    """The same rate throughout."""
    return optax.constant_schedule(lr)


def cosine(lr: float, total: int) -> optax.Schedule:
    """Half a cosine from `lr` to 0."""
    return optax.cosine_decay_schedule(lr, total)


def linear(lr: float, total: int) -> optax.Schedule:
    """A straight line from `lr` to 0; after a warm-up, a triangle."""
    return optax.linear_schedule(lr, 0.0, total)


def step(lr: float, total: int, *, drops: Sequence[float], factor: float) -> optax.Schedule:
    """`lr` times `factor` at each of `drops` (Struppek 2023: .1 at .3 and .5 of the run)."""
    # In a short run several may fall on one step.
    counts = Counter(round(share * total) for share in drops)
    scales = {at: factor**count for at, count in counts.items()}
    return optax.piecewise_constant_schedule(lr, scales)


LR_SCHEDULES: Registry[Callable[..., optax.Schedule]] = Registry(
    'learning-rate schedule', constant=constant, cosine=cosine, linear=linear, step=step
)


def _adam(
    rate: optax.ScalarOrSchedule, *, b1: float = 0.9, b2: float = 0.999
) -> optax.GradientTransformation:
    """Adam (Kingma & Ba 2015): `b1` and `b2` are the decay of the gradient's two averages."""
    return optax.adam(rate, b1, b2)


def _adamw(
    rate: optax.ScalarOrSchedule, *, b1: float = 0.9, b2: float = 0.999, weight_decay: float = 1e-4
) -> optax.GradientTransformation:
    """AdamW (Loshchilov & Hutter 2019): Adam, of `b1` and `b2`, with decoupled `weight_decay`."""
    return optax.adamw(rate, b1, b2, weight_decay=weight_decay)


def _sgd(
    rate: optax.ScalarOrSchedule,
    *,
    momentum: float = 0.9,
    nesterov: bool = False,
    weight_decay: float = 5e-4,
) -> optax.GradientTransformation:
    """SGD as PyTorch has it: `weight_decay` joins the gradient before `momentum`, or `nesterov`."""
    decay = optax.add_decayed_weights(weight_decay) if weight_decay else optax.identity()
    return optax.chain(decay, optax.sgd(rate, momentum, nesterov))


def _lars(
    rate: optax.ScalarOrSchedule,
    *,
    momentum: float = 0.9,
    weight_decay: float = 1e-6,
    trust_coefficient: float = 1e-3,
) -> optax.GradientTransformation:
    """LARS (You et al. 2017), as SimCLR trains: biases and norms neither decay nor are scaled."""
    own = {'trust_ratio_mask': _is_matrix, 'momentum': momentum}
    return optax.lars(rate, weight_decay, _is_matrix, trust_coefficient, **own)


def _muon(
    rate: optax.ScalarOrSchedule, *, momentum: float = 0.95, adam_share: float = 0.1
) -> optax.GradientTransformation:
    """Muon (Jordan 2024): the momentum of every kernel, made orthogonal.

    A kernel of a convolution is a matrix from all its taps and inputs to its outputs. One with more
    outputs than inputs learns faster by the root of their ratio. All else (biases, norms, tables)
    has Adam with Nesterov's momentum, at `adam_share` of the rate.
    """
    adam = lambda step: adam_share * (rate(step) if callable(rate) else rate)
    own = {'beta': momentum, 'adam_learning_rate': adam}
    return muon(rate, **own, muon_weight_dimension_numbers=_as_matrices)


def _as_matrices(params: optax.Params) -> Any:
    """How each kernel [... inputs outputs] is a matrix; None for all that is no kernel."""

    def describe(path: Any, x: jax.Array) -> MuonDimensionNumbers | None:
        if jax.tree_util.keystr(path[-1:], simple=True) != 'kernel':
            return None
        return MuonDimensionNumbers(tuple(range(x.ndim - 1)), x.ndim - 1)

    return jax.tree_util.tree_map_with_path(describe, params)


def _is_matrix(params: optax.Params) -> optax.Params:
    """Which arrays are a layer's own weights; biases and the scales of norms have one axis."""
    return jax.tree.map(lambda x: x.ndim > 1, params)


def make_lr_schedule(
    total: int,
    *,
    lr: float,
    schedule: str,
    warmup: float,
    drops: Sequence[float] = (),
    factor: float = 0.1,
) -> optax.Schedule:
    """Linear warm-up over the first `warmup` share of `total` steps, then the named schedule.

    Of n steps of warm-up number k (from 0) has the rate lr (k + 1) / (n + 1): the first one learns
    too.
    """
    if not lr > 0 or not 0 <= warmup < 1:
        raise UserError(
            f'optim.lr={lr} must be positive and optim.warmup={warmup} a share in [0, 1).'
        )
    first = round(warmup * total)
    options = {'drops': tuple(drops), 'factor': factor} if schedule == 'step' else {}
    rest = LR_SCHEDULES.make(schedule, lr, max(total - first, 1), **options)
    if not first:
        return rest
    return optax.join_schedules([optax.linear_schedule(lr / (first + 1), lr, first), rest], [first])


def make_optimizer(
    total: int,
    *,
    name: str,
    lr: float,
    schedule: str = 'cosine',
    warmup: float = 0.0,
    clip: float = 0.0,
    drops: Sequence[float] = (),
    factor: float = 0.1,
    **options: float,
) -> optax.GradientTransformation:
    """The optimiser for `total` steps.

    Args:
      total: steps of the whole run.
      name: 'adam', 'adamw', 'lars', 'muon' or 'sgd'.
      lr: peak learning rate.
      schedule: 'constant', 'cosine', 'linear' or 'step'.
      warmup: share of the run that warms up.
      clip: largest global gradient norm; 0 does not clip.
      drops: for 'step': shares of the run after its warm-up at which the rate falls.
      factor: for 'step': what it is multiplied by.
      **options: the optimiser's own (b1, b2, weight_decay, momentum, nesterov, trust_coefficient,
        adam_share).
    """
    limits = {'b1': (0, 1), 'b2': (0, 1), 'momentum': (0, 1), 'weight_decay': (0, 1e6)}
    for key, value in {'clip': clip, **options}.items():
        low, high = limits.get(key, (0, float('inf')))
        if not low <= value <= high or (key in ('b1', 'b2') and value == 1):
            raise UserError(f'optim.{key}={value} is out of range; choose {low} to {high}.')
    if schedule == 'step' and not drops:
        raise UserError(
            "optim.schedule='step' needs optim.drops, the shares of the run at which it falls."
        )
    rate = make_lr_schedule(
        total, lr=lr, schedule=schedule, warmup=warmup, drops=drops, factor=factor
    )
    optimizer = OPTIMIZERS.make(name, rate, **options)
    return optax.chain(optax.clip_by_global_norm(clip), optimizer) if clip else optimizer


OPTIMIZERS: Registry[Callable[..., optax.GradientTransformation]] = Registry(
    'optimizer',
    common=make_optimizer,
    hidden=('total', 'rate', 'drops', 'factor'),  # the last two are of the schedule 'step'
    adam=_adam,
    adamw=_adamw,
    lars=_lars,
    muon=_muon,
    sgd=_sgd,
)
