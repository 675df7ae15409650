"""Datasets that are written in shards by several hosts and threads: the same bytes, whatever stops
them and whoever writes.
"""

import signal

import jax
import numpy as np
import pytest
from support.small_dataset import bytes_of, work

from purify.core import devices, preemption
from purify.core.errors import Preempted
from purify.data.builders import make_features
from purify.data.loader import Split
from purify.engine.shards import dataset_sink, table_sink, write_shards
from purify.engine.tables import read_table

SIZES = {'one': 11, 'other': 7}
SHARD = 3


def image(name, row):
    return np.random.default_rng([len(name), row]).integers(0, 256, (4, 4, 1), np.uint8)


def write(folder, threads=1, broken=None):
    """Both datasets at once; a record of `one` may be `broken`."""
    stage = work(folder, {})
    stage.run['threads'] = threads

    def job(name):
        def records(rows):
            for row in rows:
                if (name, row) == ('one', broken):
                    raise ValueError(f'row {row}')
                yield {'id': 50 + row, 'image': image(name, row), 'label': row % 2}

        return (
            dataset_sink(folder / name, name, make_features(4, 1, ['a', 'b']), SIZES[name], SHARD),
            records,
        )

    write_shards(stage, [job(name) for name in SIZES])
    return stage


def shards(folder):
    return {
        path.relative_to(folder): path.stat().st_mtime_ns
        for path in folder.rglob('*.array_record-*')
    }


def test_several_datasets_are_written_at_once(tmp_path):
    stage = write(tmp_path)
    for name, count in SIZES.items():
        split = Split(tmp_path / name, 'train')
        np.testing.assert_array_equal(split.ids, 50 + np.arange(count))
        found = split.images(range(count))
        np.testing.assert_array_equal(found, [image(name, row) for row in range(count)])
    assert stage.cost.images == 18
    assert len(shards(tmp_path)) == 4 + 3


def test_threads_change_no_byte(tmp_path):
    write(tmp_path / 'alone')
    write(tmp_path / 'many', threads=8)
    assert bytes_of(tmp_path / 'alone') == bytes_of(tmp_path / 'many')


def test_a_restart_writes_the_missing_shards_alone(tmp_path):
    write(tmp_path)
    whole = bytes_of(tmp_path)
    missing = sorted(shards(tmp_path))[2]
    (tmp_path / missing).unlink()
    kept = shards(tmp_path)
    stage = write(tmp_path)
    assert bytes_of(tmp_path) == whole
    assert kept.items() <= shards(tmp_path).items()
    assert stage.cost.images == SHARD


def test_hosts_take_the_shards_of_all_datasets_in_turn(tmp_path, monkeypatch):
    """Two hosts one after another; the second looked at the folder when it was still empty."""
    write(tmp_path / 'alone')
    monkeypatch.setattr(devices, 'barrier', lambda name: None)
    monkeypatch.setattr(devices, 'any_host', lambda flag: flag)
    # who finishes, at the end, needs the shards of all
    monkeypatch.setattr(devices, 'is_lead', lambda: False)
    monkeypatch.setattr(jax, 'process_count', lambda: 2)
    made = []
    for host in (0, 1):
        monkeypatch.setattr(jax, 'process_index', lambda host=host: host)
        write(tmp_path / str(host))
        made.append(bytes_of(tmp_path / str(host)))
    assert [len(files) for files in made] == [4, 3]
    assert not made[0].keys() & made[1].keys()
    assert (made[0] | made[1]).items() <= bytes_of(tmp_path / 'alone').items()


def test_a_stop_of_another_host_leaves_whole_shards(tmp_path, monkeypatch):
    write(tmp_path / 'whole')
    with monkeypatch.context() as patch:
        patch.setattr(devices, 'any_host', lambda flag: True)
        with pytest.raises(Preempted):
            write(tmp_path / 'stopped')
    assert len(shards(tmp_path / 'stopped')) == 7
    assert not list((tmp_path / 'stopped').rglob('*.json'))  # no dataset yet
    write(tmp_path / 'stopped')
    assert bytes_of(tmp_path / 'stopped') == bytes_of(tmp_path / 'whole')


def test_a_stop_here_begins_no_other_shard(tmp_path):
    with preemption.watched():
        signal.raise_signal(signal.SIGTERM)
        with pytest.raises(Preempted):
            write(tmp_path)
    assert not shards(tmp_path)


def test_an_error_ends_the_work_and_writes_no_part_of_its_shard(tmp_path):
    with pytest.raises(ValueError, match='row 4'):
        write(tmp_path, broken=4)
    assert tmp_path / 'one' not in {path.parent for path in tmp_path.rglob('*.json')}
    assert not any('00001-of' in path.name for path in shards(tmp_path) if path.parts[0] == 'one')


def test_a_table_sink_keeps_ids_and_order(tmp_path):
    ids = np.array([9, 4, 7, 1, 8])
    sink = table_sink(tmp_path, ids, 2)
    assert sink.pending == [0, 1, 2]
    for part in (2, 0, 1):
        sink.write(
            part, [{'x': np.float32(row), 'v': np.arange(2) + row} for row in sink.ranges[part]]
        )
        assert part not in table_sink(tmp_path, ids, 2).pending
    table = read_table(tmp_path)
    np.testing.assert_array_equal(table['ids'], ids)
    np.testing.assert_array_equal(table['x'], np.arange(5))
    np.testing.assert_array_equal(table['v'], np.arange(5)[:, None] + [0, 1])
