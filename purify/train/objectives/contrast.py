"""Features without labels: two views of an image lie close, others apart (Chen et al. 2020)."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from purify.core.errors import UserError
from purify.core.limits import Limited, Positive
from purify.core.randomness import id_keys
from purify.core.types import Tree
from purify.train.objectives.tasks import Batch, Key, Result, Task, unit_images
from purify.train.state import split_network

LEAST_SQUARE = 1e-12  # of a point's length; under it, its gradient would be without bounds


class Projected(nnx.Module):
    """A classifier's network with an MLP on its features in place of its head."""

    def __init__(self, network: Any, outputs: int, *, rngs: nnx.Rngs):
        if outputs < 1:
            raise UserError(f'projection={outputs} must be 1 or more.')
        width = network.head.in_features
        self.network = network
        self.hidden = nnx.Linear(width, width, rngs=rngs)
        self.out = nnx.Linear(width, outputs, rngs=rngs)

    def __call__(self, images: jax.Array, *, train: bool, key: Key | None = None) -> jax.Array:
        """Projects `images: f32[b h w c] in [0, 1]` to points `f32[b outputs]`, of any length."""
        features = self.network.features(images, train=train, key=key)
        return self.out(jax.nn.relu(self.hidden(features)))


def unit(points: jax.Array) -> jax.Array:
    """Scales points f32[b d] to length 1.

    A point of length 0 has no direction: it stays at 0, and no gradient pulls at it.
    """
    square = jnp.square(points).sum(-1, keepdims=True)
    long = square > LEAST_SQUARE
    scale = jax.lax.rsqrt(jnp.where(long, square, 1))
    return points * jnp.where(long, scale, 0)


def nt_xent(first: jax.Array, second: jax.Array, temperature: float) -> tuple[jax.Array, jax.Array]:
    """NT-Xent (Chen et al. 2020, eq. 1), in nats, and the share of anchors that find their partner.

    Every view of the batch is an anchor: its partner is to be told by its cosine / temperature from
    the 2 b - 2 views of other images. (DBD's code has the first views alone as anchors.) Rows
    spread over devices are one batch all the same.

    Args:
      first: f32[b d], one view of each image.
      second: f32[b d], the other.
      temperature: above 0.

    Returns:
      The mean over the 2 b anchors, and the share of anchors whose partner is nearer than all
      others.
    """
    # [b 2 d]: partners side by side, on one device
    pairs = jnp.stack([unit(first), unit(second)], 1)
    points = pairs.reshape(-1, pairs.shape[-1])
    # the one place where devices talk
    closeness = jnp.matmul(points, points.T, precision='highest') / temperature
    partner = (pairs * pairs[:, ::-1]).sum(-1).reshape(-1) / temperature
    number = jnp.arange(len(points))
    others = jnp.where(number[:, None] == number[None], -jnp.inf, closeness)
    rivals = jnp.where(number[:, None] == number[None] ^ 1, -jnp.inf, others)
    return (jax.nn.logsumexp(others, axis=1) - partner).mean(), (partner > rivals.max(1)).mean()


@dataclass(frozen=True, eq=False)
class Contrast(Limited, Task, place='contrast: '):
    """NT-Xent between two random views of every image; labels are not looked at.

    `graph` is of a `Projected`; `views(images, key[b])` makes one of each, such as
    `purify.train.views.Views`. Statistics of batch norm are of both views together. Negatives are
    all images of a pass through the network, so a batch worked through in pieces has fewer of them.
    """

    graph: nnx.GraphDef
    views: Callable[[jax.Array, jax.Array], jax.Array]
    temperature: Positive
    ema_decay: float = 0.0
    frozen: Tree = ()

    def __call__(self, params: Tree, stats: Tree, frozen: Tree, batch: Batch, key: Key) -> Result:
        """See `Task`."""
        images, keys = unit_images(batch), id_keys(key, batch['id'])
        pair = [
            self.views(images, jax.vmap(jax.random.fold_in, (0, None))(keys, number))
            for number in (0, 1)
        ]
        # side by side: no row leaves its device
        both = jnp.stack(pair, 1).reshape(-1, *images.shape[1:])
        network = nnx.merge(self.graph, params, stats)
        points = network(both, train=True, key=key).reshape(len(images), 2, -1)
        loss, wins = nt_xent(points[:, 0], points[:, 1], self.temperature)
        return loss, (split_network(network)[2], {'agreement': wins})
