"""The one inference loop: maps a function over images on this host's devices."""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from purify.core import devices
from purify.core.types import Tree
from purify.data.loader import Record, ordered_batches
from purify.train.cost import Cost
from purify.train.flops import compile_counted

Rows = dict[str, jax.Array]  # columns [b ...] by name
Rule = Callable[[Any, Rows], Rows]  # (weights by role, rows) -> columns; pure, row-wise, traceable
AHEAD = 2  # batches in flight on the devices while the host fetches and stores others


def map_images(
    apply: Callable[[Any, dict[str, jax.Array]], Any],
    constants: Tree,
    fetch: Callable[[int], Record],
    positions: Sequence[int],
    *,
    batch: int,
    mesh: Mesh,
    cost: Cost,
) -> Iterator[tuple[np.ndarray, Any]]:
    """Runs `apply(constants, rows) -> pytree of [batch ...]` over records, in order.

    Every batch has one shape (`batch` rounded up to a multiple of the devices; the last one is
    padded and the padding dropped), so there is one program. No collectives: hosts need not keep
    step.

    Args:
      apply: pure and row-wise: row i of its output depends on row i of its input alone.
      constants: weights, replicated on the mesh.
      fetch: position -> record of arrays.
      positions: which records, in which order.
      batch: rows at a time on this host.
      mesh: this host's devices.
      cost: running totals.

    Yields:
      (positions i64[m], outputs as NumPy [m ...]).
    """
    rows = mesh.size * math.ceil(batch / mesh.size)
    cost.devices = mesh.size * jax.process_count()
    program, flops, waiting = None, 0.0, []
    stream = ordered_batches(fetch, positions, rows)
    while True:
        with cost.timing('wait_seconds'):
            piece = next(stream, None)
        if piece is None:
            break
        placed = jax.device_put(piece[1], devices.batched(mesh))
        if program is None:
            with cost.timing('compile_seconds'):
                program, flops = compile_rows(apply, constants, placed, mesh)
        waiting.append((piece[0], program(constants, placed)))
        cost.images += len(piece[0]) * jax.process_count()
        cost.flops += flops
        if len(waiting) > AHEAD:
            yield _fetched(*waiting.pop(0))
    for pair in waiting:
        yield _fetched(*pair)


def even_batch(count: int, most: int) -> int:
    """The size of the batches of `count` rows, at most `most` each: as even as they can be.

    Give the rows of the whole job, not what is left of it: pixels are rounded alike in batches of
    one size alone, so a restart has to keep it.
    """
    return max(1, math.ceil(count / max(1, math.ceil(count / most))))


def compile_rows(
    apply: Callable[..., Any], constants: Tree, rows: Tree, mesh: Mesh
) -> tuple[Any, float]:
    """Compiles `apply` for rows [batch ...] spread over the mesh; counts its FLOPs on a device."""
    return compile_counted(trace_rows(apply, constants, rows, mesh), devices=mesh.size)


def trace_rows(apply: Callable[..., Any], constants: Tree, rows: Tree, mesh: Mesh) -> Any:
    """Traces `apply` for rows [batch ...] spread over the mesh.

    Each device runs `apply` on its own rows (`shard_map`), so there is nothing that devices could
    say to each other.
    """
    whole, rows_spec = PartitionSpec(), PartitionSpec('data')
    each = jax.shard_map(
        apply, mesh=mesh, in_specs=(whole, rows_spec), out_specs=rows_spec, check_vma=False
    )
    return jax.jit(each, donate_argnums=1).trace(constants, rows)


def _fetched(positions: np.ndarray, output: Any) -> tuple[np.ndarray, Any]:
    return positions, jax.tree.map(lambda x: np.asarray(x)[: len(positions)], output)
