"""Driving class centres apart, after which poisoned images betray themselves (Chen et al. 2022)."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import nnx

from purify.core.limits import Limited, NotNegative
from purify.core.types import Tree
from purify.train.objectives.contrast import unit
from purify.train.objectives.tasks import Batch, Key, Result, Task, cross_entropy, hits, unit_images
from purify.train.state import split_network


def centre_similarity(features: jax.Array, labels: jax.Array, classes: int) -> jax.Array:
    """Mean cosine f32[] between the mean features of two classes; 0 if a batch has one class only.

    Classes that the batch lacks are left out. The authors' code also counts the diagonal, as zeros:
    theirs is ours times (k - 1) / k for k classes.

    Args:
      features: f32[b d].
      labels: i32[b].
      classes: how many there are.
    """
    members = jax.nn.one_hot(labels, classes)
    counts = members.sum(0)
    sums = jnp.matmul(members.T, features.astype(jnp.float32), precision='highest')
    points = unit(sums / jnp.maximum(counts, 1)[:, None])
    there = counts > 0
    pairs = there[:, None] & there[None] & ~jnp.eye(classes, dtype=bool)
    closeness = jnp.matmul(points, points.T, precision='highest')
    return jnp.where(pairs, closeness, 0).sum() / jnp.maximum(pairs.sum(), 1)


@dataclass(frozen=True, eq=False)
class Spread(Limited, Task, place='spread: '):
    """L_intra of Chen et al. 2022 (section 3.2): lowers the cosine between class centres.

    Centres are those of a pass through the network, so a batch worked through in pieces has others.

    Attributes:
      weight: of the cross-entropy beside it; 0 in the paper.
    """

    graph: nnx.GraphDef
    weight: NotNegative
    ema_decay: float = 0.0
    frozen: Tree = ()

    def __call__(self, params: Tree, stats: Tree, frozen: Tree, batch: Batch, key: Key) -> Result:
        """See `Task`."""
        network = nnx.merge(self.graph, params, stats)
        features = network.features(unit_images(batch), train=True, key=key)
        logits = network.head(features)
        closeness = centre_similarity(features, batch['label'], network.head.out_features)
        loss = closeness + self.weight * cross_entropy(logits, batch['label'])
        metrics = {'closeness': closeness, 'accuracy': hits(logits, batch['label'])}
        return loss, (split_network(network)[2], metrics)
