"""The stages that decide: by the tables of other steps, or by what they look at themselves."""

import csv
from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
import pytest
from support.small_dataset import COUNT, IDS, IMAGES, LABELS, SHARD, bytes_of, work, write_poisoned

from purify.core import preemption
from purify.core.errors import Preempted, UserError
from purify.core.files import read_json
from purify.data.table import Table
from purify.defenses.method import Decision, Look, Measure, Step
from purify.engine.tables import read_table, write_table
from purify.stages import decide, measure
from purify.stages.known import Data, Diagnosis, Known
from purify.stages.registry import KINDS


@dataclass(frozen=True)
class Above(Decision):
    """Flags who is above the threshold in both tables."""

    threshold: float
    shift: int = 0

    def decide(self, ids, labels, tables, num_classes):
        assert sorted(tables) == ['left', 'right']
        np.testing.assert_array_equal(labels, LABELS)
        flagged = (tables['left']['score'] > self.threshold) & (
            tables['right']['score'] > self.threshold
        )
        share = np.float64(flagged.mean())
        columns = {'ids': ids + self.shift, 'flagged': flagged, 'score': tables['left']['score']}
        columns |= {'wide': np.zeros((len(ids), 2))}
        return Table(
            columns,
            {'share': float(share), 'classes': num_classes, 'seen': tables['left'].facts['seen']},
        )


SCORES = np.random.default_rng(1).normal(size=(2, COUNT))


@pytest.fixture
def run(tmp_path):
    inputs = {'poisoned': write_poisoned(tmp_path / 'poisoned')}
    for role, scores in zip(('left', 'right'), SCORES, strict=True):
        (tmp_path / role).mkdir()
        write_table(tmp_path / role, Table({'ids': IDS, 'score': scores}, {'seen': role}))
        inputs[role] = tmp_path / role

    def run(name='verdicts', **changes):
        decide.run(work(tmp_path / name, inputs), Above(0.0, **changes))
        return tmp_path / name

    return run


def test_the_decision_is_kept_as_columns_and_facts(run):
    table = read_table(run())
    flagged = (SCORES > 0).all(0)
    assert 0 < flagged.sum() < COUNT
    np.testing.assert_array_equal(table['flagged'], flagged)
    np.testing.assert_array_equal(table['ids'], IDS)
    assert table.facts == {'share': flagged.mean(), 'classes': 3, 'seen': 'left'}


def test_people_can_read_it(run):
    folder = run()
    with open(folder / 'verdicts.csv', newline='') as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ['ids', 'flagged', 'score']  # a column of vectors is left out
    assert [int(row['ids']) for row in rows] == IDS.tolist()
    assert [row['flagged'] == '1' for row in rows] == (SCORES > 0).all(0).tolist()
    np.testing.assert_array_equal([float(row['score']) for row in rows], SCORES[0])
    assert read_json(folder / 'findings.json')['classes'] == 3


def test_the_same_tables_give_the_same_bytes(run):
    assert bytes_of(run('one')) == bytes_of(run('other'))


def test_a_decision_about_other_images_is_refused(run, tmp_path):
    with pytest.raises(UserError, match='are not the 23 images'):
        run(shift=1)
    assert not bytes_of(tmp_path / 'verdicts')


@dataclass(frozen=True)
class Brightness(Measure):
    """The mean of every image, and NaN where an image's id is `broken`."""

    broken: int = -1

    def rule(self, models, context):
        wanted = ({}, (6, 6, 3), 3, list('abc'))
        assert (models, context.shape, context.seed, list(context.class_names)) == wanted

        def rule(constants, rows):
            return {
                'mean': rows['image'].astype(jnp.float32).mean((1, 2, 3)),
                'finite': rows['id'] != self.broken,
            }

        return rule


@dataclass(frozen=True)
class Brighter(Decision):
    """Flags who is brighter than the middle, unless the table `left` knows better."""

    def decide(self, ids, labels, tables, num_classes):
        assert sorted(tables) == ['left', 'seen']
        mean = tables['seen'].of(ids, 'mean', np.nan)
        return Table(
            {
                'ids': ids,
                'flagged': (mean > 127.5) & (tables['left']['score'] > 0),
                'known': np.isfinite(mean),
            }
        )


@pytest.fixture
def look(tmp_path):
    inputs = {'poisoned': write_poisoned(tmp_path / 'poisoned'), 'left': tmp_path / 'left'}
    inputs['left'].mkdir()
    write_table(inputs['left'], Table({'ids': IDS, 'score': SCORES[0]}))

    def look(name, broken=-1, **more):
        decide.look(
            work(tmp_path / name, inputs | more, seed=3, shard_size=SHARD),
            Look(Brightness(broken), Brighter(), 'seen'),
        )
        return tmp_path / name

    return look


def test_a_look_measures_and_decides_by_it_and_by_tables_of_others(look):
    folder = look('verdicts')
    means = IMAGES.astype(np.float64).mean((1, 2, 3))
    table = read_table(folder)
    np.testing.assert_array_equal(table['flagged'], (means > 127.5) & (SCORES[0] > 0))
    assert 0 < table['flagged'].sum() < COUNT
    measured = read_table(folder / 'measured')
    np.testing.assert_array_equal(measured['ids'], IDS)
    np.testing.assert_allclose(measured['mean'], means, rtol=1e-6)


def test_what_a_look_saw_is_what_a_measure_alone_would_write(look, tmp_path):
    alone = work(tmp_path / 'alone', {'poisoned': tmp_path / 'poisoned'}, seed=3, shard_size=SHARD)
    measure.run(alone, Brightness())
    assert bytes_of(look('verdicts') / 'measured') == bytes_of(alone.folder)


def test_a_look_sees_open_rows_alone_and_is_told_nothing_of_others(look, tmp_path):
    open_ = np.arange(COUNT) % 3 == 0
    (tmp_path / 'before').mkdir()
    write_table(tmp_path / 'before', Table({'ids': IDS, 'open': open_, 'pick': ~open_}))
    folder = look('verdicts', picked=tmp_path / 'before')
    np.testing.assert_array_equal(read_table(folder / 'measured')['ids'], IDS[open_])
    np.testing.assert_array_equal(read_table(folder)['known'], open_)


def test_a_look_that_is_stopped_decides_nothing_and_ends_the_same(look, tmp_path, monkeypatch):
    whole = bytes_of(look('whole'))
    with monkeypatch.context() as patch:
        patch.setattr(preemption, 'asked', lambda: True)
        with pytest.raises(Preempted):
            look('stopped')
    left = bytes_of(tmp_path / 'stopped')
    assert left
    assert {name.partition('/')[0] for name in left} == {'measured'}
    assert bytes_of(look('stopped')) == whole


def test_a_look_at_what_is_no_number_decides_nothing(look, tmp_path):
    with pytest.raises(UserError, match=f'NaN for 1 images of a batch .ids {IDS[9]}'):
        look('bad', broken=int(IDS[9]))
    assert not list((tmp_path / 'bad').glob('*.npz'))


def test_check_traces_what_a_look_measures():
    class Wrong(Brightness):
        def rule(self, models, context):
            return lambda constants, rows: {'mean': rows['image'] @ jnp.zeros((5, 1))}

    class Wide(Brightness):
        def rule(self, models, context):
            return lambda constants, rows: {'features': jnp.zeros((len(rows['id']), 7))}

    known = Known(Diagnosis(), {'seeds': {'model': 3}}, Data(6, 3, 3, COUNT), {})
    shape = KINDS['look'].shape
    with pytest.raises((TypeError, ValueError)):
        shape(
            known,
            Step(
                'verdicts', 'look', {'poisoned': 'poisoned'}, by=Look(Wrong(), Brighter(), 'seen')
            ),
        )
    shape(
        known, Step('seen', 'look', {'poisoned': 'poisoned'}, by=Look(Wide(), Brighter(), 'seen'))
    )
    assert known.widths == {'seen': 7}
    assert KINDS['look'].uses == KINDS['measure'].uses == ('seed', 'shard_size')
