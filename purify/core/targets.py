"""Devices that programs can be compiled for without having one."""

import os
from dataclasses import dataclass
from importlib.resources import files

import jax
import numpy as np
from jax.experimental import topologies
from jax.sharding import Mesh

from purify.core.errors import UserError
from purify.core.registry import Registry
from purify.core.types import Facts

GIB = 2**30
FITS = 0.9  # of a device's memory: the rest goes to the runtime, and to gaps


@dataclass(frozen=True)
class Target:
    """A device that programs are compiled for.

    Attributes:
      title: as its maker calls it.
      platform: JAX's name of its compiler, 'cuda' or 'tpu'.
      memory: in bytes.
      bandwidth: of that memory, bytes/s.
      half: peak FLOP/s of dense products in bfloat16.
      single: of float32 products as XLA makes them unless told otherwise (TF32; bfloat16 on TPUs).
      launch: seconds from one kernel to the next, at least.
      topology: the smallest piece of a TPU pod that is described, and the chips of a host.
    """

    title: str
    platform: str
    memory: int
    bandwidth: float
    half: float
    single: float
    launch: float = 0.0
    topology: str = ''
    chips: tuple[int, int, int] = (1, 1, 1)

    @property
    def options(self) -> Facts:
        """XLA's options for a device that is not here: products whose tiles cannot be tuned on it.

        Left to XLA's own kernels, some fail to compile; cuBLAS takes them all.
        """
        return {'xla_gpu_enable_triton_gemm': False} if self.platform == 'cuda' else {}

    @property
    def extra(self) -> str:
        """The extra of this package that brings the compiler."""
        return {'cuda': 'cuda12', 'tpu': 'tpu'}[self.platform]


LAUNCH = 2e-6  # in a CUDA graph; an assumption, not measured here
TARGETS: Registry[Target] = Registry(
    'target',
    h200=Target('NVIDIA H200', 'cuda', 141 * GIB, 4.8e12, 989e12, 494e12, LAUNCH),
    a100=Target('NVIDIA A100, 80 GB', 'cuda', 79 * GIB, 2.04e12, 312e12, 156e12, LAUNCH),
    v5e=Target('TPU v5e', 'tpu', 16 * GIB, 0.82e12, 197e12, 197e12, 0.0, 'v5e:2x2', (2, 2, 1)),
    v6e=Target('TPU v6e', 'tpu', 32 * GIB, 1.64e12, 918e12, 918e12, 0.0, 'v6e:2x2', (2, 2, 1)),
)


def describe_devices(name: str, count: int = 1) -> Mesh:
    """A mesh, of one axis 'data', of `count` devices of a kind that need not be there.

    Programs can be compiled for it and not be run. Raises `UserError` for an unknown kind, for more
    devices than are described, and where the compiler is not installed.
    """
    target = TARGETS[name]
    try:
        if target.platform == 'cuda':
            described = topologies.get_topology_desc(
                platform='cuda', topology=f'1x1x{count}', target_config=_gpu_config(name)
            )
        else:
            # There is no TPU to be asked about, nor one that two processes might both take.
            for variable in ('TPU_SKIP_MDS_QUERY', 'ALLOW_MULTIPLE_LIBTPU_LOAD'):
                os.environ.setdefault(variable, '1')
            described = topologies.get_topology_desc(
                platform='tpu', topology_name=target.topology, chips_per_host_bounds=target.chips
            )
    except (RuntimeError, ValueError, NotImplementedError, jax.errors.JaxRuntimeError) as error:
        raise UserError(
            f'{name}: nothing here compiles for it ({str(error).splitlines()[0]}). If it is not'
            f" installed, install 'purify[{target.extra}]', which needs no such device and no"
            ' driver, but some space on disk.'
        ) from error
    found = described.devices
    if count > len(found):
        raise UserError(f'{name}: {len(found)} devices can be described, {count} were asked for.')
    return Mesh(np.array(found[:count]), ('data',))


def _gpu_config(name: str) -> str:
    """What XLA has to know of a GPU, a text of its GpuTargetConfigProto."""
    return (files('purify.core') / 'gpus' / f'{name}.txtpb').read_text(encoding='utf-8')
