"""What a run would cost on devices that are not here: its programs, compiled for them and counted.

By a roofline (Williams et al. 2009): a program takes at least as long as its products at the
device's peak, as moving its bytes at the memory's bandwidth, and as starting its kernels.
"""

import math
from dataclasses import dataclass
from typing import Any

import jax
from jax.sharding import Mesh

from purify.core import devices
from purify.core.errors import UserError
from purify.core.program_work import Work, read_work
from purify.core.progress import say
from purify.core.targets import FITS, GIB, TARGETS, Target, describe_devices
from purify.core.types import Facts, Settings, Tree
from purify.stages.known import Diagnosis, Program
from purify.train.flops import compile_traced, count_by_type
from purify.train.inference import even_batch, trace_rows

EXPECTED = 0.45  # of the roofline: what is aimed for, not measured
SHOWN = 8  # kinds of kernels
HALVES = ('bfloat16', 'float16')


@dataclass(frozen=True)
class Compiled:
    """A program as it was compiled for devices of a kind.

    Attributes:
      batch: rows at once, over all devices.
      flops: of one device and batch, by type of what is multiplied.
      work: what one device does in a batch.
      fixed: bytes of one device's memory that do not grow with the batch.
      bytes: of one device's memory in all.
    """

    batch: int
    flops: dict[str, float]
    work: Work
    fixed: int
    bytes: int

    @property
    def half(self) -> float:
        """FLOPs in half precision."""
        return sum(flops for kind, flops in self.flops.items() if kind in HALVES)

    def limit(self, target: Target) -> tuple[float, str]:
        """The least seconds that a batch can take, and what bounds it.

        That is 'products', 'bytes', or 'launches' of small kernels.
        """
        single = sum(self.flops.values()) - self.half
        products = self.half / target.half + single / target.single
        moving, launching = self.work.bytes / target.bandwidth, self.work.launches * target.launch
        return max((products, 'products'), (moving, 'bytes'), (launching, 'launches'))

    def most(self, target: Target, count: int) -> int:
        """The largest batch of `count` devices that fits, if memory grows with rows."""
        each = max(self.bytes - self.fixed, 1) / (self.batch / count)
        return count * max(0, math.floor((FITS * target.memory - self.fixed) / each))


def compile_for(name: str, found: Diagnosis, run: Settings, count: int = 1) -> Facts:
    """Compiles a run's programs for `count` devices of a kind, and says what they would cost.

    Equal programs are compiled once, of a training one update. What a training's images take that
    live on the devices is not counted.

    Args:
      name: one of `TARGETS`.
      found: what `purify.commands.check.check` found.
      run: the part `run` of the config.
      count: devices.

    Returns:
      {'target', 'devices', 'memory_bytes', 'programs': [...], 'uncounted', 'hours',
      'device_hours'}; hours are those expected, at `EXPECTED` of the roofline, of the devices
      alone, without what is `uncounted`.

    Raises:
      UserError: where the compiler is not installed, and for a batch that does not split over the
        devices.
    """
    mesh, target, programs = describe_devices(name, count), TARGETS[name], found.programs
    made: dict[str, Compiled] = {}
    lines = []
    for place, program in enumerate(programs, 1):
        batch = _batch(program, run, count)
        traced, held, rows = _trace(program, batch, mesh)
        key = f'{batch} {traced.jaxpr}'
        if key not in made:
            say(f'compiling {program.step} ({place} of {len(programs)})', passing=True)
            made[key] = _compile(traced, held, rows, count, target)
        lines.append(_describe(program, made[key], target, count))
    hours = sum(line['hours'] for line in lines)
    facts = {'target': name, 'devices': count, 'memory_bytes': target.memory, 'programs': lines}
    facts['uncounted'] = found.uncounted
    return facts | {'hours': hours, 'device_hours': hours * count}


def _batch(program: Program, run: Settings, count: int) -> int:
    """Rows at once over all devices, as the run would take them."""
    if program.trains:
        batch = len(jax.tree.leaves(program.rows)[0])
        if batch % (count * program.accumulate):
            raise UserError(
                f'{program.step}: batch={batch} does not split over {count} devices x'
                f' accumulate={program.accumulate}; choose a multiple, or other devices.'
            )
        return batch
    most = run[program.size] * (count if program.size == 'batch_per_device' else 1)
    return count * math.ceil(even_batch(max(program.count // program.passes, 1), most) / count)


def _trace(program: Program, batch: int, mesh: Mesh) -> tuple[Any, Tree, Tree]:
    """The traced program, and as shapes what each device holds for it and the rows of a batch."""
    copy = devices.replicated(mesh)
    shape = lambda x, rows, how: jax.ShapeDtypeStruct(rows(x.shape), x.dtype, sharding=how)
    held = jax.tree.map(lambda x: shape(x, lambda own: own, copy), program.whole)
    many, each = lambda own: (batch, *own[1:]), devices.batched(mesh)
    rows = jax.tree.map(lambda x: shape(x, many, each), program.rows)
    if not program.trains:
        return trace_rows(program.call, held, rows, mesh), held, rows
    call = lambda state, frozen, rows: program.call((state, frozen), rows)
    jitted = jax.jit(call, donate_argnums=0, out_shardings=(copy, copy))
    return jitted.trace(*held, rows), held, rows


def _compile(traced: Any, held: Tree, rows: Tree, count: int, target: Target) -> Compiled:
    compiled = compile_traced(traced, target.options)
    counted = count_by_type(traced.jaxpr, target.platform)
    flops = {kind: flops / count for kind, flops in counted.items()}
    memory, size = compiled.memory_analysis(), lambda x: math.prod(x.shape) * x.dtype.itemsize
    outputs = memory.output_size_in_bytes - memory.alias_size_in_bytes
    # A run places all weights, those too that this program does not ask.
    fixed = sum(map(size, jax.tree.leaves(held)))
    given, batch = sum(map(size, jax.tree.leaves(rows))), len(jax.tree.leaves(rows)[0])
    total = fixed + given // count + memory.temp_size_in_bytes + outputs
    return Compiled(batch, flops, read_work(compiled.as_text()), fixed, total)


def _describe(program: Program, made: Compiled, target: Target, count: int) -> Facts:
    """A row of the answer; FLOPs and bytes are of one row, memory is of one device."""
    (seconds, bound), work = made.limit(target), made.work
    each = made.batch / count  # rows of a device
    flops = sum(made.flops.values())
    batches = program.passes * math.ceil(program.count / program.passes / made.batch)
    return {
        'step': program.step,
        'trains': program.trains,
        'rows': program.count,
        'batch': made.batch,
        'flops': flops / each,
        'half_share': made.half / flops if flops else 0.0,
        'bytes': work.bytes / each,
        'device_bytes': made.bytes,
        'largest_batch': made.most(target, count),
        'bound': bound,
        'rows_per_s_limit': made.batch / seconds,
        'rows_per_s': EXPECTED * made.batch / seconds,
        'hours': batches * seconds / EXPECTED / 3600,
        'launches': work.launches,
        'kernels': dict(work.kernels.most_common()),
        'moved': {kind: moved / work.bytes for kind, moved in work.moved.most_common() if moved},
        'collectives': dict(work.collectives),
        'host_transfers': work.host_transfers,
        'open_loops': work.open_loops,
    }


def print_cost(found: Facts) -> None:
    """Prints what `compile_for` found, as tables."""
    target, count = TARGETS[found['target']], found['devices']
    print(f'compiled for {count} x {target.title}, not run; rows/s are those of all devices')
    head = ['program', 'rows', 'batch', 'fits', 'memory', 'FLOPs', 'bytes', 'half', 'bound by']
    head += ['limit, rows/s', f'at {EXPECTED:.0%}', 'hours']
    table = [head, *(_cells(row) for row in found['programs'])]
    widths = [max(len(row[k]) for row in table) for k in range(len(head))]
    for row in table:
        first, *rest = (cell.rjust(width) for cell, width in zip(row, widths, strict=True))
        print('  '.join([row[0].ljust(len(first)), *rest]))
    for row in found['programs']:
        print(f'{row["step"]}: kernels (share of bytes): {_kernels(row)}')
        spoken = ', '.join(f'{n} {kind}' for kind, n in row['collectives'].items()) or 'none'
        print(f'{row["step"]}: collectives: {spoken}; host transfers: {row["host_transfers"]}')
        if row['open_loops']:
            loops = f'{row["open_loops"]} loops of unknown length count once'
            print(f'{row["step"]}: {loops}: its cost is at least this')
        if row['device_bytes'] > FITS * found['memory_bytes']:
            print(f'{row["step"]}: does not fit: choose a batch of {row["largest_batch"]} or fewer')
    if found['uncounted']:
        print(f'not counted: {", ".join(found["uncounted"])}')
    print(f'whole run: {found["hours"]:.3g} hours, {found["device_hours"]:.3g} device hours')


def _kernels(row: Facts) -> str:
    """The kinds of kernels that move most bytes, and how many of each there are."""
    kinds = sorted(row['kernels'], key=lambda kind: -row['moved'].get(kind, 0))
    said = [
        f'{row["kernels"][kind]} {kind} ({row["moved"].get(kind, 0):.0%})' for kind in kinds[:SHOWN]
    ]
    others = sum(row['kernels'][kind] for kind in kinds[SHOWN:])
    return ', '.join(said + [f'{others} others'] * bool(others))


def _cells(row: Facts) -> list[str]:
    return [
        row['step'],
        f'{row["rows"]:,}',
        f'{row["batch"]:,}',
        f'{row["largest_batch"]:,}',
        f'{row["device_bytes"] / GIB:.2f} GiB',
        f'{row["flops"] / 1e9:.3g} G',
        f'{row["bytes"] / 1e6:.3g} M',
        f'{row["half_share"]:.0%}',
        row['bound'],
        f'{row["rows_per_s_limit"]:,.0f}',
        f'{row["rows_per_s"]:,.0f}',
        f'{row["hours"]:.3g}',
    ]
