import importlib.resources
import importlib.util
import io
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from array_record.python import array_record_module
from etils import epath
from PIL import ExifTags, Image

from purify.core.errors import UserError
from purify.core.randomness import stream_rng
from purify.data.images import encode_png
from purify.data.sources.open_source import open_source
from purify.data.sources.tfds import DOWNLOADED, read_tfds, sign_tfds

CIFAR10 = ['airplane', 'automobile', 'bird', 'cat', 'deer', 'dog', 'frog', 'horse', 'ship', 'truck']
PEOPLE = ('Zoe', 'Ann', 'Bob')


def pixels(i, shape):
    return np.random.default_rng(i).integers(0, 256, shape, np.uint8)


def cifar10(split, i):
    return {'id': f'{split}_{i}', 'image': pixels(i, (32, 32, 3)), 'label': i % 10}


def lfw(split, i):
    return {'label': PEOPLE[0 if i < 20 else 1 if i < 28 else 2], 'image': pixels(i, (250, 250, 3))}


def mnist(split, i):
    return {'image': pixels(i, (28, 28, 1)), 'label': i % 10}


def lay_down(data_dir, make, splits, form='array_record', encode=encode_png):
    """A dataset as TFDS leaves it: the registered builder's folder, features, shards, metadata."""
    name = make.__name__
    builder = tfds.builder(name, data_dir=str(data_dir))
    folder, features, infos = Path(builder.data_dir), builder.info.features, []
    if name == 'cifar10':  # its builder reads the names from the archive
        features['label'].names = CIFAR10
    folder.mkdir(parents=True)
    for split, lengths in splits.items():
        template = tfds.core.ShardedFileTemplate(
            data_dir=epath.Path(folder), dataset_name=name, split=split, filetype_suffix=form
        )
        start = 0
        for shard, length in enumerate(lengths):
            file = folder / f'{name}-{split}.{form}-{shard:05d}-of-{len(lengths):05d}'
            writer = array_record_module.ArrayRecordWriter(str(file), 'group_size:1')
            for i in range(start, start + length):
                record = make(split, i)
                encoded = features.encode_example(
                    record | {'image': io.BytesIO(encode(record['image']))}
                )
                writer.write(features.serialize_example(encoded))
            writer.close()
            start += length
        infos.append(
            tfds.core.SplitInfo(
                name=split, shard_lengths=lengths, num_bytes=1, filename_template=template
            )
        )
    tfds.folder_dataset.write_metadata(
        data_dir=folder, features=features, split_infos=infos, check_data=False
    )
    return folder


@pytest.fixture(scope='module')
def data_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp('tfds')
    wanted = folder / 'cifar10' / '3.0.2'
    assert lay_down(folder, cifar10, {'train': [40, 35], 'test': [40]}) == wanted
    lay_down(folder, lfw, {'train': [31]})
    lay_down(folder, mnist, {'train': [10], 'test': [10]}, form='tfrecord')
    return str(folder)


def test_a_dataset_with_a_test_split(data_dir):
    source = read_tfds(3, 'cifar10', data_dir=data_dir)
    assert source.class_names == CIFAR10
    for pool, count in ((source.train, 75), (source.test, 40)):
        np.testing.assert_array_equal(pool.ids, np.arange(count))
        np.testing.assert_array_equal(pool.labels, np.arange(count) % 10)
        np.testing.assert_array_equal(pool.fetch(count - 1), pixels(count - 1, (32, 32, 3)))


def test_a_share_that_has_no_effect_is_said(data_dir, capsys):
    read_tfds(3, 'cifar10', data_dir=data_dir, test_share=0.2)
    read_tfds(3, 'cifar10', data_dir=data_dir, test_share=0.3)
    said = 'tfds:cifar10: has test images, so source.test_share=0.3 has no effect.\n'
    assert capsys.readouterr().err.count('test_share') == 1
    read_tfds(3, 'cifar10', data_dir=data_dir, test_share=0.3)
    assert said in capsys.readouterr().err


def test_grey_on_demand(data_dir):
    image = read_tfds(1, 'cifar10', data_dir=data_dir).train.fetch(3)
    wanted = pixels(3, (32, 32, 3)) @ np.array([0.299, 0.587, 0.114])
    np.testing.assert_allclose(image[..., 0], wanted, atol=0.51)


def test_text_labels_become_classes_in_alphabetical_order_and_a_test_set_is_held_out(data_dir):
    source = read_tfds(3, 'lfw', data_dir=data_dir)
    names, train, test = source.class_names, source.train, source.test
    assert names == ['Ann', 'Bob', 'Zoe']
    assert sorted([*train.ids, *test.ids]) == list(range(31))
    for pool in (train, test):
        found = [names[k] for k in pool.labels]
        np.testing.assert_array_equal(found, [lfw('', i)['label'] for i in pool.ids])
        np.testing.assert_array_equal(pool.fetch(1), pixels(pool.ids[1], (250, 250, 3)))
    # a fifth of every class, rounded up: of 20, 8 and 3 images
    np.testing.assert_array_equal(np.bincount(test.labels), [2, 1, 4])
    np.testing.assert_array_equal(read_tfds(3, 'lfw', data_dir=data_dir).test.ids, test.ids)
    np.testing.assert_array_equal(
        test.ids,
        sorted(np.concatenate([_drawn(k, np.flatnonzero(labels_of_lfw() == k)) for k in range(3)])),
    )


def labels_of_lfw():
    return np.array([sorted(PEOPLE).index(lfw('', i)['label']) for i in range(31)])


def _drawn(label, positions):
    """The released draw that results on LFW rest on: a fifth of a class by its number's stream."""
    return stream_rng(0, 'held_out', label).permutation(positions)[
        : int(np.ceil(len(positions) / 5))
    ]


def test_rare_classes_are_left_out_and_the_rest_renumbered(data_dir):
    source = read_tfds(3, 'lfw', data_dir=data_dir, min_per_class=6)
    names = source.class_names
    assert names == ['Ann', 'Zoe']
    np.testing.assert_array_equal(np.bincount(source.train.labels), [6, 16])
    for pool in (source.train, source.test):
        found = [names[k] for k in pool.labels]
        np.testing.assert_array_equal(found, [lfw('', i)['label'] for i in pool.ids])
    with pytest.raises(UserError, match=r'source\.min_per_class=99: no class has that many'):
        read_tfds(3, 'lfw', data_dir=data_dir, min_per_class=99)


def test_through_the_one_door_for_sources(data_dir):
    options = {'resample': 'bicubic', 'train_size': 0, 'test_size': 0, 'reference': 'held_out'}
    options |= {'reference_size': 10}
    source = open_source(
        'tfds:cifar10',
        size_px=16,
        channels=3,
        classes='',
        split_seed=1,
        data_dir=data_dir,
        **options,
    )
    assert (len(source.train), len(source.test), len(source.reference)) == (65, 40, 10)
    assert not set(source.train.ids) & set(source.reference.ids)
    assert source.train.fetch(0).shape == (16, 16, 3)


def test_splits_with_other_texts_are_refused(tmp_path):
    lay_down(tmp_path, lfw, {'train': [31], 'test': [25]})
    said = r"tfds:lfw: classes differ in 'train' and 'test'"
    with pytest.raises(UserError, match=said):
        read_tfds(3, 'lfw', data_dir=str(tmp_path))


def saved(kind, change=lambda picture: picture, **options):
    """A way to encode a picture of a record."""

    def encode(image):
        buffer = io.BytesIO()
        change(Image.fromarray(image)).save(buffer, kind, **options)
        return buffer.getvalue()

    return encode


def test_pictures_are_shown_as_those_of_folders_are(tmp_path):
    """Upright, on white; 16-bit grey keeps its high bits."""
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 3
    lay_down(tmp_path / 'a', cifar10, {'train': [10], 'test': [10]}, encode=saved('PNG', exif=exif))
    fetched = read_tfds(3, 'cifar10', data_dir=str(tmp_path / 'a')).train.fetch(4)
    np.testing.assert_array_equal(fetched, pixels(4, (32, 32, 3))[::-1, ::-1])
    clear = saved(
        'PNG', lambda picture: Image.merge('RGBA', [*picture.split(), Image.new('L', picture.size)])
    )
    lay_down(tmp_path / 'b', cifar10, {'train': [10], 'test': [10]}, encode=clear)
    source = read_tfds(3, 'cifar10', data_dir=str(tmp_path / 'b'))
    assert source.train.fetch(4).min() == 255
    assert source.notes.counts() == {'alpha': 1}
    deep = saved(
        'PNG', lambda picture: Image.fromarray(np.asarray(picture)[..., 0].astype(np.uint16) * 257)
    )
    lay_down(tmp_path / 'c', cifar10, {'train': [10], 'test': [10]}, encode=deep)
    fetched = read_tfds(1, 'cifar10', data_dir=str(tmp_path / 'c')).train.fetch(4)
    np.testing.assert_array_equal(fetched[..., 0], pixels(4, (32, 32, 3))[..., 0])


def test_a_broken_picture_is_named_by_its_split_and_position(tmp_path):
    lay_down(
        tmp_path,
        cifar10,
        {'train': [10], 'test': [10]},
        encode=lambda image: encode_png(image)[:40],
    )
    with pytest.raises(UserError, match=r'^tfds:cifar10, train image 4: not a readable picture'):
        read_tfds(3, 'cifar10', data_dir=str(tmp_path)).train.fetch(4)


def test_floats_in_the_place_of_pictures_are_refused(tmp_path):
    image = tfds.features.Image(shape=(8, 8, 1), dtype=np.float32, encoding_format='png')
    features = tfds.features.FeaturesDict(
        {'image': image, 'label': tfds.features.ClassLabel(num_classes=2)}
    )
    folder = tmp_path / 'mine' / '1.0.0'
    folder.mkdir(parents=True)
    template = tfds.core.ShardedFileTemplate(
        data_dir=epath.Path(folder),
        dataset_name='mine',
        split='train',
        filetype_suffix='array_record',
    )
    (folder / 'mine-train.array_record-00000-of-00001').touch()
    info = tfds.core.SplitInfo(
        name='train', shard_lengths=[1], num_bytes=1, filename_template=template
    )
    tfds.folder_dataset.write_metadata(
        data_dir=folder, features=features, split_infos=[info], check_data=False
    )
    said = r'tfds:mine: image is Image\(.*float32.*must be an Image of whole numbers'
    with pytest.raises(UserError, match=said):
        read_tfds(3, 'mine', data_dir=str(tmp_path))


WITHOUT_OPENCV = """
import sys
from importlib.machinery import PathFinder
find = PathFinder.find_spec
def find_others(name, path=None, target=None):
    return None if name.partition('.')[0] in ('tensorflow', 'cv2') else find(name, path, target)
PathFinder.find_spec = find_others
from purify.data.sources.tfds import read_tfds
source = read_tfds(3, 'cifar10', data_dir=sys.argv[1])
print(int(source.train.fetch(4).astype(int).sum()), 'cv2' in sys.modules)
"""


@pytest.mark.long
def test_neither_tensorflow_nor_opencv_is_needed(data_dir):
    done = subprocess.run(
        [sys.executable, '-c', WITHOUT_OPENCV, data_dir], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [str(pixels(4, (32, 32, 3)).astype(int).sum()), 'False']


class TestSignature:
    @pytest.fixture
    def folder(self, tmp_path):
        return lay_down(tmp_path, cifar10, {'train': [10], 'test': [10]})

    def sign(self, folder):
        return sign_tfds('cifar10', str(folder.parents[1]))

    def test_other_labels_are_another_dataset(self, folder, monkeypatch):
        before = self.sign(folder)
        assert before == self.sign(folder)
        shutil.rmtree(folder)
        lay_down(folder.parents[1], cifar10, {'train': [10], 'test': [10]})
        assert self.sign(folder) == before, 'equal content'
        shutil.rmtree(folder)
        monkeypatch.setitem(globals(), 'CIFAR10', CIFAR10[::-1])
        lay_down(folder.parents[1], cifar10, {'train': [10], 'test': [10]})
        renamed = self.sign(folder)
        assert renamed != before, 'the names of the classes'
        shutil.rmtree(folder)

        def cifar10_(split, i):
            return cifar10(split, i) | {'label': (i + 1) % 10}

        cifar10_.__name__ = 'cifar10'
        lay_down(folder.parents[1], cifar10_, {'train': [10], 'test': [10]})
        assert self.sign(folder) not in (before, renamed), 'the labels of the records'

    def test_what_was_downloaded_here_signs_as_what_is_to_be_downloaded(
        self, tmp_path, monkeypatch
    ):
        missing = sign_tfds('cifar10', str(tmp_path))
        assert missing == {'tfds': 'cifar10/3.0.2'}

        def download(self, **options):
            lay_down(tmp_path, cifar10, {'train': [10], 'test': [10]})
            self.info.set_file_format(options['file_format'], override=True)
            self.info.read_from_directory(self.data_dir)  # as the real one does at its end

        with monkeypatch.context() as patch:
            patch.setattr('tensorflow_datasets.core.DatasetBuilder.download_and_prepare', download)
            read_tfds(3, 'cifar10', data_dir=str(tmp_path))
        folder = tmp_path / 'cifar10' / '3.0.2'
        assert (folder / DOWNLOADED).exists()
        assert sign_tfds('cifar10', str(tmp_path)) == missing
        assert len(read_tfds(3, 'cifar10', data_dir=str(tmp_path)).train) == 10
        next(folder.glob('*train*')).write_bytes(b'changed')
        assert sign_tfds('cifar10', str(tmp_path)) != missing

    def test_an_unknown_dataset_has_none(self, tmp_path):
        assert sign_tfds('cifar1O', str(tmp_path)) == {}


@pytest.mark.parametrize(
    ('dataset', 'options', 'expected'),
    [
        (
            'cifar1O',
            {},
            r'^tfds:cifar1O: TFDS knows no such dataset; see tensorflow\.org/datasets/catalog',
        ),
        ('cifar10:9.9.9', {}, r'^tfds:cifar10:9\.9\.9: TFDS cannot open it: .*only: 3\.0\.2'),
        (
            'cifar10/large',
            {},
            r'^tfds:cifar10/large: TFDS cannot open it: .*BuilderConfig large not found',
        ),
        (
            'mnist',
            {},
            (
                r'^tfds:mnist: prepared as tfrecord, which cannot be read at'
                r' random.*--file_format=array_record'
            ),
        ),
        ('cifar10', {'train': 'all'}, r'^tfds:cifar10 has no split all; it has train, test'),
        (
            'cifar10',
            {'test': 'validation'},
            r'^tfds:cifar10 has no split validation; it has train, test',
        ),
        (
            'cifar10',
            {'test': 'train'},
            r"^tfds:cifar10: the split 'train' for training and for testing: .*it has train, test",
        ),
        (
            'cifar10',
            {'train': 'test'},
            r"^tfds:cifar10: the split 'test' for training and for testing",
        ),
        (
            'cifar10',
            {'label': 'class'},
            r'^tfds:cifar10: needs the features image and class; it has id, image, label',
        ),
        ('lfw', {'test_share': 1.0}, r'^source\.test_share=1\.0: choose a share between 0 and 1'),
    ],
)
def test_what_cannot_be_is_named(data_dir, dataset, options, expected):
    with pytest.raises(UserError, match=expected):
        read_tfds(3, dataset, data_dir=data_dir, **options)


@pytest.mark.filterwarnings('ignore::pytest.PytestUnhandledThreadExceptionWarning')
def test_without_a_network_the_message_says_what_to_do(tmp_path, monkeypatch):
    # TFDS asks for it without saying so
    if importlib.util.find_spec('importlib_resources') is None:
        monkeypatch.setitem(sys.modules, 'importlib_resources', importlib.resources)

    def refuse(*args, **kwargs):
        raise ConnectionError('the network is unreachable')

    monkeypatch.setattr('requests.sessions.Session.request', refuse)
    monkeypatch.setattr('urllib.request.urlopen', refuse)
    with pytest.raises(
        UserError,
        match=(
            r'^tfds:fashion_mnist: could not be downloaded.*unreachable.*Check the'
            r' network.*source\.data_dir=DIR'
        ),
    ):
        read_tfds(3, 'fashion_mnist', data_dir=str(tmp_path))


def test_download_code_that_needs_tensorflow_is_explained(tmp_path, monkeypatch):
    def refuse(self, **kwargs):
        raise ImportError("No module named 'tensorflow'")

    monkeypatch.setattr('tensorflow_datasets.core.DatasetBuilder.download_and_prepare', refuse)
    with pytest.raises(
        UserError,
        match=(
            r"needs what purify does not install.*'tensorflow'.*tfds build fashion_mnist"
            r' --file_format=array_record'
        ),
    ):
        read_tfds(3, 'fashion_mnist', data_dir=str(tmp_path))
