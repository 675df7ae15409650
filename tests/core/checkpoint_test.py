import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from support.meshes import mesh_of

from purify.core import devices
from purify.core.checkpoint import Checkpoints
from purify.core.errors import UserError

# tensorstore may still be at a read when orbax, on a mismatch, has closed the loop that asked for
# it
pytestmark = pytest.mark.filterwarnings('ignore::pytest.PytestUnraisableExceptionWarning')
ROOT = Path(__file__).parents[2]
TREE = {
    'params': {'w': np.arange(12, dtype=np.float32).reshape(3, 4), 'b': np.float32([1, 2, 3])},
    'step': np.int32(5),
    'nothing': None,
}


def placed(tree, count):
    return jax.device_put(tree, devices.replicated(mesh_of(count)))


def blank(count, tree=TREE):
    return placed(jax.tree.map(np.zeros_like, tree), count)


def save(folder, *steps, tree=TREE, count=8):
    checkpoints = Checkpoints(folder)
    for step in steps:
        checkpoints.save(step, placed(tree | {'step': np.int32(step)}, count))
    checkpoints.close()


def restore(folder, like):
    checkpoints = Checkpoints(folder)
    try:
        return checkpoints.restore(like)
    finally:
        checkpoints.close()


@pytest.mark.parametrize(('saved', 'restored'), [(8, 8), (8, 1), (1, 4)])
def test_a_tree_comes_back_on_whatever_mesh_is_there(tmp_path, saved, restored):
    save(tmp_path, 5, count=saved)
    step, tree = restore(tmp_path, blank(restored))
    assert step == 5
    jax.tree.map(np.testing.assert_array_equal, tree, TREE)
    assert tree['params']['w'].sharding.device_set == set(jax.devices()[:restored])
    assert tree['params']['w'].dtype == np.float32


def test_shapes_and_a_sharding_are_enough_to_restore(tmp_path):
    save(tmp_path, 5)
    here = devices.replicated(mesh_of(2))
    like = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(np.shape(x), np.asarray(x).dtype, sharding=here), TREE
    )
    jax.tree.map(np.testing.assert_array_equal, restore(tmp_path, like)[1], TREE)


def test_the_newest_is_kept_and_saving_it_again_is_nothing(tmp_path):
    save(tmp_path, 10, 20, 20)
    assert sorted(path.name for path in tmp_path.iterdir()) == ['step_20']
    save(tmp_path, 20, tree=jax.tree.map(lambda x: x + 1, TREE))
    assert restore(tmp_path, blank(1))[0] == 20
    np.testing.assert_array_equal(restore(tmp_path, blank(1))[1]['params']['b'], [1, 2, 3])


def test_a_save_that_was_cut_off_is_no_checkpoint(tmp_path):
    save(tmp_path, 10)
    shutil.copytree(tmp_path / 'step_10', tmp_path / 'step_20.orbax-checkpoint-tmp')
    checkpoints = Checkpoints(tmp_path)
    assert checkpoints.latest() == 10
    checkpoints.close()


@pytest.mark.parametrize(
    'other',
    [
        TREE | {'params': {'w': np.zeros((4, 4), np.float32), 'b': np.zeros(3, np.float32)}},
        TREE | {'params': {'w': np.zeros((3, 4), np.float32)}},
        TREE | {'params': TREE['params'] | {'new': np.zeros(2, np.float32)}},
        TREE | {'nothing': np.zeros(2, np.float32)},
    ],
    ids=['another shape', 'a leaf less', 'a leaf more', 'a leaf for nothing'],
)
def test_another_network_is_the_users_error(tmp_path, other):
    save(tmp_path, 7, count=1)
    with pytest.raises(UserError, match=r'step 7 does not fit this network.*network\.json'):
        restore(tmp_path, blank(1, other))


def test_a_damaged_checkpoint_is_the_users_error(tmp_path):
    save(tmp_path, 7, count=1)
    for file in (tmp_path / 'step_7' / 'default').rglob('*'):
        if file.is_file() and file.parent.name == 'd':
            file.write_bytes(file.read_bytes()[:10])
    told = (
        r'step 7 does not fit this network, or is damaged \(.+\).*delete this folder to train from'
        r' the beginning'
    )
    with pytest.raises(UserError, match=told):
        restore(tmp_path, blank(1))


def test_a_folder_without_checkpoints_is_named(tmp_path):
    said = r'empty: no complete checkpoint. Give the folder of a finished'
    with pytest.raises(UserError, match=said):
        restore(tmp_path / 'empty', blank(1))
    (tmp_path / 'file').write_text('')
    with pytest.raises(UserError, match='file'):
        Checkpoints(tmp_path / 'file' / 'checkpoints')


def test_no_room_is_known_before_anything_is_written(tmp_path, monkeypatch):
    save(tmp_path, 10)
    checkpoints = Checkpoints(tmp_path)
    monkeypatch.setattr(shutil, 'disk_usage', lambda path: SimpleNamespace(free=50))
    with pytest.raises(UserError, match=r'the disk is full .*free some space'):
        checkpoints.save(20, placed(TREE, 1))
    checkpoints.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ['step_10']


def test_a_disk_that_fills_while_saving_is_explained_at_the_end(tmp_path, monkeypatch):
    checkpoints = Checkpoints(tmp_path)

    def fail():
        raise ValueError(
            'RESOURCE_EXHAUSTED: Failed to write 9 bytes to file 4: No space left on device'
        )

    monkeypatch.setattr(checkpoints.manager, 'wait_until_finished', fail)
    with pytest.raises(UserError, match='the disk is full'):
        checkpoints.close()


LEAVES_NO_TRACE = """
import sys
from pathlib import Path
import numpy as np
from purify.core.checkpoint import Checkpoints
from purify.core.errors import UserError
checkpoints = Checkpoints(Path(sys.argv[1]))
try:
    checkpoints.restore({'params': {f'w{k}': np.zeros((4, 5), np.float32) for k in range(20)}})
except UserError as error:
    print(error)
checkpoints.close()
"""


@pytest.mark.long
def test_another_shape_is_told_in_one_line(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(
        3,
        placed({'params': {f'w{k}': np.ones((4, 5 + (k == 7)), np.float32) for k in range(20)}}, 1),
    )
    checkpoints.close()
    environment = {**os.environ, 'XLA_FLAGS': ''}
    done = subprocess.run(
        [sys.executable, '-c', LEAVES_NO_TRACE, str(tmp_path)],
        capture_output=True,
        text=True,
        env=environment,
        cwd=ROOT,
    )
    assert 'params.w7 is (4, 6) there, (4, 5) in the network' in done.stdout
    assert 'Traceback' not in done.stderr


@pytest.mark.parametrize('harm', ['emptied', 'missing', 'a folder', 'another type', 'zeros'])
def test_every_file_of_a_checkpoint_may_be_damaged(tmp_path, harm):
    save(tmp_path / 'whole', 7, count=1)
    refused = read = 0
    for number, file in enumerate(
        sorted(path for path in (tmp_path / 'whole').rglob('*') if path.is_file())
    ):
        folder = shutil.copytree(tmp_path / 'whole', tmp_path / str(number))
        victim = folder / file.relative_to(tmp_path / 'whole')
        victim.unlink()
        if harm == 'a folder':
            victim.mkdir()
        elif harm != 'missing':
            victim.write_bytes(
                {'emptied': b'', 'another type': b'[3]', 'zeros': bytes(file.stat().st_size)}[harm]
            )
        try:
            step, tree = restore(folder, blank(1))
        except UserError as error:
            assert str(folder) in str(error)  # noqa: PT017
            refused += 1
        else:  # orbax has most things twice
            assert step == 7
            read += 1
            jax.tree.map(np.testing.assert_array_equal, tree, TREE | {'step': np.int32(7)})
    assert refused
    assert read


@pytest.mark.parametrize('odd', ['step_9', 'step_x', 'step_-1', 'step_'])
def test_odd_things_beside_a_checkpoint_are_no_traceback(tmp_path, odd):
    for kind in ('file', 'folder'):
        save(tmp_path / kind, 7, count=1)
    (tmp_path / 'file' / odd).write_text('')
    (tmp_path / 'folder' / odd).mkdir()
    for kind in ('file', 'folder'):
        try:
            assert restore(tmp_path / kind, blank(1))[0] == 7
            assert (odd, kind) != ('step_9', 'folder')  # which is the newest, and empty
        except UserError as error:
            assert str(tmp_path / kind) in str(error)  # noqa: PT017
            assert (odd, kind) == ('step_9', 'folder')


@pytest.mark.parametrize(
    ('error', 'told'),
    [
        (PermissionError(13, 'Permission denied'), 'may not be read .*Ask for permission'),
        (
            ValueError('PERMISSION_DENIED: Permission denied [OS error 13]'),
            'may not be read .*Ask for permission',
        ),
        (MemoryError('of 9 bytes'), 'step 7 does not fit into memory'),
        (
            RuntimeError('RESOURCE_EXHAUSTED: Out of memory while trying to allocate 9 bytes'),
            'step 7 does not fit into memory',
        ),
    ],
)
def test_what_is_no_fault_of_the_files_does_not_advise_to_delete_them(
    tmp_path, monkeypatch, error, told
):
    save(tmp_path, 7, count=1)
    checkpoints = Checkpoints(tmp_path)

    def fail(*_, **__):
        raise error

    monkeypatch.setattr(checkpoints.manager, 'restore', fail)
    with pytest.raises(UserError, match=told) as refused:
        checkpoints.restore(blank(1))
    assert 'delete' not in str(refused.value)
    checkpoints.close()
