"""Rows that all hosts look at in turn: every host knows the columns of all of them, in order."""

import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.small_dataset import work

from purify.core import devices, preemption
from purify.core.errors import Preempted
from purify.core.progress import Bar
from purify.engine.gather import exchange, look_at_all

ROWS = np.random.default_rng(0).normal(size=(12, 3)).astype(np.float32)
WEIGHTS = {'w': np.float32([2, -1, 0.5])}


def fetch(position):
    return {'x': ROWS[position], 'id': np.int32(100 + position)}


def rule(weights, rows):
    return {
        'score': (weights['w'][None] * rows['x']).sum(-1),
        'twice': jnp.stack([rows['id'], rows['id'] * 2], -1),
    }


@pytest.fixture
def on_hosts(monkeypatch):
    """Runs something on so many hosts at once, threads that wait for each other as hosts do; ->
    what each gave or raised.
    """

    def run(count, act):
        own = threading.local()
        flags = [False] * count
        together = threading.Barrier(count, timeout=120)
        results = [None] * count

        def any_host(flag):
            flags[own.index] = flag
            together.wait()
            found = any(flags)
            together.wait()
            return found

        def one(host):
            own.index = host
            try:
                results[host] = act(host)
            except BaseException as error:
                results[host] = error

        monkeypatch.setattr(jax, 'process_count', lambda: count)
        monkeypatch.setattr(jax, 'process_index', lambda: own.index)
        monkeypatch.setattr(devices, 'barrier', lambda name: together.wait())
        monkeypatch.setattr(devices, 'any_host', any_host)
        monkeypatch.setattr(devices, 'put_copy', lambda tree, mesh: tree)
        threads = [threading.Thread(target=one, args=(host,)) for host in range(count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return results

    return run


def look(folder, positions, batch=0):
    stage = work(folder, {})
    with Bar('look', len(positions), shown=False) as bar:
        return look_at_all(stage, rule, WEIGHTS, fetch, positions, 'seen', bar, batch=batch)


@pytest.mark.parametrize(
    ('hosts', 'positions'), [(1, [4, 2, 7]), (2, [5, 0, 11, 3, 8]), (3, [6]), (2, [])]
)
def test_every_host_has_the_columns_of_all_rows_in_order(tmp_path, on_hosts, hosts, positions):
    """Also a host that had none of them to look at."""
    for found in on_hosts(hosts, lambda host: look(tmp_path, positions)):
        if not positions:
            assert found == {}
            continue
        assert set(found) == {'score', 'twice'}
        np.testing.assert_allclose(found['score'], ROWS[positions] @ WEIGHTS['w'], rtol=1e-5)
        np.testing.assert_array_equal(found['twice'], np.outer(100 + np.array(positions), [1, 2]))


def test_batches_change_nothing(tmp_path):
    whole, parts = (look(tmp_path / str(batch), np.arange(12), batch) for batch in (0, 8))
    for name, column in whole.items():
        np.testing.assert_array_equal(parts[name], column)


def test_a_stop_of_one_host_is_one_of_all(tmp_path, on_hosts, monkeypatch):
    monkeypatch.setattr(preemption, 'asked', lambda: jax.process_index() == 1)
    for found in on_hosts(2, lambda host: look(tmp_path, np.arange(12))):
        assert isinstance(found, Preempted)


def test_hosts_tell_each_other_what_they_have(tmp_path, on_hosts):
    for found in on_hosts(
        3, lambda host: exchange(work(tmp_path, {}), 'own', {'x': np.arange(host)})
    ):
        assert [part['x'].tolist() for part in found] == [[], [0], [0, 1]]
