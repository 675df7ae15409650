"""Runs a rule over rows on all hosts, and gives every host what all of them found."""

from collections.abc import Callable, Iterator, Sequence

import jax
import numpy as np

from purify.core import devices, preemption
from purify.core.progress import Bar
from purify.data.loader import Record
from purify.engine.stage import Work
from purify.engine.tables import Columns, read_columns, write_columns
from purify.train.inference import Rule, even_batch, map_images


def look_in_turn(
    work: Work,
    rule: Rule,
    weights: object,
    fetch: Callable[[int], Record],
    positions: Sequence[int] | np.ndarray,
    bar: Bar,
    *,
    batch: int = 0,
) -> Iterator[Columns]:
    """Runs a rule over this host's share of the rows, and yields its columns batch by batch.

    Args:
      work: the stage's.
      rule: (weights, rows) -> columns by name.
      weights: NumPy, put on the devices of this host.
      fetch: position -> what the rule gets of it.
      positions: of the rows.
      bar: moved on as all hosts do their share.
      batch: rows at a time on this host; `inference_batch` of the run where 0.

    Raises:
      Preempted: on all hosts, when SIGTERM came to any.
    """
    hosts, mesh = jax.process_count(), devices.local_mesh()
    mine = [int(position) for position in positions[jax.process_index() :: hosts]]
    placed = devices.put_copy(weights, mesh)
    batch = even_batch(len(mine), batch or work.run['inference_batch'])
    for at, found in map_images(rule, placed, fetch, mine, batch=batch, mesh=mesh, cost=work.cost):
        yield found
        bar.advance(len(at) * hosts)
        if preemption.asked():
            break
    devices.leave_together()


def look_at_all(
    work: Work,
    rule: Rule,
    weights: object,
    fetch: Callable[[int], Record],
    positions: Sequence[int] | np.ndarray,
    name: str,
    bar: Bar,
    *,
    batch: int = 0,
) -> Columns:
    """Runs a rule over rows on all hosts, and gives each the columns of all rows.

    Columns are [len(positions) ...] in order; of no rows there are none. Args: see `look_in_turn`;
    hosts leave what they saw in files, called after `name`, for each other.
    """
    if not len(positions):
        return {}
    parts = list(look_in_turn(work, rule, weights, fetch, positions, bar, batch=batch))
    if not parts:  # no row is this host's: its columns are empty
        like = {key: np.asarray(value)[None] for key, value in fetch(int(positions[0])).items()}
        shapes = jax.eval_shape(rule, weights, like).items()
        parts = [{key: np.zeros((0, *x.shape[1:]), x.dtype) for key, x in shapes}]
    mine = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
    hosts = exchange(work, name, mine)
    whole = {key: np.zeros((len(positions), *x.shape[1:]), x.dtype) for key, x in mine.items()}
    for host, found in enumerate(hosts):
        for key, column in found.items():
            whole[key][host :: len(hosts)] = column
    return whole


def exchange(work: Work, name: str, columns: Columns) -> list[Columns]:
    """Shares each host's columns with all hosts, in order of hosts, by files `name-...`."""
    if jax.process_count() == 1:
        return [columns]
    file = f'{name}-{{}}.npz'.format
    write_columns(work.folder / file(jax.process_index()), columns)
    devices.barrier(f'{work.name} {name}')
    return [read_columns(work.folder / file(host)) for host in range(jax.process_count())]
