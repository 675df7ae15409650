import hashlib
import shutil

import pytest
from support.networks import write_classifier

from purify.core.errors import UserError
from purify.core.files import read_json, write_json
from purify.stages.named_folders import finished_folder, start_folder
from purify.stages.networks_on_disk import read_classifier


def write_done(folder, **changes):
    """As the stage that wrote the folder would have; the hashes by hashlib."""
    files = {
        path: path.relative_to(folder).as_posix() for path in folder.rglob('*') if path.is_file()
    }
    hashes = {name: hashlib.sha256(path.read_bytes()).hexdigest() for path, name in files.items()}
    done = {'stage': 'teacher', 'fingerprint': '', 'settings': {}, 'inputs': {}, 'files': hashes}
    write_json(folder / 'DONE', done | {'cost': {'seconds': 1.0, 'device_seconds': 1.0}} | changes)
    return folder


@pytest.mark.parametrize('find', [finished_folder, start_folder])
def test_other_weights_in_the_same_place_are_another_input(tmp_path, find):
    write_classifier(tmp_path / 'net', 1)
    place, digest = find(str(tmp_path / 'net'))
    assert place == tmp_path / 'net'
    shutil.copytree(tmp_path / 'net', tmp_path / 'moved')
    assert find(str(tmp_path / 'moved'))[1] == digest == find(str(tmp_path / 'net'))[1]
    shutil.rmtree(tmp_path / 'net')
    write_classifier(tmp_path / 'net', 2)
    assert find(str(tmp_path / 'net'))[1] != digest


@pytest.mark.parametrize('find', [finished_folder, start_folder])
def test_a_finished_stages_folder_must_hold_what_the_stage_wrote(tmp_path, find):
    write_done(write_classifier(tmp_path / 'net', 1))
    find(str(tmp_path / 'net'))
    shutil.rmtree(tmp_path / 'net' / 'weights')
    shutil.copytree(
        write_classifier(tmp_path / 'student', 2) / 'weights', tmp_path / 'net' / 'weights'
    )
    with pytest.raises(
        UserError,
        match=(
            r"net/weights/.* changed since the stage 'teacher' wrote it\. Train it again, give"
            r' another'
        ),
    ):
        find(str(tmp_path / 'net'))
    done = read_json(tmp_path / 'net' / 'DONE')
    write_json(
        tmp_path / 'net' / 'DONE', {name: value for name, value in done.items() if name != 'files'}
    )
    said = r'notes no hashes, .*delete DONE there if you know that it is whole'
    with pytest.raises(UserError, match=said):
        find(str(tmp_path / 'net'))
    (tmp_path / 'net' / 'DONE').unlink()
    find(str(tmp_path / 'net'))


@pytest.mark.parametrize('find', [finished_folder, start_folder])
def test_another_step_beside_a_finished_stages_weights_is_refused(tmp_path, find):
    folder = write_done(write_classifier(tmp_path / 'net', 1))
    other = write_classifier(tmp_path / 'other', 2)
    shutil.copytree(other / 'weights' / 'step_0', folder / 'weights' / 'step_1')
    # what a reader would take
    assert read_classifier(folder).digest() == read_classifier(other).digest()
    with pytest.raises(UserError, match=r"weights/step_1/.*: not written by the stage 'teacher'"):
        find(str(folder))


@pytest.mark.parametrize('find', [finished_folder, start_folder])
def test_a_stage_in_the_folder_of_another_is_refused(tmp_path, find):
    write_done(write_classifier(tmp_path / 'teacher-0123456789ab', 1), fingerprint='0123456789ab')
    find(str(tmp_path / 'teacher-0123456789ab'))
    shutil.copytree(tmp_path / 'teacher-0123456789ab', tmp_path / 'mine')
    find(str(tmp_path / 'mine'))  # a name without a fingerprint says nothing
    shutil.copytree(tmp_path / 'mine', tmp_path / 'teacher-ba9876543210')
    said = r"with the fingerprint '0123456789ab'.* named for\. Train it again, give another"
    with pytest.raises(UserError, match=said):
        find(str(tmp_path / 'teacher-ba9876543210'))


def test_the_weights_of_a_finished_stage_are_checked_where_they_are_given_alone(tmp_path):
    folder = write_done(write_classifier(tmp_path / 'net', 1))
    (tmp_path / 'linked').symlink_to(folder / 'weights')
    given = (folder / 'weights', tmp_path / 'linked', folder / 'network.json')
    first, *_ = [start_folder(str(path))[1] for path in given]
    shutil.rmtree(folder / 'weights')
    shutil.copytree(write_classifier(tmp_path / 'other', 2) / 'weights', folder / 'weights')
    for path in given:
        with pytest.raises(UserError, match="changed since the stage 'teacher' wrote it"):
            start_folder(str(path))
    (folder / 'DONE').unlink()
    assert start_folder(str(folder / 'weights'))[1] != first
