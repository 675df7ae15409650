"""How alike generated images are to the nearest training images, by cosine of features."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from purify.core import devices
from purify.core.errors import UserError

# Compared at a time, so that memory does not grow with the product of both.
QUERIES, REFERENCES = (1024, 8192)
_NOBODY = -1


class Neighbours:
    """Finds the nearest of a set of points by cosine, on this host's devices.

    `references: f[m d]`, finite; a point of length 0 is unlike all others (cosine 0). Raises
    `UserError` where there is none, or one is not finite.
    """

    def __init__(self, references: np.ndarray):
        self.points = _unit(references)
        if not len(self.points):
            raise UserError('there are no points to look for neighbours among. Give at least one.')
        blocks = -(-len(self.points) // REFERENCES)
        rows = min(REFERENCES, len(self.points))
        whole = np.zeros((blocks * rows, self.points.shape[1]), np.float32)
        whole[: len(self.points)] = self.points
        self.mesh = devices.local_mesh()
        self.blocks = jax.device_put(whole.reshape(blocks, rows, -1), devices.replicated(self.mesh))

    def nearest(
        self, queries: np.ndarray, own: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """The nearest reference i64[n] of each of `queries: f[n d]`, and the cosine f32[n].

        Of equals, one. `own: int[n]`, where a query is one of the references, is the row that is
        passed over. Raises `UserError` for points of another width, and where no other is left.
        """
        points = _unit(queries)
        own = np.full(len(queries), _NOBODY) if own is None else np.asarray(own)
        if points.shape[1] != self.points.shape[1]:
            raise UserError(
                f'points of {points.shape[1]} numbers are compared with points of'
                f' {self.points.shape[1]}. Measure both sets with one encoder.'
            )
        if len(self.points) == 1 and (own == 0).any():
            raise UserError('there is one point, which has no neighbour. Give at least two.')
        # One shape, so one program.
        size = self.mesh.size * -(-min(QUERIES, max(len(points), 1)) // self.mesh.size)
        found = []
        for start in range(0, len(points), size):
            part, mine = points[start : start + size], own[start : start + size]
            short = size - len(part)
            part = np.pad(part, ((0, short), (0, 0)))
            mine = np.pad(mine, (0, short), constant_values=_NOBODY).astype(np.int32)
            placed = jax.device_put((part, mine), devices.batched(self.mesh))
            rows = _search(self.blocks, len(self.points), *placed)
            found.append(np.asarray(rows)[: size - short])
        rows = np.concatenate(found).astype(np.int64) if found else np.zeros(0, np.int64)
        # Whatever the device rounded to.
        cosines = np.einsum('nd,nd->n', points, self.points[rows], dtype=np.float64)
        return rows, np.clip(cosines, -1, 1).astype(np.float32)


@functools.partial(jax.jit, static_argnums=1)
def _search(blocks: jax.Array, count: int, queries: jax.Array, own: jax.Array) -> jax.Array:
    """Of queries f32[n d] the row i32[n] of the nearest of the first `count` of f32[k r d]."""
    rows = blocks.shape[1]

    def step(
        best: tuple[jax.Array, jax.Array], block: tuple[ArrayLike, jax.Array]
    ) -> tuple[tuple[jax.Array, jax.Array], None]:
        start, points = block
        cosines = jnp.matmul(queries, points.T, precision='highest')
        where = start + jnp.arange(rows)[None]
        cosines = jnp.where((where >= count) | (where == own[:, None]), -jnp.inf, cosines)
        place = cosines.argmax(-1)
        value = cosines[jnp.arange(len(cosines)), place]
        better = value > best[0]
        return (jnp.where(better, value, best[0]), jnp.where(better, start + place, best[1])), None

    first = jnp.full(len(queries), -jnp.inf), jnp.zeros(len(queries), jnp.int32)
    starts = jnp.arange(len(blocks), dtype=jnp.int32) * rows
    return jax.lax.scan(step, first, (starts, blocks))[0][1]


def _unit(points: np.ndarray) -> np.ndarray:
    """Points f[n d] as f32 of length 1, or 0. Raises `UserError` unless they are finite rows."""
    points = np.asarray(points)
    if points.ndim != 2 or not np.isfinite(points).all():
        raise UserError(f'points {points.shape} must be rows of finite numbers. Measure again.')
    lengths = np.linalg.norm(points.astype(np.float64), axis=1, keepdims=True)
    return (points / np.maximum(lengths, np.finfo(np.float32).tiny)).astype(np.float32)
