"""What a training draws is a function of (seed, step), as rows or as numbers of rows."""

import itertools

import numpy as np
import pytest
from support.split_on_disk import COUNT, IDS, picture, write, write_all

from purify.core.errors import UserError
from purify.data import loader
from purify.data.edits import Edited
from purify.data.loader import Split
from purify.data.training_set import Place, TrainingSet

BATCH, STEPS = 8, 9  # 72 images: over the ends of two epochs


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    return write_all(tmp_path_factory.mktemp('dataset'))


@pytest.fixture(scope='module')
def split(folder):
    return Split(folder, 'train')


class Darken:
    """Poison that is drawn anew at every draw."""

    def random_map(self, record, rng):
        return record | {'image': record['image'] // np.uint8(rng.integers(1, 5)), 'label': 0}


def batches(split, *, start=0, steps=STEPS, place=(0, 1), seed=3, **options):
    data = split if isinstance(split, TrainingSet) else TrainingSet(split, poison=Darken())
    order = {'batch': BATCH, 'seed': seed, 'start_step': start, 'place': Place(*place)}
    return list(itertools.islice(data.batches(**order, threads=2, **options), steps))


def assert_equal(found, expected):
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert set(one) == set(other)
        for name in one:
            np.testing.assert_array_equal(one[name], other[name])


class TestBatches:
    def test_hold_records_of_the_split(self, split):
        for batch in batches(TrainingSet(split)):
            assert batch['image'].shape == (BATCH, 6, 6, 1)
            for image, label, identity in zip(
                batch['image'], batch['label'], batch['id'], strict=True
            ):
                position = int(np.flatnonzero(identity == IDS)[0])
                np.testing.assert_array_equal(image, picture(position))
                assert label == position % 3

    def test_every_epoch_is_another_order_of_all_images(self, split):
        ids = np.concatenate([batch['id'] for batch in batches(split, steps=15)])
        epochs = ids[: 4 * COUNT].reshape(4, COUNT)
        for epoch in epochs:
            assert sorted(epoch) == sorted(IDS)
        assert len({tuple(epoch) for epoch in epochs}) == 4

    @pytest.mark.parametrize('numbers', [False, True])
    def test_rows_say_their_epoch_if_they_are_asked(self, split, numbers):
        data, count = TrainingSet(split), len(split)
        place = Place(0, 1)
        how = {'batch': 8, 'seed': 3, 'place': place, 'numbers': numbers}
        drawn = data.batches(start_step=2, epochs=True, **how)
        plain = data.batches(start_step=2, **how)
        for step in range(2, 2 + count // 8):
            rows, same = next(drawn), next(plain)
            expected = np.arange(8 * step, 8 * step + 8) // count
            np.testing.assert_array_equal(rows.pop('epoch'), expected)
            assert set(rows) == set(same)
            for name, column in same.items():
                np.testing.assert_array_equal(rows[name], column)

    def test_another_seed_is_another_order(self, split):
        assert list(batches(split, seed=3)[0]['id']) != list(batches(split, seed=4)[0]['id'])

    def test_every_draw_of_an_image_is_poisoned_anew(self, split):
        drawn = {}
        for batch in batches(split, steps=15):
            for identity, image in zip(batch['id'].tolist(), batch['image'], strict=True):
                drawn.setdefault(identity, set()).add(image.tobytes())
        assert np.mean([len(images) for images in drawn.values()]) > 2

    @pytest.mark.parametrize('hosts', [2, 4])
    def test_hosts_share_the_same_global_batches(self, split, hosts):
        alone = batches(split)
        shares = [batches(split, place=(host, hosts)) for host in range(hosts)]
        assert {len(share[0]['id']) for share in shares} == {BATCH // hosts}
        together = [
            # as `put_batch` lays them side by side
            {name: np.concatenate([part[name] for part in step]) for name in step[0]}
            for step in zip(*shares, strict=True)
        ]
        assert_equal(together, alone)

    @pytest.mark.parametrize('start', [1, 4, 7])
    def test_a_restart_goes_on_with_the_very_same_batches(self, split, start):
        assert_equal(batches(split, start=start, steps=STEPS - start), batches(split)[start:])

    def test_a_worker_process_changes_nothing(self, split):
        assert_equal(batches(split, steps=3, start=2, workers=1), batches(split, steps=3, start=2))

    def test_threads_and_the_cache_change_nothing(self, split, folder, monkeypatch):
        monkeypatch.setattr(loader, '_may_keep', 0)
        assert_equal(batches(Split(folder, 'train')), batches(split))

    def test_a_batch_that_does_not_split_over_the_hosts(self, split):
        said = r'batch=8 must be a multiple of the 3 hosts'
        with pytest.raises(UserError, match=said):
            batches(split, place=(0, 3))

    def test_a_seed_that_is_none(self, split):
        with pytest.raises(UserError, match='seed -1: choose a whole'):
            batches(split, seed=-1)


class TestHeld:
    """Numbers find in the held columns what the rows would have held."""

    @pytest.fixture(params=['plain', 'edited', 'varied', 'with others'])
    def data(self, request, split, tmp_path):
        if request.param == 'plain':
            return TrainingSet(split)
        if request.param == 'with others':
            keep = np.arange(COUNT) % 2 == 0
            return TrainingSet(split, others=Split(split.folder, 'train', keep=keep))
        rows = [
            {'id': IDS[i // 2], 'image': picture(90 + i), 'label': i % 3, 'variation': i % 2}
            for i in range(2 * COUNT)
        ]
        varied = Split(write(tmp_path, rows, variations=True), 'train')
        if request.param == 'varied':
            return TrainingSet(varied)
        keep, candidate = np.arange(COUNT) % 5 > 0, np.where(np.arange(COUNT) % 3, 1, -1)
        return TrainingSet(Edited(split, keep, (split.labels + 1) % 3, candidate, [varied]))

    def test_rows_are_the_same(self, data):
        held = data.held()
        for numbers, rows in zip(batches(data, numbers=True), batches(data), strict=True):
            found = {
                name: column[numbers[number]]
                for number, columns in held.items()
                for name, column in columns.items()
            }
            assert_equal([found], [rows])

    def test_it_knows_its_size_and_whether_poison_changes_it(self, split):
        assert TrainingSet(split).bytes == COUNT * 36
        assert TrainingSet(split, others=split).bytes == 2 * COUNT * 36
        assert not TrainingSet(split).changes
        assert TrainingSet(split, poison=Darken()).changes
        assert TrainingSet(split, poison_last=Darken()).changes


class TestOthers:
    def test_a_record_gets_another_image_without_its_label(self, split):
        others = Split(split.folder, 'train', keep=np.arange(COUNT) < 4)
        seen = set()
        for batch in batches(TrainingSet(split, others=others)):
            assert set(batch) == {'id', 'image', 'label', 'unlabelled', 'unlabelled_id'}
            for image, identity in zip(batch['unlabelled'], batch['unlabelled_id'], strict=True):
                position = int(np.flatnonzero(identity == IDS)[0])
                np.testing.assert_array_equal(image, picture(position))
                seen.add(position)
        assert seen == {0, 1, 2, 3}

    def test_none_is_an_error(self, split):
        none = Split(split.folder, 'train', keep=np.zeros(COUNT, bool))
        with pytest.raises(UserError, match='credible'):
            TrainingSet(split, others=none)
