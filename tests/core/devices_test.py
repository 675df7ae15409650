import ctypes
import os
import resource
import subprocess
import sys

import jax
import numpy as np
import pytest

from purify.core import devices
from purify.core.errors import UserError


def test_meshes_hold_all_devices_on_one_axis():
    for mesh in (devices.global_mesh(), devices.local_mesh()):
        assert mesh.axis_names == ('data',)
        assert mesh.size == 8


def test_a_batch_is_spread_and_a_copy_is_everywhere():
    mesh = devices.global_mesh()
    rows = np.arange(32, dtype=np.float32).reshape(16, 2)
    batch = devices.put_batch({'image': rows}, mesh)['image']
    np.testing.assert_array_equal(batch, rows)
    assert [shard.data.shape for shard in batch.addressable_shards] == [(2, 2)] * 8
    copy = devices.put_copy({'w': rows, 'step': 3}, mesh)
    assert [shard.data.shape for shard in copy['w'].addressable_shards] == [(16, 2)] * 8
    assert int(copy['step']) == 3


def test_alone_every_question_to_the_hosts_is_answered_at_once():
    assert devices.is_lead()
    assert devices.lead_says(7) == 7
    assert devices.any_host(True)
    assert not devices.any_host(False)
    devices.barrier('nobody else')


def test_peak_is_known_by_kind_and_unknown_on_a_cpu(monkeypatch):
    assert devices.peak_flops() is None
    for kind, expected in {
        'NVIDIA H200': 989e12,
        'TPU v5 lite': 197e12,
        'TPU v5': 459e12,
        'TPU v4': 275e12,
    }.items():
        monkeypatch.setattr(
            jax, 'devices', lambda kind=kind: [type('Device', (), {'device_kind': kind})]
        )
        assert devices.peak_flops() == expected


@pytest.mark.parametrize(
    ('coordinator', 'hosts', 'host_id'),
    [
        (None, 2, 0),
        (None, None, 1),
        ('auto', 2, 0),
        ('127.0.0.1:1234', None, None),
        ('127.0.0.1:1234', 2, None),
    ],
)
def test_half_a_cluster_is_refused(monkeypatch, coordinator, hosts, host_id):
    monkeypatch.setattr(jax.distributed, 'initialize', lambda *args: pytest.fail('started'))
    with pytest.raises(UserError, match=r'give all three .*--coordinator=auto alone'):
        devices.start(coordinator, hosts, host_id)


def test_a_host_number_out_of_range_is_refused():
    with pytest.raises(UserError, match='--host-id=2 with --hosts=2: choose 0 to 1'):
        devices.start('127.0.0.1:1234', 2, 2)


def test_hosts_join_as_told(monkeypatch):
    calls = []
    monkeypatch.setattr(jax.distributed, 'initialize', lambda *args: calls.append(args))
    devices.start()
    devices.start('auto')
    devices.start('127.0.0.1:1234', 2, 1)
    assert calls == [(), ('127.0.0.1:1234', 2, 1)]


def test_the_compilation_cache_is_the_users_unless_set(monkeypatch, tmp_path):
    settings = {'jax_compilation_cache_dir': None}

    class Config:
        def __getattr__(self, name):
            return settings[name]

        def update(self, name, value):
            settings[name] = value

    monkeypatch.setattr(jax, 'config', Config())
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
    devices.use_compilation_cache()
    assert settings['jax_compilation_cache_dir'] == str(tmp_path / 'purify' / 'xla')
    settings['jax_compilation_cache_dir'] = '/elsewhere'
    devices.use_compilation_cache()
    assert settings['jax_compilation_cache_dir'] == '/elsewhere'


def test_the_real_settings_know_the_cache_folder():
    assert hasattr(jax.config, 'jax_compilation_cache_dir')


def started(changes, code):
    """What a fresh process prints that has begun as a command does."""
    program = f'from purify.core import devices\ndevices.start()\nimport jax\n{code}'
    env = {name: value for name, value in os.environ.items() if name != 'XLA_FLAGS'}
    env |= {'JAX_PLATFORMS': 'cpu'} | changes
    done = subprocess.run(
        [sys.executable, '-c', program], env=env, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


SIZES = 'print(devices.local_mesh().size, devices.global_mesh().size)'


def test_each_core_of_a_cpu_is_a_device_but_for_training():
    cores = min(len(os.sched_getaffinity(0)), devices.MOST_CORES)
    assert started({}, SIZES) == f'{cores} 1'


def test_a_number_of_devices_that_is_given_stays():
    assert started({'JAX_NUM_CPU_DEVICES': '3'}, SIZES) == '3 3'


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), 'mallopt'), reason='glibc alone keeps memory')
def test_memory_of_programs_is_kept():
    code = """
import resource
import jax.numpy as jnp
wide = lambda x: jnp.flip(jnp.tanh(x).T @ jnp.ones((2**12, 8)) @ jnp.ones((8, 2**12)))
run = jax.jit(lambda x: wide(x).T.sum(0))  # 128 MiB of scratch
x, faults = jnp.eye(2**12), []
for _ in range(8):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    run(x).block_until_ready()
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(min(faults[2:]))
"""
    pages = 2**26 // resource.getpagesize()  # of one matrix
    assert int(started({}, code)) < pages // 4
