"""Tables on disk: what is no whole table of sound columns is the user's error."""

import numpy as np
import pytest

from purify.core.errors import UserError
from purify.data.builders import DatasetWriter, make_features
from purify.data.loader import Split
from purify.data.table import Table
from purify.engine.tables import (
    FACTS,
    FINDINGS,
    apply_edits,
    part_path,
    read_columns,
    read_table,
    write_columns,
    write_table,
)

COLUMNS = {
    'ids': np.arange(5),
    'score': np.linspace(0, 1, 5, dtype=np.float32),
    'flagged': np.arange(5) > 2,
}


def write_parts(folder, **other):
    """A table of two parts; `other` columns of the second."""
    for part, rows in enumerate((slice(0, 3), slice(3, 5))):
        columns = {name: column[rows] for name, column in COLUMNS.items()}
        write_columns(part_path(folder, part, 2), columns | (other if part else {}))


def test_parts_come_back_as_one_table(tmp_path):
    write_parts(tmp_path)
    found = read_table(tmp_path).columns
    assert set(found) == set(COLUMNS)
    for name, column in COLUMNS.items():
        np.testing.assert_array_equal(found[name], column)


@pytest.mark.parametrize('keep', [0, 1, 21, 100, -200, -30, -1])
def test_a_cut_file_is_named(tmp_path, keep):
    write_table(tmp_path, Table(COLUMNS, {}))
    whole = (tmp_path / FINDINGS).read_bytes()
    (tmp_path / FINDINGS).write_bytes(whole[:keep])
    said = rf'{FINDINGS}: cannot be read .*Delete its stage folder and run again'
    with pytest.raises(UserError, match=said):
        read_table(tmp_path)


def save_array(path):
    with path.open('wb') as file:
        np.save(file, np.arange(3))


def test_what_is_no_npz_is_named(tmp_path):
    for name, write in {
        'one.npz': save_array,
        'objects.npz': lambda path: np.savez(path, ids=np.array([{}], object)),
        'text.npz': lambda path: path.write_text('ids'),
        'folder.npz': lambda path: path.mkdir(),
        'none.npz': lambda path: None,
    }.items():
        write(tmp_path / name)
        with pytest.raises(UserError, match=f'{name}: cannot be read'):
            read_columns(tmp_path / name)


@pytest.mark.parametrize(
    ('columns', 'told'),
    [
        ({'ids': None}, "'ids' is missing"),
        ({'ids': np.linspace(0, 1, 5)}, "'ids' is missing or of another type"),
        ({'ids': np.int64(3)}, "'ids' is missing or of another type"),
        ({'score': np.zeros(4)}, 'flagged, ids, score are not of one length'),
        ({'score': np.float32(1)}, 'not of one length'),
    ],
)
def test_columns_that_make_no_table_are_named(tmp_path, columns, told):
    given = {name: column for name, column in (COLUMNS | columns).items() if column is not None}
    write_columns(tmp_path / FINDINGS, given)
    (tmp_path / FACTS).write_text('{}')
    with pytest.raises(UserError, match=rf'{FINDINGS}: .*columns? .*{told}'):
        read_table(tmp_path)


@pytest.mark.parametrize(
    'other', [{'more': np.zeros(2)}, {'score': np.zeros((2, 3))}, {'score': np.zeros(2, bool)}]
)
def test_parts_of_different_tables_are_told(tmp_path, other):
    write_parts(tmp_path, **other)
    with pytest.raises(UserError, match='parts of its table hold different columns'):
        read_table(tmp_path)


@pytest.mark.parametrize(
    'harm', ['missing', 'of another count', 'of another number', 'there twice']
)
def test_a_table_that_is_not_whole_is_told(tmp_path, harm):
    write_parts(tmp_path)
    last = part_path(tmp_path, 1, 2)
    others = {
        'of another count': part_path(tmp_path, 1, 3),
        'of another number': part_path(tmp_path, 2, 2),
    }
    others['there twice'] = tmp_path / 'rows-000000-of-00002.npz'
    last.rename(others[harm]) if harm in others else last.unlink()
    with pytest.raises(UserError, match=r'holds no whole table \(\d parts\)'):
        read_table(tmp_path)


def test_findings_beside_the_parts_of_a_measured_table_are_two_tables(tmp_path):
    write_parts(tmp_path)
    write_table(tmp_path, Table(COLUMNS, {}))
    said = r'holds two tables, findings\.npz and rows-00000-of-00002\.npz'
    with pytest.raises(UserError, match=said):
        read_table(tmp_path)


@pytest.mark.parametrize('text', ['', '[]', '3', 'null', '"x"'])
def test_facts_of_another_type_are_named(tmp_path, text):
    write_table(tmp_path, Table(COLUMNS, {'a': 1}))
    (tmp_path / FACTS).write_text(text)
    with pytest.raises(UserError, match=FACTS):
        read_table(tmp_path)


@pytest.fixture
def split(tmp_path):
    """Five images of 4 px, numbered 0 to 4, of two classes."""
    writer = DatasetWriter(tmp_path / 'data', 'd', 'train', make_features(4, 1, list('ab')), 1)
    blank = np.zeros((4, 4, 1), np.uint8)
    writer.write(0, [{'id': i, 'image': blank + i, 'label': i % 2} for i in range(5)])
    writer.finish([5])
    return Split(tmp_path / 'data', 'train')


@pytest.mark.parametrize('role', ['flagged', 'edits'])
def test_a_table_leaves_the_flagged_alone_or_whom_it_keeps(tmp_path, split, role):
    edits = {
        'keep': np.array([True, True, False, False, True]),
        'labels': np.array([1, 1, 0, 0, 0], np.int32),
        'candidate': np.full(5, -1),
    }
    write_table(tmp_path / 'table', Table(COLUMNS | edits, {}))
    left = apply_edits(split, {'data': tmp_path / 'data', role: tmp_path / 'table'})
    ids, labels = {'flagged': ([3, 4], [1, 0]), 'edits': ([0, 1, 4], [1, 1, 0])}[role]
    assert (left.ids.tolist(), left.labels.tolist()) == (ids, labels)
    assert [int(record['image'][0, 0, 0]) for record in left.source] == ids
    assert apply_edits(split, {'data': tmp_path / 'data'}) is split


def test_a_table_of_other_images_is_refused(tmp_path, split):
    write_table(tmp_path / 'table', Table(COLUMNS | {'ids': np.arange(5) + 1}, {}))
    with pytest.raises(UserError, match='its 5 rows are not the 5 images of'):
        apply_edits(split, {'flagged': tmp_path / 'table'})
