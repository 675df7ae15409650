"""The stage that looks at images: every row once, in shards, whatever stops it."""

import zipfile
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.made_run import WeightsOnly
from support.small_dataset import COUNT, IDS, IMAGES, LABELS, SHARD, bytes_of, work, write_poisoned

from purify.core import devices, preemption
from purify.core.errors import Preempted, UserError
from purify.data.table import Table
from purify.defenses.method import Measure
from purify.engine import tables
from purify.engine.tables import read_table, write_table
from purify.stages import measure, models


@dataclass(frozen=True)
class Colours(Measure):
    """Mean colours, a number from (id, label, seed), and NaN where an image's id is `broken`."""

    scale: float = 2.0
    broken: int = -1

    def rule(self, models, context):
        assert (models, context.shape, list(context.class_names)) == ({}, (6, 6, 3), list('abc'))

        def rule(constants, rows):
            number = rows['id'] * 10 + rows['label'] + 1000 * context.seed
            mean = self.scale * rows['image'].astype(jnp.float32).mean((1, 2))
            return {'mean': mean, 'number': number, 'finite': rows['id'] != self.broken}

        return rule


@dataclass(frozen=True)
class Asking(Colours):
    """One that asks a prior's network seven times."""

    def rule(self, models, context):
        assert set(models) == {'prior'}
        return super().rule({}, context)

    def network_calls(self, models):
        assert set(models) == {'prior'}
        return 7


@dataclass(frozen=True)
class Against(Measure):
    """How far every image is from each of the `draws` images it is compared with."""

    draws: int

    def drawn(self):
        return self.draws

    def rule(self, models, context):
        def rule(constants, rows):
            own, drawn = rows['image'].astype(jnp.float32), constants['drawn'].astype(jnp.float32)
            return {'apart': jnp.abs(own[:, None] - drawn[None]).max((2, 3, 4))}

        return rule


@pytest.fixture(scope='module')
def poisoned(tmp_path_factory):
    return write_poisoned(tmp_path_factory.mktemp('poisoned'))


@pytest.fixture
def run(poisoned, tmp_path):
    def run(name, inputs=None, rule=Colours(), **changes):
        given = {'poisoned': poisoned} | (inputs or {})
        measure.run(
            work(tmp_path / name, given, **{'seed': 3, 'shard_size': SHARD} | changes), rule
        )
        return tmp_path / name

    return run


def expected(rows):
    means = 2 * IMAGES[rows].astype(np.float64).mean((1, 2))
    return means, IDS[rows] * 10 + LABELS[rows] + 3000


def check(table, rows):
    means, numbers = expected(rows)
    assert set(table.columns) == {'ids', 'mean', 'number'}
    np.testing.assert_array_equal(table['ids'], IDS[rows])
    np.testing.assert_array_equal(table['number'], numbers)
    np.testing.assert_allclose(table['mean'], means, rtol=1e-5)


def test_every_row_in_the_order_of_the_dataset(run):
    folder = run('all')
    assert len(list(folder.iterdir())) == -(-COUNT // SHARD)
    check(read_table(folder), np.arange(COUNT))


def test_the_bytes_are_those_of_the_numbers(run):
    one, other = run('one'), run('other', shard_size=SHARD)
    assert bytes_of(one) == bytes_of(other)
    with zipfile.ZipFile(next(one.iterdir())) as archive:
        assert {info.date_time for info in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}


def test_a_restart_does_the_missing_shards_alone(run):
    folder = run('all')
    before = bytes_of(folder)
    parts = sorted(folder.iterdir())
    parts[1].unlink()
    kept = {path: path.stat().st_mtime_ns for path in parts if path.exists()}
    run('all')
    assert bytes_of(folder) == before
    assert {path: path.stat().st_mtime_ns for path in kept} == kept


def test_a_stop_leaves_whole_shards_and_the_next_run_ends_the_same(run, monkeypatch, tmp_path):
    whole = bytes_of(run('whole'))
    with monkeypatch.context() as patch:
        patch.setattr(preemption, 'asked', lambda: True)
        with pytest.raises(Preempted):
            run('stopped')
    left = bytes_of(tmp_path / 'stopped')
    assert 0 < len(left) < len(whole)
    assert left.items() <= whole.items()
    assert bytes_of(run('stopped')) == whole


def test_network_calls_are_counted_over_restarts(poisoned, tmp_path, monkeypatch):
    monkeypatch.setattr(models, 'load_variation_model', lambda *args, **options: WeightsOnly())
    counted = []
    for missing in (None, 1):
        given = work(
            tmp_path / 'asks', {'poisoned': poisoned, 'prior': tmp_path}, seed=3, shard_size=SHARD
        )
        if missing is not None:
            sorted(given.folder.iterdir())[missing].unlink()
        measure.run(given, Asking())
        counted.append(given.cost.network_calls)
    assert counted == [7 * COUNT, 7 * SHARD]


def test_hosts_take_shards_in_turn(run, monkeypatch, tmp_path):
    """Two hosts one after another; the second looked at the folder when it was still empty."""
    written, one = {}, run('one')
    monkeypatch.setattr(devices, 'put_copy', lambda tree, mesh: tree)
    monkeypatch.setattr(devices, 'barrier', lambda name: None)
    monkeypatch.setattr(devices, 'any_host', lambda flag: flag)
    monkeypatch.setattr(jax, 'process_count', lambda: 2)
    for host in (0, 1):
        monkeypatch.setattr(jax, 'process_index', lambda host=host: host)
        written[host] = bytes_of(run(f'host{host}'))
    wanted = [[0, 2, 4], [1, 3]]
    assert [sorted(int(name[5:10]) for name in found) for found in written.values()] == wanted
    assert written[0] | written[1] == bytes_of(one)


def pick(folder, rows):
    folder.mkdir()
    write_table(
        folder,
        Table({'ids': IDS, 'open': (chosen := np.isin(np.arange(COUNT), rows)), 'pick': ~chosen}),
    )
    return folder


def test_only_the_open_rows(run, tmp_path):
    rows = np.array([2, 3, 5, 7, 11, 13, 17, 19])
    check(read_table(run('some', {'picked': pick(tmp_path / 'picks', rows)})), rows)


def test_a_table_of_no_rows_has_the_columns_of_others(run, tmp_path):
    folder = run('none', {'picked': pick(tmp_path / 'picks', [])})
    check(read_table(folder), np.zeros(0, int))
    found, full = read_table(folder), read_table(run('all'))
    seen = {name: (column.dtype, column.shape[1:]) for name, column in found.columns.items()}
    assert seen == {name: (column.dtype, column.shape[1:]) for name, column in full.columns.items()}
    assert bytes_of(folder) == bytes_of(run('none', {'picked': tmp_path / 'picks'}))


def test_open_rows_of_other_images_are_refused(run, tmp_path):
    (tmp_path / 'picks').mkdir()
    write_table(tmp_path / 'picks', Table({'ids': IDS[::-1], 'open': np.ones(COUNT, bool)}))
    with pytest.raises(UserError, match='are not the 23 images'):
        run('some', {'picked': tmp_path / 'picks'})


def test_rows_that_are_no_numbers_are_refused_by_id_and_not_written(run, tmp_path):
    with pytest.raises(UserError, match=f'NaN for 1 images of a batch .ids {IDS[9]}'):
        run('bad', rule=Colours(broken=int(IDS[9])))
    assert f'rows-{9 // SHARD:05d}-of-00005.npz' not in bytes_of(tmp_path / 'bad')


@dataclass(frozen=True)
class Halved(Colours):
    """One that computes in bfloat16."""

    dtype: str = 'bfloat16'


def test_broken_rows_name_what_the_rule_computes_in(run):
    for rule, named in (
        (Colours(broken=int(IDS[9])), 'The weights of a model may be broken'),
        (Halved(broken=int(IDS[9])), 'Computing in bfloat16 may overflow'),
    ):
        with pytest.raises(UserError, match=named):
            run(named, rule=rule)


def test_a_rule_is_handed_as_many_images_as_it_asks_for(run):
    apart, other = (
        read_table(run(f'seed{seed}', rule=Against(4), seed=seed))['apart'] for seed in (3, 4)
    )
    assert apart.shape == (COUNT, 4)
    drawn = apart.argmin(0)  # each is one of the dataset, none comes twice, and they keep its order
    np.testing.assert_array_equal(apart[drawn, np.arange(4)], np.zeros(4))
    assert (np.diff(drawn) > 0).all()
    assert not np.array_equal(apart, other)
    found = np.sort(read_table(run('whole', rule=Against(COUNT)))['apart'].argmin(0))
    np.testing.assert_array_equal(found, np.arange(COUNT))


def test_more_images_than_there_are_cannot_be_drawn(run):
    with pytest.raises(UserError, match=r'draws=24: .* has 23 images'):
        run('bad', rule=Against(COUNT + 1))


def test_a_table_with_a_part_missing_or_broken_is_none(run):
    folder = run('all')
    part = sorted(folder.iterdir())[2]
    whole = part.read_bytes()
    part.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=part.name):
        read_table(folder)
    part.unlink()
    with pytest.raises(UserError, match='no whole table'):
        read_table(folder)
    assert tables.part_path(folder, 2, 5) == part
