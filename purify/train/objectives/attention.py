"""Attention distillation (Li et al. 2021, arXiv:2101.05930): students look where teachers look."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx

from purify.core.errors import UserError
from purify.core.limits import number
from purify.core.types import Tree
from purify.train.objectives.contrast import unit
from purify.train.objectives.tasks import Batch, Key, Result, Task, cross_entropy, hits, unit_images
from purify.train.state import split_network


def attention(maps: jax.Array, power: float) -> jax.Array:
    """Attention of maps f32[b h w c]: sum over c of |F_c|^power, flat and at length 1 (eq. 1)."""
    return unit((jnp.abs(maps) ** power).sum(-1).reshape(len(maps), -1))


def attention_distance(
    student: Sequence[jax.Array], teacher: Sequence[jax.Array], betas: Sequence[float], power: float
) -> jax.Array:
    """Sum over groups of layers of beta times the mean squared difference of attention.

    The paper's eq. 2 has the norm of the difference; this is its code, whose betas are in use. Both
    have maps f32[b h w c] for every group, of equal h and w; no gradient flows into the teacher's.
    """
    pairs = zip(student, jax.lax.stop_gradient(tuple(teacher)), strict=True)
    attend = partial(attention, power=power)
    apart = [jnp.square(attend(own) - attend(goal)).mean() for own, goal in pairs]
    weighted = (beta * distance for beta, distance in zip(betas, apart, strict=True))
    return sum(weighted, jnp.float32(0))


@dataclass(frozen=True, eq=False)
class AlignAttention(Task):
    """Cross-entropy, and the distance of the student's attention from the teacher's (eq. 3).

    The teacher, in evaluation mode, sees the very view the student sees.

    Attributes:
      beta: weights of the distance: one for all groups, or one for each (the paper's code: 500,
        1000, 1000 for three).
      power: p of the attention, 1 or more; 2 in the paper.
    """

    graph: nnx.GraphDef
    teacher_graph: nnx.GraphDef
    frozen: Tree  # the teacher's {'params', 'stats'}
    beta: Sequence[float]
    power: float
    ema_decay: float = 0.0

    def __post_init__(self) -> None:
        check_attention("objective 'attention'", self.beta, self.power)

    def __call__(self, params: Tree, stats: Tree, frozen: Tree, batch: Batch, key: Key) -> Result:
        """See `Task`.

        Raises `UserError` where the two networks, or beta and their groups, do not fit.
        """
        images = unit_images(batch)
        network = nnx.merge(self.graph, params, stats)
        own, logits = network.answer(images, train=True, key=key)
        teacher = nnx.merge(self.teacher_graph, frozen['params'], frozen['stats'])
        goal = teacher.groups(images, train=False)
        distance = attention_distance(own, goal, self._betas(own, goal), self.power)
        supervised = cross_entropy(logits, batch['label'])
        metrics = {'accuracy': hits(logits, batch['label'])}
        metrics |= {'supervised': supervised, 'attention': distance}
        return supervised + distance, (split_network(network)[2], metrics)

    def _betas(self, own: Sequence[jax.Array], goal: Sequence[jax.Array]) -> list[float]:
        sizes = [[maps.shape[1:3] for maps in groups] for groups in (own, goal)]
        if sizes[0] != sizes[1]:
            raise UserError(
                f"the teacher's maps are of {sizes[1]} px and the student's of {sizes[0]}: give"
                ' both the same network.'
            )
        if len(self.beta) not in (1, len(own)):
            raise UserError(
                f'beta={list(self.beta)} has {len(self.beta)} weights, but the network {len(own)}'
                ' groups of layers. Give one for all of them, or one for each.'
            )
        return list(self.beta) * (len(own) // len(self.beta))


def check_attention(what: str, beta: Sequence[float], power: float) -> None:
    """Raises `UserError` unless weights are finite and >= 0, and the power finite and >= 1."""
    weights = beta if isinstance(beta, list | tuple) else ()
    found = [*map(number(least=0).keep, weights), number(least=1).keep(power)]
    if not weights or None in found:
        raise UserError(
            f'{what}: beta={beta} must be a list of finite numbers of 0 or more, one for all groups'
            f' of layers, as (1000.0,), or one for each; power={power} must be a finite number of 1'
            ' or more.'
        )
