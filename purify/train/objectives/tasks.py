"""What is minimised: a task turns weights and a batch into a loss.

A task is called as `task(params, stats, frozen, batch, key) -> (loss, (stats, metrics))`. `frozen`
is the task's own constant pytree (a teacher's weights), handed to the compiled step as an argument
so that it is not baked into it.
"""

from dataclasses import dataclass
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from purify.core.limits import Chance, Limited, Positive, ShareOrZero
from purify.core.types import Tree
from purify.train.state import split_network

Batch = dict[str, jax.Array]
Metrics = dict[str, jax.Array]
Result = tuple[jax.Array, tuple[Tree, Metrics]]
Key = jax.Array  # of jax.random


class Task(Protocol):
    """One training objective.

    Attributes:
      ema_decay: of the average that is kept of the parameters; 0 keeps none.
      frozen: the task's constant arrays.
    """

    ema_decay: float
    frozen: Any

    def __call__(self, params: Tree, stats: Tree, frozen: Tree, batch: Batch, key: Key) -> Result:
        """Mean loss over the batch, the network's new statistics, metrics."""
        ...


def unit_images(batch: Batch) -> jax.Array:
    """Scales batch['image'] u8[b h w c] to f32 in [0, 1], which classifiers take."""
    return batch['image'].astype(jnp.float32) / 255


def signed_images(images: jax.Array) -> jax.Array:
    """Scales images u8[b h w c] to f32 in [-1, 1], which diffusion models take."""
    return images.astype(jnp.float32) / 127.5 - 1


def resize_to(images: jax.Array, size_px: int) -> jax.Array:
    """Resizes images f32[b h w c] in [-1, 1] to squares of `size_px`, cubic and antialiased.

    A cubic filter overshoots at edges, so what it makes is clipped to [-1, 1]: no network has seen
    brighter than white.
    """
    if images.shape[1:3] == (size_px, size_px):
        return images
    shape = (len(images), size_px, size_px, images.shape[-1])
    return jnp.clip(jax.image.resize(images, shape, 'cubic', antialias=True), -1, 1)


def cross_entropy(logits: jax.Array, labels: jax.Array, label_smoothing: float = 0.0) -> jax.Array:
    """Mean cross-entropy of logits f32[b k] against labels i32[b]."""
    targets = optax.smooth_labels(jax.nn.one_hot(labels, logits.shape[-1]), label_smoothing)
    return optax.softmax_cross_entropy(logits, targets).mean()


def hits(logits: jax.Array, labels: Any) -> jax.Array:
    """The share of rows of logits f32[b k] whose largest is that of their label, f32[]."""
    return (logits.argmax(-1) == labels).mean()


def distillation_loss(
    student: jax.Array,
    teacher: jax.Array,
    labels: jax.Array,
    *,
    alpha: float,
    tau: float,
    ce_temperature: float,
) -> jax.Array:
    """Distillation: a L_KD + (1 - a) L_CE with L_KD = -tau^2 sum_j s_j(z_t/tau) log s_j(z_s/tau).

    Source: Struppek 2023, eqs. (2) and (3). `ce_temperature` divides the student's logits in L_CE:
    1 is the paper; the released code uses tau there (it overwrites the logits), which weakens the
    hard-label gradient.

    Args:
      student: logits f32[b k].
      teacher: logits f32[b k]; no gradient flows into them.
      labels: i32[b].
      alpha: weight of the distillation term, in [0, 1].
      tau: temperature of both softmaxes.
      ce_temperature: temperature of the cross-entropy.
    """
    soft = jax.nn.softmax(jax.lax.stop_gradient(teacher) / tau)
    distilled = -(tau**2) * (soft * jax.nn.log_softmax(student / tau)).sum(-1).mean()
    return alpha * distilled + (1 - alpha) * cross_entropy(student / ce_temperature, labels)


@dataclass(frozen=True, eq=False)
class Classify(Limited, Task, place='classify: '):
    """Cross-entropy on the labels as given.

    Attributes:
      label_smoothing: share of the target that all classes have in common.
    """

    graph: nnx.GraphDef
    label_smoothing: ShareOrZero = 0.0
    ema_decay: float = 0.0
    frozen: Tree = ()

    def __call__(self, params: Tree, stats: Tree, frozen: Tree, batch: Batch, key: Key) -> Result:
        """See `Task`."""
        network = nnx.merge(self.graph, params, stats)
        logits = network(unit_images(batch), train=True, key=key)
        loss = cross_entropy(logits, batch['label'], self.label_smoothing)
        return loss, (split_network(network)[2], {'accuracy': hits(logits, batch['label'])})


@dataclass(frozen=True, eq=False)
class Distill(Limited, Task, place='distill: '):
    """Knowledge distillation: the teacher, in evaluation mode, sees the student's very view.

    Attributes:
      alpha: weight of the teacher's answers; the labels have the rest.
      tau: temperature of the teacher's and the student's answers; more is softer.
      ce_temperature: temperature of the student's answers where labels are compared.
    """

    graph: nnx.GraphDef
    teacher_graph: nnx.GraphDef
    frozen: Tree  # the teacher's {'params', 'stats'}
    alpha: Chance = 0.5
    tau: Positive = 5.0
    ce_temperature: Positive = 1.0
    ema_decay: float = 0.0

    def __call__(self, params: Tree, stats: Tree, frozen: Tree, batch: Batch, key: Key) -> Result:
        """See `Task`."""
        images = unit_images(batch)
        network = nnx.merge(self.graph, params, stats)
        logits = network(images, train=True, key=key)
        model = nnx.merge(self.teacher_graph, frozen['params'], frozen['stats'])
        teacher = model(images, train=False)
        settings = {'alpha': self.alpha, 'tau': self.tau, 'ce_temperature': self.ce_temperature}
        loss = distillation_loss(logits, teacher, batch['label'], **settings)
        accuracy, agreement = hits(logits, batch['label']), hits(logits, teacher.argmax(-1))
        metrics = {'accuracy': accuracy, 'agreement': agreement}
        return loss, (split_network(network)[2], metrics)
