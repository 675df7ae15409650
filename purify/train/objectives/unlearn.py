"""Objectives of anti-backdoor learning, which hold losses up (Li et al. 2021, arXiv:2110.11571)."""

from dataclasses import dataclass
from typing import Annotated

import jax
import jax.numpy as jnp
from flax import nnx

from purify.core.limits import Limited, NotNegative, one_of
from purify.core.types import Tree
from purify.train.objectives.losses import cross_entropies
from purify.train.objectives.tasks import Batch, Key, Metrics, Result, Task, hits, unit_images
from purify.train.state import split_network


def local_ascent(losses: jax.Array, gamma: float) -> jax.Array:
    """Mean of sign(l - gamma) l over losses f32[b] (eq. 2): samples below gamma climb back to it.

    Per sample, as the paper writes it; its code takes the sign of the batch's mean.
    """
    return (jnp.sign(losses - gamma) * losses).mean()


def flooding(losses: jax.Array, gamma: float) -> jax.Array:
    """|L - gamma| + gamma of the mean L of losses f32[b] (Ishida et al. 2020, eq. 2)."""
    return jnp.abs(losses.mean() - gamma) + gamma


HELD = {'local_ascent': local_ascent, 'flooding': flooding}


@dataclass(frozen=True, eq=False)
class HoldUp(Limited, Task, place='objective.'):
    """Keeps the loss near `gamma`, so that only easily learned (poisoned) images fall below.

    Attributes:
      rule: which of `HELD`.
      gamma: the level, in nats.
    """

    graph: nnx.GraphDef
    rule: Annotated[str, one_of(HELD)]
    gamma: NotNegative
    ema_decay: float = 0.0
    frozen: Tree = ()

    def __call__(self, params: Tree, stats: Tree, frozen: Tree, batch: Batch, key: Key) -> Result:
        """See `Task`."""
        losses, new, metrics = _losses(self.graph, params, stats, batch, key)
        return HELD[self.rule](losses, self.gamma), (new, metrics)


@dataclass(frozen=True, eq=False)
class Unlearn(Task):
    """Minus the cross-entropy (eq. 3, second term): gradient ascent on samples to be forgotten."""

    graph: nnx.GraphDef
    ema_decay: float = 0.0
    frozen: Tree = ()

    def __call__(self, params: Tree, stats: Tree, frozen: Tree, batch: Batch, key: Key) -> Result:
        """See `Task`."""
        losses, new, metrics = _losses(self.graph, params, stats, batch, key)
        return -losses.mean(), (new, metrics)


def _losses(
    graph: nnx.GraphDef, params: Tree, stats: Tree, batch: Batch, key: jax.Array
) -> tuple[jax.Array, Tree, Metrics]:
    """Cross-entropies f32[b], the network's new statistics, metrics."""
    network = nnx.merge(graph, params, stats)
    logits = network(unit_images(batch), train=True, key=key)
    losses = cross_entropies(logits, batch['label'])
    metrics = {'accuracy': hits(logits, batch['label']), 'cross_entropy': losses.mean()}
    return losses, split_network(network)[2], metrics
