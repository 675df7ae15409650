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
