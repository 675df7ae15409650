import csv
from dataclasses import dataclass

import numpy as np
import pytest
from support.small_dataset import COUNT, IDS, LABELS, bytes_of, work, write_poisoned

from purify.core.errors import UserError
from purify.core.files import read_json
from purify.data.table import Table
from purify.defenses.registry import DECISIONS
from purify.engine.tables import read_table, write_table
from purify.stages.decide import decide


@dataclass(frozen=True)
class Above:
    """Flags who is above the threshold in both tables."""

    threshold: float
    shift: int = 0

    def decide(self, ids, labels, tables, num_classes):
        assert sorted(tables) == ['left', 'right']
        np.testing.assert_array_equal(labels, LABELS)
        flagged = (tables['left']['score'] > self.threshold) & (tables['right']['score'] > self.threshold)
        share = np.float64(flagged.mean())
        columns = {'ids': ids + self.shift, 'flagged': flagged, 'score': tables['left']['score'], 'wide': np.zeros((len(ids), 2))}
        return Table(columns, {'share': float(share), 'classes': num_classes, 'seen': tables['left'].facts['seen']})


SCORES = np.random.default_rng(1).normal(size=(2, COUNT))


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.setitem(DECISIONS, 'above', Above)
    inputs = {'poisoned': write_poisoned(tmp_path / 'poisoned')}
    for role, scores in zip(('left', 'right'), SCORES, strict=True):
        (tmp_path / role).mkdir()
        write_table(tmp_path / role, Table({'ids': IDS, 'score': scores}, {'seen': role}))
        inputs[role] = tmp_path / role

    def run(name='verdicts', **settings):
        decide(work(tmp_path / name, inputs, name='above', threshold=0.0, **settings))
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
