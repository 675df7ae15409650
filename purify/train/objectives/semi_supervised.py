"""Training on labels that are partly believed: a head alone, the last layers, and MixMatch."""

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from purify.core.errors import UserError
from purify.core.limits import Chance, Limited, Natural, NotNegative, Positive
from purify.core.randomness import id_keys
from purify.core.types import Tree
from purify.data.augment import Flip, PadCrop, change_all
from purify.train.objectives.losses import check_symmetric, symmetric_cross_entropies
from purify.train.objectives.tasks import Batch, Key, Result, Task, cross_entropy, hits, unit_images
from purify.train.state import split_network


@dataclass(frozen=True, eq=False)
class FitHead(Task):
    """Symmetric cross-entropy of a head on a network that stays fixed (Huang 2022, section 4.3).

    The network is in evaluation mode: its running statistics stay too (in DBD's code they move).
    `head_only` keeps weight decay and momentum from moving the rest.

    Attributes:
      alpha: weight of the cross-entropy.
      beta: weight of the reverse cross-entropy.
    """

    graph: nnx.GraphDef
    alpha: float
    beta: float
    ema_decay: float = 0.0
    frozen: Tree = ()

    def __post_init__(self) -> None:
        check_symmetric("objective 'head'", self.alpha, self.beta)

    def __call__(self, params: Tree, stats: Tree, frozen: Tree, batch: Batch, key: Key) -> Result:
        """See `Task`."""
        network = nnx.merge(self.graph, params, stats)
        features = jax.lax.stop_gradient(network.features(unit_images(batch), train=False))
        logits = network.head(features)
        loss = symmetric_cross_entropies(logits, batch['label'], self.alpha, self.beta).mean()
        return loss, (stats, {'accuracy': hits(logits, batch['label'])})


def head_only(optimizer: optax.GradientTransformation) -> optax.GradientTransformation:
    """Restricts `optimizer` to the params' entry 'head'; all others stay."""
    parts: dict[Hashable, Any] = {'head': optimizer, 'rest': optax.set_to_zero()}
    part_of = lambda params: {name: 'head' if name == 'head' else 'rest' for name in params}
    return optax.multi_transform(parts, part_of)


@dataclass(frozen=True, eq=False)
class FitTail(Task):
    """Cross-entropy for the head and the last `groups` of layers only (Gao 2023, section 3.3).

    The network is in training mode: the running statistics of all groups move. No gradient reaches
    the others, which plain Adam or SGD therefore leaves as they are; weight decay would not.

    Attributes:
      groups: how many of `ClassifierNetwork.groups`, from the head on; of all of them, the stem
        learns too.
    """

    graph: nnx.GraphDef
    groups: int
    ema_decay: float = 0.0
    frozen: Tree = ()

    def __call__(self, params: Tree, stats: Tree, frozen: Tree, batch: Batch, key: Key) -> Result:
        """See `Task`. Raises `UserError` for a network with fewer groups."""
        network = nnx.merge(self.graph, params, stats)
        there, images = len(network.stages), unit_images(batch)
        if not 1 <= self.groups <= there:
            raise UserError(
                f'tail: groups={self.groups}, but the network has {there} groups of layers. Choose'
                f' from 1 to {there}.'
            )
        _, logits = network.answer(images, train=True, key=key, still=there - self.groups)
        loss = cross_entropy(logits, batch['label'])
        return loss, (split_network(network)[2], {'accuracy': hits(logits, batch['label'])})


def sharpen(p: jax.Array, temperature: float) -> jax.Array:
    """Sharpens distributions f32[... k] to p^(1 / temperature), sum 1 (Berthelot 2019, eq. 7)."""
    return jax.nn.softmax(jnp.log(jnp.maximum(p, 1e-30)) / temperature)


def mix_pairs(rows: jax.Array, partners: jax.Array, shares: jax.Array) -> jax.Array:
    """Mixes shares f32[n] of `rows` [n ...] with the rest of their `partners` [n ...]."""
    shares = shares.reshape(-1, *[1] * (rows.ndim - 1))
    return shares * rows + (1 - shares) * partners


@dataclass(frozen=True, eq=False)
class MixMatch(Limited, Task, place='mixmatch: '):
    """MixMatch (Berthelot et al. 2019, algorithm 1) on pairs of a labelled and an unlabelled image.

    Two weak views of every unlabelled image are given one guess: the mean of the network's answers,
    sharpened. All views, b labelled and 2 b unlabelled, are mixed with one another, each more
    itself than its partner, and fitted: cross-entropy where a label was, squared error of the
    probabilities where a guess was. Guesses are made with the statistics of their own batch, which
    are then forgotten; no gradient flows into them.

    A batch has, beside 'image', 'label' and 'id', 'unlabelled' u8[b h w c] and 'unlabelled_id'
    i32[b] (`purify.data.training_set`), and 'progress' f32[], the share of the run that is done.

    Attributes:
      pad_px: of the views: how far they are moved, in pixels (`PadCrop`).
      flip: of the views: chance of being mirrored.
      temperature: of the sharpening; below 1 sharpens.
      alpha: of Beta(alpha, alpha), which the shares of the mixture are drawn from, one for each
        view.
      weight: of the squared error at the end; it grows linearly from 0 (lambda_u).
    """

    graph: nnx.GraphDef
    pad_px: Natural
    flip: Chance
    temperature: Positive
    alpha: Positive
    weight: NotNegative
    ema_decay: float = 0.0
    frozen: Tree = ()

    def __call__(self, params: Tree, stats: Tree, frozen: Tree, batch: Batch, key: Key) -> Result:
        """See `Task`."""
        view_key, guess_key, order_key, share_key, own_key = jax.random.split(key, 5)
        images = self._three_views(batch, view_key)  # f32[b 3 h w c]
        rows, classes = len(images), nnx.merge(self.graph, params, stats).head.out_features

        def answer(network: Any, images: jax.Array, key: jax.Array) -> jax.Array:
            # views side by side: no row leaves its device
            flat = images.reshape(-1, *images.shape[2:])
            return network(flat, train=True, key=key).astype(jnp.float32).reshape(rows, -1, classes)

        guessing = nnx.merge(self.graph, params, stats)
        guess = jax.nn.softmax(answer(guessing, images[:, 1:], guess_key)).mean(1)
        guess = jax.lax.stop_gradient(sharpen(guess, self.temperature))
        known = jax.nn.one_hot(batch['label'], classes)
        targets = jnp.stack([known, guess, guess], 1)

        order = jax.random.permutation(order_key, 3 * rows)
        shares = jax.random.beta(share_key, self.alpha, self.alpha, (3 * rows,))
        shares = jnp.maximum(shares, 1 - shares)
        images, targets = (
            mix_pairs(flat, flat[order], shares).reshape(whole.shape)
            for whole in (images, targets)
            for flat in [whole.reshape(-1, *whole.shape[2:])]
        )
        network = nnx.merge(self.graph, params, stats)
        logits = answer(network, images, own_key)
        supervised = optax.softmax_cross_entropy(logits[:, 0], targets[:, 0]).mean()
        consistency = jnp.square(jax.nn.softmax(logits[:, 1:]) - targets[:, 1:]).mean()
        loss = supervised + self.weight * batch['progress'] * consistency
        metrics = {'supervised': supervised, 'consistency': consistency}
        metrics |= {'confidence': guess.max(-1).mean()}
        return loss, (split_network(network)[2], metrics)

    def _three_views(self, batch: Batch, key: jax.Array) -> jax.Array:
        """One of every labelled image, two of every unlabelled one."""
        labelled, other = unit_images(batch), unit_images({'image': batch['unlabelled']})
        unlabelled = other, batch['unlabelled_id']
        wanted = (labelled, batch['id']), unlabelled, unlabelled
        keys, changes = jax.random.split(key, 3), (PadCrop(self.pad_px), Flip(self.flip))
        made = [
            change_all(changes, x, id_keys(k, ids))
            for k, (x, ids) in zip(keys, wanted, strict=True)
        ]
        return jnp.stack(made, 1)
