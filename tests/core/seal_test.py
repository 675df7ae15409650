import json
import os
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from purify.core.seal import sealed


@pytest.fixture
def truth(tmp_path):
    folder = tmp_path / 'prepare' / 'truth'
    (folder / 'deep').mkdir(parents=True)
    (folder / 'manifest.json').write_text('{"poisoned_ids": [1]}')
    (folder / 'deep' / 'file').write_text('x')
    np.savez(folder / 'manifest.npz', ids=np.arange(3))
    Image.new('RGB', (4, 4)).save(folder / 'picture.png')
    (tmp_path / 'prepare' / 'note').write_text('hello')
    (tmp_path / 'outside').symlink_to(folder / 'manifest.json')
    (tmp_path / 'shortcut').symlink_to(folder, target_is_directory=True)
    return folder


def in_thread(do):
    caught = []

    def run():
        try:
            do()
        except BaseException as error:
            caught.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if caught:
        raise caught[0]


def by_relative_path(truth):
    before = os.getcwd()
    os.chdir(truth.parent)
    try:
        Path('truth/manifest.json').read_text()
    finally:
        os.chdir(before)


def closing(number):
    os.close(number)


DETOURS = {
    'open': lambda truth: open(truth / 'manifest.json').close(),
    'open for writing': lambda truth: open(truth / 'new', 'w').close(),
    'bytes path': lambda truth: open(os.fsencode(truth / 'manifest.json')).close(),
    'os.open': lambda truth: closing(os.open(truth / 'manifest.json', os.O_RDONLY)),
    'read_text': lambda truth: (truth / 'manifest.json').read_text(),
    'json': lambda truth: json.loads((truth / 'deep' / '..' / 'manifest.json').read_bytes()),
    'np.load': lambda truth: np.load(truth / 'manifest.npz')['ids'],
    'np.fromfile': lambda truth: np.fromfile(truth / 'manifest.npz', np.uint8),
    'np.memmap': lambda truth: np.memmap(truth / 'manifest.npz', np.uint8, 'r')[0],
    'pillow': lambda truth: Image.open(truth / 'picture.png').load(),
    'listdir': lambda truth: os.listdir(truth),
    'listdir below': lambda truth: os.listdir(truth / 'deep'),
    'scandir': lambda truth: list(os.scandir(truth)),
    'iterdir': lambda truth: list(truth.iterdir()),
    'link to a file': lambda truth: (truth.parent.parent / 'outside').read_text(),
    'link to the folder': lambda truth: (truth.parents[1] / 'shortcut/manifest.json').read_text(),
    'new symlink': lambda truth: (truth.parents[1] / 'fresh').symlink_to(truth / 'manifest.json'),
    'hard link': lambda truth: os.link(truth / 'manifest.json', truth.parent / 'hard'),
    'rename': lambda truth: os.rename(truth, truth.parent / 'mine'),
    'rename into it': lambda truth: os.rename(truth.parent / 'note', truth / 'note'),
    'move': lambda truth: shutil.move(truth / 'manifest.json', truth.parent / 'mine'),
    'copy': lambda truth: shutil.copyfile(truth / 'manifest.json', truth.parent / 'mine'),
    'copytree': lambda truth: shutil.copytree(truth, truth.parent / 'tree'),
    'thread': lambda truth: in_thread((truth / 'manifest.json').read_text),
    'relative': by_relative_path,
}


@pytest.mark.parametrize('way', DETOURS)
def test_no_way_into_a_sealed_folder_and_every_way_afterwards(truth, way):
    with sealed(truth), pytest.raises(PermissionError, match='sealed'):
        DETOURS[way](truth)
    assert not (truth.parent / 'mine').exists()
    DETOURS[way](truth)


def test_a_walk_from_above_finds_nothing(truth):
    with sealed(truth):
        assert not [name for _, _, names in os.walk(truth) for name in names]
        seen = [name for _, _, names in os.walk(truth.parent) for name in names]
    assert 'manifest.json' not in seen


def test_neighbours_stay_open(truth):
    beside = truth.with_name('truthful')
    beside.mkdir()
    with sealed(truth):
        (beside / 'file').write_text('x')
        assert os.listdir(beside) == ['file']
        assert sorted(os.listdir(truth.parent)) == ['note', 'truth', 'truthful']


def test_a_seal_ends_with_its_block_even_on_an_error_and_nests(truth):
    with pytest.raises(RuntimeError, match='inner'), sealed(truth):
        raise RuntimeError('inner')
    assert (truth / 'manifest.json').read_text()
    with sealed(truth):
        with sealed(truth, truth / 'deep'):
            pass
        with pytest.raises(PermissionError):
            os.listdir(truth)
    assert os.listdir(truth)


def test_a_seal_covers_a_folder_that_is_made_later(tmp_path):
    with sealed(tmp_path / 'later'):
        (tmp_path / 'later').mkdir()
        with pytest.raises(PermissionError):
            os.listdir(tmp_path / 'later')


def test_what_is_left_open_is_open_and_all_beside_it_is_shut(truth):
    with sealed(truth.parent, but=[truth / 'deep']):
        assert (truth / 'deep' / 'file').read_text() == 'x'
        assert os.listdir(truth / 'deep') == ['file']
        (truth / 'deep' / 'new').write_text('y')
        for beside in (truth / 'manifest.json', truth.parent / 'note'):
            with pytest.raises(PermissionError):
                beside.read_text()
        with pytest.raises(PermissionError):
            os.listdir(truth)
        # what one seal leaves open another may shut
        with sealed(truth / 'deep'), pytest.raises(PermissionError):
            os.listdir(truth / 'deep')
