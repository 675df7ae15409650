import numpy as np
import pytest

from purify.core.errors import UserError
from purify.data import builders, loader
from purify.data.edits import Edited
from purify.data.loader import Split
from purify.data.training_set import Place, TrainingSet

COUNT = 12
IDS = 100 - 7 * np.arange(COUNT)
EVERY, NONE = np.ones(COUNT, bool), np.full(COUNT, -1)
LABELS = np.arange(COUNT, dtype=np.int32) % 3


def picture(*numbers):
    return np.random.default_rng(numbers).integers(0, 256, (6, 6, 1), np.uint8)


def write(folder, records, size_px=6):
    variations = 'variation' in records[0]
    writer = builders.DatasetWriter(
        folder, 'd', 'train', builders.make_features(size_px, 1, list('abc'), variations), 1
    )
    writer.write(0, records)
    writer.finish([len(records)])
    return folder


@pytest.fixture(scope='module')
def folders(tmp_path_factory):
    """The dataset, and two replacements: images 1, 4 as candidate 7; images 4, 5 as candidate 2."""
    base = tmp_path_factory.mktemp('edits')
    write(
        base / 'given', [{'id': IDS[i], 'image': picture(i), 'label': i % 3} for i in range(COUNT)]
    )
    for name, rows, candidate in (('first', (1, 4), 7), ('second', (5, 4), 2)):
        records = [
            {'id': IDS[i], 'image': picture(i, candidate), 'label': 0, 'variation': candidate}
            for i in rows
        ]
        write(base / name, records)
    return base


@pytest.fixture(params=[2**30, 0], ids=['in memory', 'from disk'])
def splits(request, folders, monkeypatch):
    monkeypatch.setattr(loader, '_may_keep', request.param)
    return [Split(folders / name, 'train') for name in ('given', 'first', 'second')]


def edits():
    """0, 1, 4, 5, 9 stay; 1 and 5 are called anew; 1 is candidate 7, 4 and 5 are candidate 2."""
    keep, labels, candidate = np.isin(np.arange(COUNT), [0, 1, 4, 5, 9]), LABELS.copy(), NONE.copy()
    labels[[1, 5]] = 2, 0
    candidate[[1, 4, 5]] = 7, 2, 2
    return keep, labels, candidate


def test_the_kept_records_come_in_order_with_new_labels_and_images(splits):
    given, *replacements = splits
    edited = Edited(given, *edits(), replacements)
    expected = [(0, 0, picture(0)), (1, 2, picture(1, 7)), (4, 1, picture(4, 2))]
    expected += [(5, 0, picture(5, 2)), (9, 0, picture(9))]
    assert len(edited) == len(expected)
    for position, (row, label, image) in enumerate(expected):
        record = edited[position]
        assert set(record) == {'id', 'image', 'label'}
        assert (record['id'], record['label']) == (IDS[row], label)
        np.testing.assert_array_equal(record['image'], image)
        found = {name: np.asarray(value).dtype for name, value in record.items()}
        assert found == {name: np.asarray(value).dtype for name, value in given[row].items()}
    np.testing.assert_array_equal(edited.ids, IDS[[0, 1, 4, 5, 9]])
    np.testing.assert_array_equal(edited.labels, [0, 2, 1, 0, 0])


def test_it_is_a_split_to_all_readers(splits):
    given, *replacements = splits
    edited = Edited(given, *edits(), replacements)
    wanted = (given.shape, given.class_names, given.folder)
    assert (edited.shape, edited.class_names, edited.folder) == wanted
    np.testing.assert_array_equal(edited.position_of(IDS[[9, 1]]), [4, 1])
    with pytest.raises(KeyError):
        edited.position_of(IDS[[2]])
    np.testing.assert_array_equal(edited.images([1, 0]), [picture(1, 7), picture(0)])
    order = {'batch': 5, 'seed': 0, 'start_step': 0, 'place': Place(0, 1)}
    epoch = next(TrainingSet(edited).batches(**order))
    found = sorted(zip(epoch['id'].tolist(), epoch['label'].tolist(), strict=True))
    assert found == sorted(zip(edited.ids.tolist(), edited.labels.tolist(), strict=True))


def test_the_split_behind_it_is_untouched(splits):
    given, *replacements = splits
    Edited(given, *edits(), replacements)[1]
    assert (given[1]['label'], replacements[0][0]['variation']) == (1, 7)
    np.testing.assert_array_equal(given.labels, LABELS)


def test_an_image_that_is_not_kept_needs_no_replacement(splits):
    given = splits[0]
    candidate = np.where(np.arange(COUNT) == 3, 5, -1)
    assert len(Edited(given, np.arange(COUNT) != 3, LABELS, candidate)) == COUNT - 1


@pytest.mark.parametrize(
    ('keep', 'labels', 'candidate', 'message'),
    [
        (~EVERY, LABELS, NONE, 'none of its 12 images'),
        (EVERY, LABELS, np.where(np.arange(COUNT) == 1, 2, -1), f'candidate 2 of image {IDS[1]}'),
        (EVERY, LABELS + 1, NONE, 'label 3 is not a class'),
        (EVERY, LABELS - 1, NONE, 'label -1 is not a class'),
    ],
)
def test_edits_that_cannot_be_are_refused(splits, keep, labels, candidate, message):
    with pytest.raises(UserError, match=message):
        Edited(splits[0], keep, labels, candidate, splits[1:])


def test_replacements_of_another_size_are_refused(folders, splits, tmp_path):
    write(
        tmp_path,
        [{'id': IDS[0], 'image': np.zeros((4, 4, 1), np.uint8), 'label': 0, 'variation': 0}],
        size_px=4,
    )
    with pytest.raises(UserError, match=r'\(4, 4, 1\)'):
        Edited(splits[0], EVERY, LABELS, NONE, [Split(tmp_path, 'train')])
