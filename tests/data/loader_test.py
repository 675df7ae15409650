import itertools

import numpy as np
import pytest

from purify.core.errors import UserError
from purify.data import builders, loader
from purify.data.augment import PadCrop
from purify.data.loader import Place, Split, ordered_batches, training_batches

COUNT, BATCH, STEPS = 30, 8, 9  # 72 images: over the ends of two epochs
IDS = 1000 - 7 * np.arange(COUNT)


def write(folder, records, *, variations=False):
    writer = builders.DatasetWriter(
        folder, 'd', 'train', builders.make_features(6, 1, list('abc'), variations), 1
    )
    writer.write(0, records)
    writer.finish([len(records)])
    return folder


def picture(i):
    return np.random.default_rng(i).integers(0, 256, (6, 6, 1), np.uint8)


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    records = [{'id': IDS[i], 'image': picture(i), 'label': i % 3} for i in range(COUNT)]
    return write(tmp_path_factory.mktemp('dataset'), records)


@pytest.fixture(scope='module')
def split(folder):
    return Split(folder, 'train')


def batches(split, *, start=0, steps=STEPS, place=(0, 1), seed=3, **options):
    transforms = options.pop('transforms', [PadCrop(pad_px=2)])
    stream = training_batches(
        split,
        batch=BATCH,
        seed=seed,
        start_step=start,
        place=Place(*place),
        transforms=transforms,
        threads=2,
        **options,
    )
    return list(itertools.islice(stream, steps))


def assert_equal(found, expected):
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert set(one) == set(other)
        for name in one:
            np.testing.assert_array_equal(one[name], other[name])


class TestSplit:
    @pytest.fixture(params=[2**30, 0], ids=['in memory', 'from disk'])
    def either(self, request, folder, monkeypatch):
        monkeypatch.setattr(loader, 'CACHE_BYTES', request.param)
        return Split(folder, 'train')

    def test_records_by_position(self, either):
        assert len(either) == COUNT
        assert (either.shape, either.class_names) == ((6, 6, 1), ['a', 'b', 'c'])
        np.testing.assert_array_equal(either.ids, IDS)
        np.testing.assert_array_equal(either.labels, np.arange(COUNT) % 3)
        for i in (0, 11, COUNT - 1):
            assert (either[i]['id'], either[i]['label']) == (IDS[i], i % 3)
        np.testing.assert_array_equal(either.images([4, 2]), [picture(4), picture(2)])

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


class TestTrainingBatches:
    def test_batches_hold_records_of_the_split(self, split):
        for batch in batches(split, transforms=[]):
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

    def test_another_seed_is_another_order(self, split):
        assert list(batches(split, seed=3)[0]['id']) != list(batches(split, seed=4)[0]['id'])

    def test_every_draw_of_an_image_is_augmented_anew(self, split):
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
        monkeypatch.setattr(loader, 'CACHE_BYTES', 0)
        assert_equal(batches(Split(folder, 'train')), batches(split))

    def test_a_batch_that_does_not_split_over_the_hosts(self, split):
        said = r'batch=8 must be a multiple of the 3 hosts'
        with pytest.raises(UserError, match=said):
            batches(split, place=(0, 3))

    def test_a_seed_that_is_none(self, split):
        with pytest.raises(UserError, match='seed -1: choose a whole'):
            batches(split, seed=-1)


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
