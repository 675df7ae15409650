import importlib.resources
import importlib.util
import io
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from array_record.python import array_record_module
from etils import epath

from purify.core.errors import UserError
from purify.data.images import encode_png
from purify.data.sources import open_source
from purify.data.tfds_source import read

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


def lay_down(data_dir, make, splits, form='array_record'):
    """A dataset as TFDS leaves it behind: the registered builder's own folder and features, shards, metadata."""
    name = make.__name__
    builder = tfds.builder(name, data_dir=str(data_dir))
    folder, features, infos = Path(builder.data_dir), builder.info.features, []
    if name == 'cifar10':  # its builder reads the names from the archive
        features['label'].names = CIFAR10
    folder.mkdir(parents=True)
    for split, lengths in splits.items():
        template = tfds.core.ShardedFileTemplate(data_dir=epath.Path(folder), dataset_name=name, split=split, filetype_suffix=form)
        start = 0
        for shard, length in enumerate(lengths):
            file = folder / f'{name}-{split}.{form}-{shard:05d}-of-{len(lengths):05d}'
            writer = array_record_module.ArrayRecordWriter(str(file), 'group_size:1')
            for i in range(start, start + length):
                record = make(split, i)
                encoded = features.encode_example(record | {'image': io.BytesIO(encode_png(record['image']))})
                writer.write(features.serialize_example(encoded))
            writer.close()
            start += length
        infos.append(tfds.core.SplitInfo(name=split, shard_lengths=lengths, num_bytes=1, filename_template=template))
    tfds.folder_dataset.write_metadata(data_dir=folder, features=features, split_infos=infos, check_data=False)
    return folder


@pytest.fixture(scope='module')
def data_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp('tfds')
    assert lay_down(folder, cifar10, {'train': [40, 35], 'test': [40]}) == folder / 'cifar10' / '3.0.2'
    lay_down(folder, lfw, {'train': [31]})
    lay_down(folder, mnist, {'train': [10], 'test': [10]}, form='tfrecord')
    return str(folder)


def test_a_dataset_with_a_test_split(data_dir):
    names, train, test = read('cifar10', 3, data_dir=data_dir)
    assert names == CIFAR10
    for (ids, labels, fetch), count in ((train, 75), (test, 40)):
        np.testing.assert_array_equal(ids, np.arange(count))
        np.testing.assert_array_equal(labels, np.arange(count) % 10)
        np.testing.assert_array_equal(fetch(count - 1), pixels(count - 1, (32, 32, 3)))


def test_grey_on_demand(data_dir):
    image = read('cifar10', 1, data_dir=data_dir)[1][2](3)
    np.testing.assert_allclose(image[..., 0], pixels(3, (32, 32, 3)) @ np.array([0.299, 0.587, 0.114]), atol=0.51)


def test_text_labels_become_classes_in_alphabetical_order_and_a_test_set_is_held_out(data_dir):
    names, train, test = read('lfw', 3, data_dir=data_dir)
    assert names == ['Ann', 'Bob', 'Zoe']
    assert sorted([*train[0], *test[0]]) == list(range(31))
    for ids, labels, fetch in (train, test):
        np.testing.assert_array_equal([names[k] for k in labels], [lfw('', i)['label'] for i in ids])
        np.testing.assert_array_equal(fetch(1), pixels(ids[1], (250, 250, 3)))
    # a fifth of every class, rounded up: of 20, 8 and 3 images
    np.testing.assert_array_equal(np.bincount(test[1]), [2, 1, 4])
    np.testing.assert_array_equal(read('lfw', 3, data_dir=data_dir)[2][0], test[0])


def test_rare_classes_are_left_out_and_the_rest_renumbered(data_dir):
    names, train, test = read('lfw', 3, data_dir=data_dir, min_per_class=6)
    assert names == ['Ann', 'Zoe']
    np.testing.assert_array_equal(np.bincount(train[1]), [6, 16])
    for ids, labels, _ in (train, test):
        np.testing.assert_array_equal([names[k] for k in labels], [lfw('', i)['label'] for i in ids])
    with pytest.raises(UserError, match=r'source\.min_per_class=99: no class has that many'):
        read('lfw', 3, data_dir=data_dir, min_per_class=99)


def test_through_the_one_door_for_sources(data_dir):
    options = {'resample': 'bicubic', 'train_size': 0, 'test_size': 0, 'reference': 'held_out', 'reference_size': 10}
    source = open_source('tfds:cifar10', size_px=16, channels=3, classes='', split_seed=1, data_dir=data_dir, **options)
    assert (len(source.train), len(source.test), len(source.reference)) == (65, 40, 10)
    assert not set(source.train.ids) & set(source.reference.ids)
    assert source.train.fetch(0).shape == (16, 16, 3)


def test_splits_with_other_texts_are_refused(tmp_path):
    lay_down(tmp_path, lfw, {'train': [31], 'test': [25]})
    with pytest.raises(UserError, match=r"tfds:lfw: splits 'train' and 'test' have different classes"):
        read('lfw', 3, data_dir=str(tmp_path))


@pytest.mark.parametrize(
    ('dataset', 'options', 'expected'),
    [
        ('cifar1O', {}, r'^tfds:cifar1O: TFDS knows no such dataset; see tensorflow\.org/datasets/catalog'),
        ('cifar10:9.9.9', {}, r'^tfds:cifar10:9\.9\.9: TFDS cannot open it: .*only: 3\.0\.2'),
        ('cifar10/large', {}, r'^tfds:cifar10/large: TFDS cannot open it: .*BuilderConfig large not found'),
        ('mnist', {}, r'^tfds:mnist: prepared as tfrecord, which cannot be read at random.*--file_format=array_record'),
        ('cifar10', {'train': 'all'}, r'^tfds:cifar10 has no split all; it has train, test'),
        ('cifar10', {'test': 'validation'}, r'^tfds:cifar10 has no split validation; it has train, test'),
        ('cifar10', {'label': 'class'}, r'^tfds:cifar10: needs the features image and class; it has id, image, label'),
        ('lfw', {'test_share': 1.0}, r'^source\.test_share=1\.0: choose a share between 0 and 1'),
    ],
)
def test_what_cannot_be_is_named(data_dir, dataset, options, expected):
    with pytest.raises(UserError, match=expected):
        read(dataset, 3, data_dir=data_dir, **options)


@pytest.mark.filterwarnings('ignore::pytest.PytestUnhandledThreadExceptionWarning')
def test_without_a_network_the_message_says_what_to_do(tmp_path, monkeypatch):
    if importlib.util.find_spec('importlib_resources') is None:  # TFDS asks for it without saying so
        monkeypatch.setitem(sys.modules, 'importlib_resources', importlib.resources)

    def refuse(*args, **kwargs):
        raise ConnectionError('the network is unreachable')

    monkeypatch.setattr('requests.sessions.Session.request', refuse)
    monkeypatch.setattr('urllib.request.urlopen', refuse)
    with pytest.raises(
        UserError, match=r'^tfds:fashion_mnist: could not be downloaded.*unreachable.*Check the network.*source\.data_dir=DIR'
    ):
        read('fashion_mnist', 3, data_dir=str(tmp_path))


def test_download_code_that_needs_tensorflow_is_explained(tmp_path, monkeypatch):
    def refuse(self, **kwargs):
        raise ImportError("No module named 'tensorflow'")

    monkeypatch.setattr('tensorflow_datasets.core.DatasetBuilder.download_and_prepare', refuse)
    with pytest.raises(
        UserError, match=r"needs what purify does not install.*'tensorflow'.*tfds build fashion_mnist --file_format=array_record"
    ):
        read('fashion_mnist', 3, data_dir=str(tmp_path))
