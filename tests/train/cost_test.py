import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from purify.train.cost import Cost, summarize


def test_totals_go_on_where_an_earlier_part_stopped():
    cost = Cost(images=3, network_calls=30)
    cost.resume(Cost(images=4, network_calls=40, seconds=7.0).totals())
    found = cost.totals()
    assert (found['images'], found['network_calls']) == (7, 70)
    old = {name: value for name, value in found.items() if name != 'network_calls'}
    cost.resume(old)  # of a version that did not count them
    assert (cost.images, cost.network_calls) == (14, 70)


@pytest.mark.parametrize(('calls', 'told'), [(750, (750, 75.0)), (0, (None, None))])
def test_network_calls_and_their_rate_without_compiling(calls, told):
    totals = {'seconds': 12.0, 'compile_seconds': 2.0, 'wait_seconds': 0.0, 'images': 10}
    totals |= {'flops': 0.0, 'devices': 1}
    found = summarize(totals | {'network_calls': calls})
    assert (found['network_calls'], found['network_calls_per_s']) == told


def test_programs_are_counted_from_where_a_stage_began_and_once_each():
    before = Cost()
    program = jax.jit(lambda x: x * 2 + 1)
    program(jnp.ones(3)), program(jnp.ones(3))
    alone = Cost()
    assert alone.totals()['programs'] == 0
    jax.jit(lambda x: x * 3 - 1)(np.ones(3, np.float32))
    assert alone.totals()['programs'] == 1
    assert before.totals()['programs'] >= 2
    resumed = Cost()
    resumed.resume(alone.totals())
    assert resumed.totals()['programs'] == 1
    assert summarize(alone.totals())['programs'] == 1


def test_what_the_cache_holds_is_told_from_what_was_compiled(tmp_path):
    code = (
        'import jax, jax.numpy as jnp\n'
        'from purify.core.devices import use_compilation_cache\n'
        'from purify.train.cost import Cost\n'
        'use_compilation_cache()\n'
        'jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)\n'
        'cost = Cost()\n'
        'jax.jit(lambda x: jnp.tanh(x @ x).sum())(jnp.ones((8, 8)))\n'
        'print(cost.totals()["programs"], cost.totals()["from_cache"])\n'
    )
    place = {'JAX_COMPILATION_CACHE_DIR': str(tmp_path), 'JAX_PLATFORMS': 'cpu'}
    counts = []
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, '-c', code], env=os.environ | place, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        counts.append([int(number) for number in done.stdout.split()])
    (first, none), (second, found) = counts
    assert first == second >= 1
    assert none == 0
    assert found == second
