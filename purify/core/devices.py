"""Devices and hosts: the meshes over them, and how arrays get onto them."""

import ctypes
import importlib.metadata
import importlib.util
import os
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from purify.core import preemption
from purify.core.errors import Preempted, UserError
from purify.core.progress import say
from purify.core.types import Tree

# Dense bf16 peak in FLOP/s per device, from the vendors' data sheets; used for MFU only.
PEAK_FLOPS = {
    'H100': 989e12,
    'H200': 989e12,
    'A100': 312e12,
    'L40S': 362e12,
    'L40': 181e12,
    'L4': 121e12,
    'TPU v4': 275e12,
    'TPU v5 lite': 197e12,
    'TPU v5': 459e12,
    'TPU v6 lite': 918e12,
}


MOST_CORES = 8  # that are devices; the threads of each use the rest
_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # of mallopt, from glibc's malloc.h

_own_cores = False  # whether this program itself made a device of each core


def start(
    coordinator: str | None = None, hosts: int | None = None, host_id: int | None = None
) -> None:
    """Joins the other hosts, if any. Must run before anything touches a device.

    With `coordinator` ('address:port'), `hosts` and `host_id` are explicit; with
    `coordinator='auto'` jax finds the cluster itself (Slurm, TPU pods, Kubernetes, Open MPI).
    Without, this process is alone, and on a host without accelerators (jax is told to use CPUs, or
    has no plugin for anything else) each core is a device (`use_cores`), and programs' memory is
    kept.

    Raises `UserError` for numbers that do not fit together.
    """
    explicit = coordinator not in (None, '', 'auto')
    if explicit != (hosts is not None) or explicit != (host_id is not None):
        raise UserError(
            f'--coordinator={coordinator} --hosts={hosts} --host-id={host_id}: give all three'
            ' (address:port of host 0, number of processes, number of this one), or'
            ' --coordinator=auto alone, or none of them.'
        )
    if explicit and not 0 <= (host_id or 0) < (hosts or 0):
        raise UserError(
            f'--host-id={host_id} with --hosts={hosts}: choose 0 to {(hosts or 0) - 1}.'
        )
    if coordinator:  # jax's own preemption service would take SIGTERM away from `core.preemption`
        jax.config.update('jax_enable_preemption_service', False)
    if coordinator == 'auto':
        jax.distributed.initialize()
    elif coordinator:
        jax.distributed.initialize(coordinator, hosts, host_id)
    elif not _may_be_accelerated():
        _keep_memory()
        use_cores()


def use_cores() -> None:
    """Makes a device of each core of a CPU, as far as there are `MOST_CORES`.

    Purification and measuring then run on all of them, each on images of its own; training stays
    on one device, whose threads share the batch. Must run before anything touches a device; does
    nothing where their number is set already (JAX_NUM_CPU_DEVICES, XLA_FLAGS).
    """
    global _own_cores
    given = 'xla_force_host_platform_device_count' in os.environ.get('XLA_FLAGS', '')
    if given or 'JAX_NUM_CPU_DEVICES' in os.environ:
        return
    cores = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()
    jax.config.update('jax_num_cpu_devices', min(cores or 1, MOST_CORES))
    _own_cores = True


def _keep_memory() -> None:
    """Lets this process keep the memory that programs give back, where its libc is glibc.

    A training step on a CPU takes its scratch, hundreds of megabytes, from the system anew each
    time, and touches it page by page. So programs run in the thread that
    calls them, whose heap is the one that may grow, and large arrays come from that heap, which
    never shrinks. (Of all threads' heaps the others are small; one heap for all would make the
    compiler's threads wait for each other.)
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return
    jax.config.update('jax_cpu_enable_async_dispatch', False)
    for option, value in ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, 2**31 - 1)):
        mallopt(option, value)


def _may_be_accelerated() -> bool:
    """Whether jax is told to use anything but CPUs, or has a plugin for it."""
    if told := jax.config.jax_platforms:  # pyright: ignore[reportAttributeAccessIssue]
        return told != 'cpu'
    plugins = importlib.metadata.entry_points(group='jax_plugins')
    return any(plugins) or any(map(importlib.util.find_spec, ('jax_plugins', 'libtpu')))


def use_compilation_cache() -> None:
    """Keeps compiled programs in $JAX_COMPILATION_CACHE_DIR, or else in the user's cache folder."""
    if not jax.config.jax_compilation_cache_dir:  # pyright: ignore[reportAttributeAccessIssue]
        base = Path(os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache')
        jax.config.update('jax_compilation_cache_dir', str(base / 'purify' / 'xla'))
    jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.3)


def global_mesh() -> Mesh:
    """All devices of all hosts on one axis, 'data'; of a CPU whose cores are devices, one."""
    if _own_cores:
        return jax.make_mesh((1,), ('data',), (AxisType.Auto,), devices=jax.devices()[:1])
    return jax.make_mesh((jax.device_count(),), ('data',), (AxisType.Auto,))


def local_mesh() -> Mesh:
    """This host's devices on one axis, 'data', for work in which hosts need not keep step."""
    devices = jax.local_devices()
    return jax.make_mesh((len(devices),), ('data',), (AxisType.Auto,), devices=devices)


def replicated(mesh: Mesh) -> NamedSharding:
    """The sharding of parameters: a copy on every device."""
    return NamedSharding(mesh, PartitionSpec())


def batched(mesh: Mesh) -> NamedSharding:
    """The sharding of batches: rows spread over the devices."""
    return NamedSharding(mesh, PartitionSpec('data'))


def put_batch(batch: Tree, mesh: Mesh, axis: int = 0) -> Any:
    """Puts this host's rows (NumPy, along `axis`) into global arrays, sharded over 'data'."""
    sharding = NamedSharding(mesh, PartitionSpec(*[None] * axis, 'data'))
    put = lambda rows: jax.make_array_from_process_local_data(sharding, np.asarray(rows))
    return jax.tree.map(put, batch)


def put_copy(tree: Tree, mesh: Mesh) -> Any:
    """Puts values (NumPy, equal on every host) into global arrays, a copy on every device."""
    sharding = replicated(mesh)
    put = lambda x: jax.make_array_from_process_local_data(sharding, np.asarray(x), np.shape(x))
    return jax.tree.map(put, tree)


def is_cpu(mesh: Mesh) -> bool:
    """Whether the devices of a mesh are CPUs."""
    return mesh.devices.flat[0].platform == 'cpu'


def peak_flops() -> float | None:
    """Dense bf16 peak of one device of this kind, or None where it is not known (CPUs)."""
    kind = jax.devices()[0].device_kind
    return next((flops for name, flops in PEAK_FLOPS.items() if name in kind), None)


def is_lead() -> bool:
    """Whether this is process 0, the one that writes what is written once."""
    return jax.process_index() == 0


def say_once(text: str) -> None:
    """One line from process 0 alone, for what every host finds out."""
    say(text, shown=is_lead())


def barrier(name: str) -> None:
    """Waits until every host is here."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def lead_says(value: int) -> int:
    """Process 0's value on every host, so that all decide alike after a look at the disk."""
    if jax.process_count() == 1:
        return value
    return int(multihost_utils.broadcast_one_to_all(np.int32(value)))


def sum_over_hosts(counts: np.ndarray) -> np.ndarray:
    """The sums i64[n] of every host's counts i64[n]; all hosts call this together."""
    if jax.process_count() == 1:
        return counts
    return np.asarray(multihost_utils.process_allgather(counts)).sum(0)


def any_host(flag: bool) -> bool:
    """Whether the flag is up on any host."""
    if jax.process_count() == 1:
        return flag
    return bool(multihost_utils.process_allgather(np.int32(flag)).max())


def leave_together() -> None:
    """Raises `Preempted` on all hosts if SIGTERM came to any: none waits for one that is gone."""
    if any_host(preemption.asked()):
        raise Preempted
