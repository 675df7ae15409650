"""The command line as a user has it: a fresh process per call."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np

from purify.stages.networks_on_disk import read_classifier

ROOT = Path(__file__).parents[2]
TINY = (  # the quickstart's shape, a tenth of its work
    '--config.source.train_size=120',
    '--config.source.test_size=60',
    '--config.teacher.epochs=3',
    '--config.student.epochs=3',
    '--config.teacher.batch=16',
    '--config.student.batch=16',
    '--config.defense.vary.steps=4',
    '--config.shard_size=20',
    '--config.run.save_every=5',
    '--config.run.log_every=5',
    '--config.run.inference_batch=20',
    '--config.run.batch_per_device=20',
)


def least_networks(*parts: str) -> tuple[str, ...]:
    """Flags that give these parts of a config ResNets of one block."""
    small = ('width=4', 'stages=(1,)')
    return tuple(f'--config.{part}.network.{setting}' for part in parts for setting in small)


def start(
    command: str, *args: object, devices: int = 1, config: str = 'configs/quickstart.py'
) -> subprocess.Popen[str]:
    """`python -m purify <command> --config ...` in a process of its own, with fake CPU devices."""
    flags = f'--xla_force_host_platform_device_count={devices}'
    environment = os.environ | {'JAX_PLATFORMS': 'cpu', 'XLA_FLAGS': flags, 'PYTHONPATH': str(ROOT)}
    line = [sys.executable, '-m', 'purify', command, '--config', config, *map(str, args)]
    return subprocess.Popen(
        line, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def start_hosts(
    *args: object, hosts: int = 2, devices: int = 2, config: str = 'configs/quickstart.py'
) -> list[subprocess.Popen[str]]:
    """One run on several processes, joined through a free port of this machine."""
    with socket.socket() as probe:
        probe.bind(('localhost', 0))
        port = probe.getsockname()[1]
    joined = ('--coordinator', f'localhost:{port}', '--hosts', hosts)
    return [
        start('run', *args, *joined, '--host-id', k, devices=devices, config=config)
        for k in range(hosts)
    ]


def call(
    command: str, *args: object, devices: int = 1, config: str = 'configs/quickstart.py'
) -> tuple[int, str]:
    """Waits; -> exit code, everything printed."""
    process = start(command, *args, devices=devices, config=config)
    text, _ = process.communicate(timeout=600)
    return process.returncode, text


def run(folder: Path, *args: object, **options) -> str:
    """A run to its end; -> everything printed."""
    code, text = call('run', '--workdir', folder, *args, **options)
    assert code == 0, text
    return text


def kill_at(folder: Path, sign: str, *args: object, config: str, pause_s: float = 0.0) -> bool:
    """Kills a run when a path like `sign` is among its stages; -> whether it was still going."""
    process = start('run', '--workdir', folder, *args, config=config)
    deadline = time.monotonic() + 300
    while process.poll() is None and not list(folder.glob(f'stages/{sign}')):
        assert time.monotonic() < deadline
        time.sleep(0.005)
    time.sleep(pause_s)
    if going := process.poll() is None:
        process.send_signal(signal.SIGKILL)
    process.communicate()
    return going


def stage(folder: Path, name: str) -> Path:
    """The folder of a finished stage of a run."""
    (found,) = folder.glob(f'stages/{name}-*/DONE')
    return found.parent


def dataset_bytes(folder: Path) -> dict[str, bytes]:
    """The files of a dataset that hold its records."""
    return {
        path.name: path.read_bytes() for path in sorted(folder.resolve().glob('*.array_record-*'))
    }


def weights(folder: Path) -> list[np.ndarray]:
    """All arrays of a finished network's weights."""
    return jax.tree.leaves(read_classifier(folder.resolve()).weights)


def named_weights(folder: Path) -> dict[str, np.ndarray]:
    """The same by their places in the network."""
    leaves = jax.tree_util.tree_leaves_with_path(read_classifier(folder.resolve()).weights)
    return {jax.tree_util.keystr(path): leaf for path, leaf in leaves}


def assert_same_weights(one: Path, other: Path) -> None:
    """Two finished networks, byte for byte."""
    pairs = list(zip(weights(one), weights(other), strict=True))
    assert pairs
    assert all(a.tobytes() == b.tobytes() for a, b in pairs)
