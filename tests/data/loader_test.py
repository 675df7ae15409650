import os

import numpy as np
import pytest
from support.split_on_disk import COUNT, IDS, picture, write, write_all

from purify.core.errors import UserError
from purify.data import loader
from purify.data.loader import Split, ordered_batches


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    return write_all(tmp_path_factory.mktemp('dataset'))


@pytest.fixture(scope='module')
def split(folder):
    return Split(folder, 'train')


class TestSplit:
    @pytest.fixture(params=[2**30, 0], ids=['in memory', 'from disk'])
    def either(self, request, folder, monkeypatch):
        monkeypatch.setattr(loader, '_may_keep', request.param)
        return Split(folder, 'train')

    def test_records_by_position(self, either):
        assert len(either) == COUNT
        assert (either.shape, either.class_names) == ((6, 6, 1), ['a', 'b', 'c'])
        np.testing.assert_array_equal(either.ids, IDS)
        np.testing.assert_array_equal(either.labels, np.arange(COUNT) % 3)
        for i in (0, 11, COUNT - 1):
            assert (either[i]['id'], either[i]['label']) == (IDS[i], i % 3)
        np.testing.assert_array_equal(either.images([4, 2]), [picture(4), picture(2)])

    def test_all_images_at_once(self, either):
        np.testing.assert_array_equal(either.all_images(), [picture(i) for i in range(COUNT)])

    def test_images_are_decoded_once_for_all_who_ask(self, folder, monkeypatch):
        first = Split(folder, 'train').all_images()
        monkeypatch.setattr(loader, '_row', lambda record: pytest.fail('read again'))
        assert Split(folder, 'train').all_images() is first

    def test_what_is_kept_is_bounded(self, folder, tmp_path, monkeypatch):
        monkeypatch.setattr(loader, '_decoded', {})
        monkeypatch.setattr(loader, '_may_keep', COUNT * 36)
        Split(folder, 'train')
        other = Split(write_all(tmp_path / 'other'), 'train')
        assert [images is other.all_images() for images, _ in loader._decoded.values()] == [True]

    def test_a_process_may_keep_less_but_never_more(self, folder, monkeypatch):
        monkeypatch.setattr(loader, '_decoded', {})
        for most, kept in ((COUNT * 36 - 1, 0), (COUNT * 36, 1)):
            with loader.keep_decoded(most):
                Split(folder, 'train')
            assert len(loader._decoded) == kept
        with loader.keep_decoded(0):
            assert not loader._decoded
        with loader.keep_decoded(2 * loader.CACHE_BYTES):
            assert loader._may_keep == loader.CACHE_BYTES

    def test_what_may_be_kept_is_as_before_afterwards(self):
        before = loader._may_keep
        with pytest.raises(KeyError), loader.keep_decoded(1):
            raise KeyError
        assert loader._may_keep == before

    def test_a_dataset_that_was_written_anew_is_read_anew(self, tmp_path):
        Split(write_all(tmp_path), 'train')
        row = {'id': 5, 'image': picture(77), 'label': 0}
        os.utime(write(tmp_path, [row]) / 'dataset_info.json', ns=(1, 1))
        np.testing.assert_array_equal(Split(tmp_path, 'train').all_images(), [picture(77)])

    def test_a_part_of_the_records(self, either):
        keep = np.arange(COUNT) % 4 == 1
        part = Split(either.folder, 'train', keep=keep)
        assert len(part) == keep.sum()
        np.testing.assert_array_equal(part.ids, IDS[keep])
        found = part.images(range(len(part)))
        np.testing.assert_array_equal(found, [picture(i) for i in np.flatnonzero(keep)])

    def test_positions_of_ids(self, either):
        wanted = np.array([17, 3, 29, 0])
        np.testing.assert_array_equal(either.position_of(IDS[wanted]), wanted)

    @pytest.mark.parametrize('missing', [999, -5, 10**6])
    def test_an_id_that_is_not_there_is_no_other_images_position(self, either, missing):
        with pytest.raises(KeyError, match=f'has no id {missing}'):
            either.position_of(np.array([IDS[0], missing]))

    def test_ids_that_occur_twice(self, tmp_path):
        row = {'id': 5, 'image': picture(0), 'label': 0}
        said = r"ids occur more than once in 'train'; ids must be unique"
        with pytest.raises(UserError, match=said):
            Split(write(tmp_path, [row, row]), 'train')

    def test_one_id_may_have_several_variations(self, tmp_path):
        rows = [{'id': 5, 'image': picture(k), 'label': 0, 'variation': k} for k in range(3)]
        found = Split(write(tmp_path, rows, variations=True), 'train').variations
        np.testing.assert_array_equal(found, [0, 1, 2])

    def test_an_empty_split(self, tmp_path):
        with pytest.raises(UserError, match="the split 'train' is empty"):
            Split(write(tmp_path, []), 'train')


class TestOrderedBatches:
    def fetch(self, position):
        return {'x': np.float32([position, -position]), 'id': position}

    @pytest.mark.parametrize(('count', 'batch'), [(7, 3), (6, 3), (2, 5), (1, 1), (9, 2)])
    def test_all_positions_in_order_and_the_last_batch_padded(self, count, batch):
        positions = [10 * k for k in range(count)]
        found = list(ordered_batches(self.fetch, positions, batch))
        assert [i for piece, _ in found for i in piece] == positions
        for piece, record in found:
            assert record['x'].shape == (batch, 2)
            expected = [*piece, *[piece[-1]] * (batch - len(piece))]
            np.testing.assert_array_equal(record['id'], expected)
            np.testing.assert_array_equal(record['x'][:, 1], -np.array(expected))

    def test_nothing_is_no_batch(self):
        assert list(ordered_batches(self.fetch, [], 4)) == []

    def test_an_error_in_a_thread_is_raised_here(self):
        def fetch(position):
            if position == 5:
                raise UserError('image 5 is broken')
            return self.fetch(position)

        with pytest.raises(UserError, match='image 5 is broken'):
            list(ordered_batches(fetch, range(9), 2))

    def test_no_more_than_two_batches_ahead(self):
        fetched = []

        def fetch(position):
            fetched.append(position)
            return self.fetch(position)

        stream = ordered_batches(fetch, range(100), 2)
        next(stream)
        stream.close()
        assert max(fetched) < 6
