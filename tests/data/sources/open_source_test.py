from collections import Counter

import numpy as np
import pytest
from PIL import Image
from support.plain import PLAIN

from purify.core.errors import UserError
from purify.data.sources import open_source as sources

CLASSES = ('ant', 'bee', 'cat', 'dog')


def open_digits(**changes):
    return sources.open_source('digits', **(PLAIN | {'size_px': 16, 'channels': 1} | changes))


def images_of(pool):
    return np.stack([pool.fetch(i) for i in range(len(pool))])


@pytest.fixture
def arrays(tmp_path):
    """60 training and 24 test images, 8 x 8, four classes; image i of a split is filled with i."""
    for split, count in (('train', 60), ('test', 24)):
        pixels = np.broadcast_to(
            np.arange(count, dtype=np.uint8)[:, None, None, None], (count, 8, 8, 3)
        )
        np.savez(
            tmp_path / f'{split}.npz',
            images=pixels,
            labels=np.arange(count) % 4,
            class_names=CLASSES,
        )
    return str(tmp_path)


def open_arrays(path, **changes):
    return sources.open_source('arrays', **(PLAIN | {'path': path} | changes))


class TestDigits:
    def test_three_pools_that_share_no_image(self):
        source = open_digits(reference='own')
        pools = source.train.ids, source.test.ids, source.reference.ids
        assert [len(ids) for ids in pools] == [800, 297, 700]
        assert sorted(np.concatenate(pools)) == list(range(1797))

    def test_pixels_are_scikit_learns_doubled(self):
        from sklearn.datasets import load_digits

        digits, source = load_digits(), open_digits(reference='own')
        for pool in (source.train, source.test, source.reference):
            for position in (0, 7, len(pool) - 1):
                expected = np.kron(digits.images[pool.ids[position]] / 16, np.ones((2, 2))) * 255
                np.testing.assert_allclose(pool.fetch(position)[..., 0], expected, atol=0.5)
            np.testing.assert_array_equal(pool.labels, digits.target[pool.ids])

    def test_the_cut_does_not_depend_on_the_split_seed(self):
        np.testing.assert_array_equal(open_digits(split_seed=5).train.ids, open_digits().train.ids)

    def test_only_in_grey(self):
        with pytest.raises(UserError, match=r'source\.channels must be 1, not 3'):
            open_digits(channels=3)

    def test_reference_of_chosen_classes_carries_no_foreign_label(self):
        source = open_digits(reference='own', classes='2')
        assert len(source.class_names) == 2
        assert source.reference.labels.max() == 0
        assert set(source.train.labels) == {0, 1}


class TestImagefolder:
    @pytest.fixture
    def folder(self, tmp_path):
        """Every class holds one picture of each format, all of one colour."""
        for split in ('train', 'test'):
            for k, name in enumerate(CLASSES):
                here = tmp_path / split / name
                here.mkdir(parents=True)
                colour = Image.new('RGB', (12, 10), (40 * k, 100, 200))
                colour.save(here / 'a.png')
                colour.save(here / 'b.JPG')
                colour.save(here / 'c.webp')
                colour.convert('L').save(here / 'd.png')
                colour.convert('RGBA').save(here / 'e.png')
                colour.quantize(8).save(here / 'f.gif')
        return tmp_path

    def open(self, folder, **changes):
        return sources.open_source('imagefolder', **(PLAIN | {'path': str(folder)} | changes))

    def test_every_format_shows_its_colour(self, folder):
        source = self.open(folder)
        assert source.class_names == list(CLASSES)
        assert Counter(source.train.labels.tolist()) == dict.fromkeys(range(4), 6)
        np.testing.assert_array_equal(source.train.ids, np.arange(24))
        found = images_of(source.train)
        assert found.shape == (24, 8, 8, 3)
        assert found.dtype == np.uint8
        for position, label in enumerate(source.train.labels):
            colour = (
                np.array([40 * label, 100, 200])
                if position % 6 != 3
                else np.array([40 * label, 100, 200]) @ (0.299, 0.587, 0.114)
            )
            wanted = np.broadcast_to(colour, (8, 8, 3)) if position % 6 != 3 else colour
            np.testing.assert_allclose(found[position], wanted, atol=6)

    def test_grey_on_demand(self, folder):
        source = self.open(folder, channels=1)
        assert images_of(source.test).shape == (24, 8, 8, 1)

    def test_a_broken_picture_is_known_when_it_is_read(self, folder):
        (folder / 'train' / 'ant' / 'a.png').write_bytes(b'\x89PNG\r\n')
        source = self.open(folder)
        with pytest.raises(UserError, match=r'train/ant/a\.png: not a readable picture'):
            source.train.fetch(0)


class TestArrays:
    def test_images_come_back_by_id(self, arrays):
        source = open_arrays(arrays)
        assert source.class_names == list(CLASSES)
        assert (len(source.train), len(source.test)) == (60, 24)
        np.testing.assert_array_equal(images_of(source.train)[:, 0, 0, 0], source.train.ids)
        np.testing.assert_array_equal(source.train.labels, source.train.ids % 4)

    def test_ids_of_its_own_and_no_class_names(self, tmp_path):
        for split in ('train', 'test'):
            np.savez(
                tmp_path / f'{split}.npz',
                images=np.zeros((4, 8, 8), np.uint8),
                labels=[0, 1, 2, 1],
                ids=[9, 7, 5, 3],
            )
        source = open_arrays(str(tmp_path), channels=1)
        assert source.class_names == ['0', '1', '2']
        np.testing.assert_array_equal(source.train.ids, [9, 7, 5, 3])
        assert source.train.fetch(0).shape == (8, 8, 1)

    def test_images_are_resized(self, arrays):
        assert images_of(open_arrays(arrays, size_px=5).train).shape == (60, 5, 5, 3)


class TestChoosing:
    def test_held_out_reference_shares_no_image_with_training(self, arrays):
        source = open_arrays(arrays, reference='held_out', reference_size=20)
        assert (len(source.train), len(source.reference)) == (40, 20)
        assert sorted([*source.train.ids, *source.reference.ids]) == list(range(60))
        np.testing.assert_array_equal(images_of(source.reference)[:, 0, 0, 0], source.reference.ids)
        smaller = open_arrays(arrays, reference='held_out', reference_size=20, train_size=16)
        assert set(smaller.train.ids) < set(source.train.ids)
        np.testing.assert_array_equal(smaller.reference.ids, source.reference.ids)

    def test_the_first_images_can_be_kept_apart(self, arrays):
        source = open_arrays(arrays, reference='first', reference_size=20)
        assert list(source.reference.ids) == list(range(20))
        assert list(source.train.ids) == list(range(20, 60))
        smaller = open_arrays(arrays, reference='first', reference_size=20, train_size=16)
        assert len(smaller.train) == 16
        assert set(smaller.train.ids) < set(source.train.ids)
        other = open_arrays(
            arrays, reference='first', reference_size=20, train_size=16, split_seed=1
        )
        assert list(other.reference.ids) == list(range(20))
        assert list(other.train.ids) != list(smaller.train.ids)

    def test_the_first_images_can_be_left_out(self, arrays):
        source = open_arrays(arrays, skip=20)
        assert list(source.train.ids) == list(range(20, 60))
        assert (len(source.test), source.reference) == (24, None)
        chosen = open_arrays(arrays, skip=20, classes='dog,bee')
        assert min(chosen.train.ids) >= 20
        assert set(chosen.train.ids % 4) == {1, 3}
        both = open_arrays(arrays, skip=20, reference='first', reference_size=8)
        assert list(both.reference.ids) == list(range(20, 28))

    def test_first_and_classes(self, arrays):
        source = open_arrays(arrays, classes='dog,bee', reference='first', reference_size=8)
        assert list(source.reference.ids) == [id for id in range(60) if id % 4 in (1, 3)][:8]

    def test_reference_of_other_classes_holds_none_that_was_chosen(self, arrays):
        source = open_arrays(
            arrays, classes='dog,bee', reference='other_classes', reference_size=10
        )
        assert source.class_names == ['dog', 'bee']
        assert set(source.train.ids % 4) == {1, 3}
        found = source.train.labels
        np.testing.assert_array_equal(found, np.where(source.train.ids % 4 == 3, 0, 1))
        assert len(source.reference) == 10
        assert set(source.reference.ids % 4) <= {0, 2}
        np.testing.assert_array_equal(images_of(source.reference)[:, 0, 0, 0], source.reference.ids)

    def test_classes_by_number_are_drawn_and_renumbered(self, arrays):
        drawn = {
            tuple(open_arrays(arrays, classes='2', split_seed=seed).class_names)
            for seed in range(12)
        }
        assert len(drawn) > 1
        for names in drawn:
            assert len(set(names)) == 2
        source = open_arrays(arrays, classes='3')
        for position in range(len(source.train)):
            wanted = source.class_names[source.train.labels[position]]
            assert CLASSES[source.train.ids[position] % 4] == wanted

    def test_sizes(self, arrays):
        source = open_arrays(arrays, train_size=30, test_size=12)
        assert (len(source.train), len(source.test), source.reference) == (30, 12, None)
        assert list(source.train.ids) == sorted(set(source.train.ids))

    def test_a_size_that_has_no_effect_is_said(self, arrays, capsys):
        open_arrays(arrays, reference='held_out', reference_size=20)
        assert capsys.readouterr().err == ''
        open_arrays(arrays, reference_size=20)
        said = 'source.reference_size=20 has no effect: source.reference is none.\n'
        assert capsys.readouterr().err == said

    def test_one_seed_is_one_split(self, arrays):
        options = {'train_size': 30, 'test_size': 12, 'reference': 'held_out', 'reference_size': 9}
        np.random.seed(0)
        first, again, other = (
            open_arrays(arrays, **options, split_seed=seed) for seed in (4, 4, 5)
        )
        for pool in ('train', 'test', 'reference'):
            np.testing.assert_array_equal(getattr(first, pool).ids, getattr(again, pool).ids)
            assert list(getattr(first, pool).ids) != list(getattr(other, pool).ids)

    @pytest.mark.parametrize(
        ('changes', 'expected'),
        [
            ({'train_size': 61}, r'0 reference \+ 61 training images asked, but there are 60'),
            *(
                (
                    {'train_size': 41, 'reference': which, 'reference_size': 20},
                    r'20 reference \+ 41 training images asked',
                )
                for which in ('first', 'held_out')
            ),
            ({'skip': 60}, r'source\.skip=60 leaves none of 60'),
            ({'skip': -1}, r'source\.skip=-1: choose 0'),
            ({'test_size': 25}, r'25 test images asked, but the source has 24'),
            ({'train_size': -1}, r'source\.train_size=-1: choose 0 \(all\) or more'),
            ({'reference_size': -1}, r'source\.reference_size=-1'),
            ({'classes': '5'}, r'source\.classes=5: choose 2 to 4'),
            ({'classes': '1'}, r'source\.classes=1: choose 2 to 4'),
            ({'classes': '-2'}, r'source\.classes=-2: choose 2 to 4'),
            ({'classes': 'ant,emu'}, r'no class emu. Choose from: ant, bee, cat, dog'),
            ({'classes': 'ant,ant'}, r'named twice'),
            ({'reference': 'own'}, r"no reference images 'own'"),
            ({'reference': 'other_classes'}, r"no reference images 'other_classes'"),
            ({'reference': 'held_out'}, r"no reference images 'held_out'"),
            (
                {'reference': 'mine'},
                r"source\.reference='mine': choose from first, held_out, none, other_classes, own",
            ),
            (
                {'resample': 'box'},
                r"source\.resample='box': choose from bicubic, bilinear, lanczos, nearest",
            ),
            ({'channels': 2}, r'source\.channels=2: choose 1 \(grey\) or 3 \(RGB\)'),
            ({'size_px': 0}, r'source\.size_px=0: choose 1 or more'),
            ({'split_seed': -1}, r'seed -1: choose a whole'),
            (
                {'train_size': 2},
                r'no training images of class .*Add some or choose source\.classes',
            ),
            ({'pth': 'x'}, r"source 'arrays' has no setting 'pth'. It has: "),
        ],
    )
    def test_what_cannot_be_is_named(self, arrays, changes, expected):
        with pytest.raises(UserError, match=expected):
            open_arrays(arrays, **changes)

    def test_an_unknown_source_is_answered_with_the_choices(self):
        with pytest.raises(
            UserError,
            match=(
                r"unknown source 'array'. Did you mean 'arrays'\? Choose from: arrays, digits,"
                r' imagefolder, tfds'
            ),
        ):
            sources.open_source('array', **PLAIN)
