"""Adversarial training: cross-entropy on images made hard for the network of the moment."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import nnx

from purify.attacks.fixed.label_consistent import ascend
from purify.core.limits import Limited, Natural, NotNegative, Positive, ShareOrZero
from purify.core.types import Tree
from purify.train.objectives.tasks import Batch, Key, Result, Task, cross_entropy, hits, unit_images
from purify.train.state import split_network


@dataclass(frozen=True, eq=False)
class Adversarial(Limited, Task, place='adversarial: '):
    """Cross-entropy at its worst in an l_inf ball about each image (Madry et al. 2018, eq. 2.1).

    The inner maximum is sought by `ascend` from a uniform random start, on the network in
    evaluation mode, so that the running statistics see each batch once. Label-consistent poison is
    made with a classifier trained like this.

    Attributes:
      eps: radius of the ball, in grey levels.
      step: of one iteration, in grey levels.
      iterations: how many.
      label_smoothing: share of the target that all classes have in common.
    """

    graph: nnx.GraphDef
    eps: NotNegative = 8.0
    step: Positive = 2.0
    iterations: Natural = 5
    label_smoothing: ShareOrZero = 0.0
    ema_decay: float = 0.0
    frozen: Tree = ()

    def __call__(self, params: Tree, stats: Tree, frozen: Tree, batch: Batch, key: Key) -> Result:
        """See `Task`."""
        clean, labels = unit_images(batch), batch['label']

        def loss_at(images: jax.Array) -> jax.Array:
            logits = nnx.merge(self.graph, params, stats)(images, train=False)
            return cross_entropy(logits, labels)

        drift = jax.random.uniform(key, clean.shape, minval=-1, maxval=1) * self.eps / 255
        start = jnp.clip(clean + drift, 0, 1)
        ball = {'eps': self.eps / 255, 'step': self.step / 255, 'iterations': self.iterations}
        images = jax.lax.stop_gradient(ascend(jax.grad(loss_at), clean, start, **ball))
        network = nnx.merge(self.graph, params, stats)
        logits = network(images, train=True, key=jax.random.fold_in(key, 1))
        loss = cross_entropy(logits, labels, self.label_smoothing)
        return loss, (split_network(network)[2], {'accuracy': hits(logits, labels)})
