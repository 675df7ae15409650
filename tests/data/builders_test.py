# ruff: noqa: E501  (programs and files as text)
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from purify.core.errors import UserError
from purify.data import builders

NAMES = ['ant', 'bee', 'cat']
RNG = np.random.default_rng(0)
PIXELS = {channels: RNG.integers(0, 256, (7, 6, 6, channels), np.uint8) for channels in (1, 3)}


def records(positions, channels=3):
    return [{'id': 100 + i, 'image': PIXELS[channels][i], 'label': i % 3} for i in positions]


def make_writer(folder, channels=3, shards=3, **options):
    return builders.DatasetWriter(
        folder, 'poisoned', 'train', builders.make_features(6, channels, NAMES, **options), shards
    )


def write_all(folder, channels=3):
    writer, ranges = make_writer(folder, channels), builders.cut(7, 3)
    for shard, positions in enumerate(ranges):
        writer.write(shard, records(positions, channels))
    writer.finish([len(positions) for positions in ranges])
    return writer


@pytest.mark.parametrize(
    ('count', 'size', 'expected'), [(7, 3, [3, 3, 1]), (6, 3, [3, 3]), (2, 5, [2]), (0, 5, [])]
)
def test_cut_is_consecutive_and_complete(count, size, expected):
    ranges = builders.cut(count, size)
    assert [len(positions) for positions in ranges] == expected
    assert [i for positions in ranges for i in positions] == list(range(count))


@pytest.mark.parametrize('channels', [1, 3])
def test_records_come_back_bit_for_bit(tmp_path, channels):
    write_all(tmp_path, channels)
    source = builders.open_split(tmp_path, 'train')
    assert len(source) == 7
    for i in range(7):
        found = source[i]
        assert (found['id'], found['label']) == (100 + i, i % 3)
        np.testing.assert_array_equal(found['image'], PIXELS[channels][i])
    assert builders.class_names(tmp_path) == NAMES
    assert builders.image_shape(tmp_path) == (6, 6, channels)


def test_pictures_may_stay_encoded(tmp_path):
    write_all(tmp_path)
    found = builders.open_split(tmp_path, 'train', decode=False)[4]
    assert found['image'].startswith(b'\x89PNG')
    assert found['id'] == 104


def test_a_purified_dataset_holds_the_number_of_the_variation(tmp_path):
    writer = make_writer(tmp_path, shards=1, variations=True)
    writer.write(0, [record | {'variation': 2} for record in records(range(3))])
    writer.finish([3])
    assert builders.open_split(tmp_path, 'train')[1]['variation'] == 2


PLAIN_TFDS = """
import sys
from importlib.machinery import PathFinder
find = PathFinder.find_spec
def find_others(name, path=None, target=None):
    return None if name.partition('.')[0] in ('tensorflow', 'purify') else find(name, path, target)
PathFinder.find_spec = find_others
import tensorflow_datasets as tfds
source = tfds.builder_from_directory(sys.argv[1]).as_data_source(split='train')
names = source.dataset_info.features['label'].names
print(len(source), *names, *[(int(r['id']), int(r['label']), int(r['image'].sum())) for r in source])
"""


@pytest.mark.long
def test_plain_tfds_opens_it_where_tensorflow_cannot_be_imported(tmp_path):
    write_all(tmp_path)
    done = subprocess.run(
        [sys.executable, '-c', PLAIN_TFDS, str(tmp_path)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    expected = [(100 + i, i % 3, int(PIXELS[3][i].astype(int).sum())) for i in range(7)]
    assert done.stdout.strip() == ' '.join(map(str, [7, *NAMES, *expected]))


def test_a_restart_writes_only_what_is_missing(tmp_path):
    writer = make_writer(tmp_path)
    assert writer.pending() == [0, 1, 2]
    writer.write(0, records(range(3)))
    writer.write(2, records(range(6, 7)))
    before = writer.path(0).stat().st_mtime_ns
    again = make_writer(tmp_path)
    assert again.pending() == [1]
    with pytest.raises(UserError, match=r'shards \[1\] are missing; run the stage again'):
        again.finish([3, 3, 1])
    again.write(1, records(range(3, 6)))
    again.finish([3, 3, 1])
    again.finish([3, 3, 1])  # a stage that was killed before its DONE does it twice
    assert writer.path(0).stat().st_mtime_ns == before
    wanted = list(range(100, 107))
    assert [int(record['id']) for record in builders.open_split(tmp_path, 'train')] == wanted


def test_the_same_records_give_the_same_bytes(tmp_path):
    first, second = write_all(tmp_path / 'a'), write_all(tmp_path / 'b')
    for shard in range(3):
        assert first.path(shard).read_bytes() == second.path(shard).read_bytes()


def test_an_error_in_the_middle_leaves_no_shard_and_no_part(tmp_path):
    def broken():
        yield records([0])[0]
        raise UserError('a picture is broken')

    writer = make_writer(tmp_path)
    with pytest.raises(UserError, match='a picture is broken'):
        writer.write(0, broken())
    assert os.listdir(tmp_path) == []


@pytest.mark.skipif(not Path('/dev/full').exists(), reason='this system has no /dev/full')
def test_a_really_full_disk_is_the_users_error(tmp_path):
    writer = make_writer(tmp_path)
    part = writer.path(0).with_name(f'{writer.path(0).name}.{os.getpid()}.part')
    part.symlink_to('/dev/full')
    said = r'poisoned-train.*: the disk is full .*What is finished is kept'
    with pytest.raises(UserError, match=said):
        writer.write(0, records(range(3)))
    assert os.listdir(tmp_path) == []


def test_a_folder_that_cannot_be_made_is_the_users_error(tmp_path):
    (tmp_path / 'poisoned').write_text('a file')
    with pytest.raises(UserError, match='poisoned'):
        make_writer(tmp_path / 'poisoned').write(0, records(range(3)))


def test_a_damaged_template_of_file_names_is_named(tmp_path):
    write_all(tmp_path / 'good')
    file = tmp_path / 'good' / 'dataset_info.json'
    file.write_text(file.read_text().replace('{DATASET}', '{DADASET}'))
    with pytest.raises(UserError, match=r'good: cannot be read \(Could not format template'):
        builders.open_split(tmp_path / 'good', 'train')


def test_what_is_no_dataset_is_named(tmp_path):
    writer = write_all(tmp_path / 'good')
    (tmp_path / 'empty').mkdir()
    for read in (
        builders.class_names,
        builders.image_shape,
        lambda folder: builders.open_split(folder, 'train'),
    ):
        for name in ('none', 'empty'):
            said = rf'{name}: no TFDS dataset here \(.+\). Give its folder'
            with pytest.raises(UserError, match=said):
                read(tmp_path / name)
    with pytest.raises(UserError, match=r"good: no split 'test' here. Choose from: train"):
        builders.open_split(tmp_path / 'good', 'test')
    writer.path(2).unlink()
    said = r'good: the files poisoned-train\.array_record-00002-of-00003 are missing'
    with pytest.raises(UserError, match=said):
        builders.open_split(tmp_path / 'good', 'train')


@pytest.mark.parametrize('shard', [b'', b'short', bytes(131072)], ids=['empty', 'short', 'zeros'])
def test_a_damaged_shard_is_the_users_error(tmp_path, shard):
    writer = write_all(tmp_path)
    writer.path(1).write_bytes(shard)
    source = builders.open_split(tmp_path, 'train')
    assert source[0]['id'] == 100
    said = r'record 3 cannot be read \(.+\). Delete its stage folder and run again'
    with pytest.raises(UserError, match=said):
        source[3]
    with pytest.raises(UserError, match='record 3'):
        list(source)


@pytest.mark.parametrize('name', ['dataset_info.json', 'features.json', 'label.labels.txt'])
@pytest.mark.parametrize('text', ['', '[]', '3', '"x"', 'null', '{}', '{"splits": 3}', '\x00'])
def test_damaged_metadata_are_the_users_error(tmp_path, name, text):
    write_all(tmp_path)
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=tmp_path.name):
        builders.open_split(tmp_path, 'train')
    (tmp_path / name).unlink()
    with pytest.raises(UserError, match=tmp_path.name):
        builders.class_names(tmp_path)


def test_a_picture_of_another_size_than_the_datasets_is_found(tmp_path):
    write_all(tmp_path)
    features = tmp_path / 'features.json'
    features.write_text(features.read_text().replace('"6"', '"7"'))
    with pytest.raises(UserError, match=r'record 0 is of shape \(6, 6, 3\), not \(7, 7, 3\)'):
        builders.open_split(tmp_path, 'train')[0]


WITHOUT_OPENCV = """
import sys
from pathlib import Path
sys.modules['cv2'] = None
from purify.data.builders import open_split
records = [r for r in open_split(Path(sys.argv[1]), 'train')]
print(*[(int(r['id']), int(r['label']), int(r['image'].sum())) for r in records])
"""


@pytest.mark.long
@pytest.mark.parametrize('channels', [1, 3])
def test_it_is_read_without_opencv(tmp_path, channels):
    write_all(tmp_path, channels)
    done = subprocess.run(
        [sys.executable, '-c', WITHOUT_OPENCV, str(tmp_path)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    expected = [(100 + i, i % 3, int(PIXELS[channels][i].astype(int).sum())) for i in range(7)]
    assert done.stdout.strip() == ' '.join(map(str, expected))


def test_what_a_killed_process_left_of_a_shard_goes_when_it_is_written(tmp_path):
    writer = make_writer(tmp_path)
    ours, another = (
        writer.path(shard).with_name(f'{writer.path(shard).name}.1.part') for shard in (0, 1)
    )
    ours.write_bytes(b'half')
    another.write_bytes(b'half')
    writer.write(0, records(range(3)))
    assert sorted(os.listdir(tmp_path)) == sorted([writer.path(0).name, another.name])


def test_a_shard_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    """Else a machine that fails leaves an empty file that a restart takes for a finished shard."""
    order, replace = [], os.replace
    monkeypatch.setattr(os, 'fsync', lambda file: order.append('written'))
    monkeypatch.setattr(os, 'replace', lambda *paths: (order.append('named'), replace(*paths)))
    make_writer(tmp_path).write(0, records(range(3)))
    assert order == ['written', 'named']
