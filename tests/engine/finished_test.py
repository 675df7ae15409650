"""Finished stages whose folders were changed: nobody uses them, and the message says what to do."""

import errno
import hashlib
import json
import shutil
import signal
from pathlib import Path

import pytest

import purify
from purify.core import devices, files, preemption
from purify.core.errors import Preempted, UserError
from purify.core.files import write_json
from purify.engine import finished
from purify.engine.chain import Chain
from purify.engine.finished import DONE
from purify.engine.stage import Input, Stage
from purify.train.cost import COST_FILE, Cost

RUN = {}


def files_chain(tmp_path, seen=None):
    """A stage that leaves files in folders, and one that reads them."""

    def leaves(work):
        for name in ('top', 'weights/d/a', 'weights/d/b', 'checkpoints/step_3/c'):
            (work.folder / name).parent.mkdir(parents=True, exist_ok=True)
            (work.folder / name).write_bytes(name.encode())
        (work.folder / 'top.12.34.part').write_bytes(b'of a process that was killed')
        (work.folder / 'weights' / 'd' / 'x.part').write_bytes(b'')

    def reads(work):
        (work.folder / 'out').write_bytes((work.inputs['in'] / 'a').read_bytes())
        if seen is not None:
            seen.append(work.name)

    return Chain(
        [
            Stage('teacher', leaves, {}),
            Stage('user', reads, {}, {'in': Input('teacher', 'weights/d')}),
        ],
        tmp_path,
    )


def test_done_names_every_file_with_its_hash_and_nothing_is_left_over(tmp_path):
    chain = files_chain(tmp_path)
    folder = chain.folder('teacher')
    folder.mkdir()
    write_json(folder / COST_FILE, Cost(images=3).totals())  # of a part that was stopped
    chain.run(['teacher'], RUN)
    handed = ('top', 'weights/d/a', 'weights/d/b')
    found = chain.done('teacher').get('files')
    assert found == {name: hashlib.sha256(name.encode()).hexdigest() for name in handed}
    left = {path.relative_to(folder).as_posix() for path in folder.rglob('*') if path.is_file()}
    assert left == {*handed, 'checkpoints/step_3/c', DONE}


def damage(folder, how):
    file, other = folder / 'weights' / 'd' / 'a', folder / 'weights' / 'd' / 'b'
    data = file.read_bytes()
    if how == 'a flipped bit':
        file.write_bytes(bytes([data[0] ^ 1]) + data[1:])
    elif how == 'cut':
        file.write_bytes(data[:-1])
    elif how == 'swapped':
        file.write_bytes(other.read_bytes())
        other.write_bytes(data)
    else:
        file.unlink()
        if how == 'a folder':
            file.mkdir()


@pytest.mark.parametrize('how', ['a flipped bit', 'cut', 'swapped', 'missing', 'a folder'])
def test_a_stage_whose_files_changed_is_neither_used_nor_handed_out(tmp_path, how):
    seen = []
    chain = files_chain(tmp_path, seen)
    chain.run(['teacher'], RUN)
    folder = chain.folder('teacher')
    damage(folder, how)
    told = (
        rf"{folder}/weights/d/a.*: missing, or changed since the stage 'teacher' wrote it\. Delete"
        rf' {folder} and run again\.'
    )
    with pytest.raises(UserError, match=told):
        files_chain(tmp_path, seen).run(['user'], RUN)
    for names in (['teacher'], None):
        with pytest.raises(UserError, match=told):
            files_chain(tmp_path).check(names)
    assert not seen
    shutil.rmtree(folder)
    files_chain(tmp_path, seen).run(['teacher', 'user'], RUN)
    assert seen == ['user']


def test_many_changed_files_are_counted(tmp_path):
    chain = Chain(
        [Stage('a', lambda work: [(work.folder / str(i)).write_bytes(b'x') for i in range(9)], {})],
        tmp_path,
    )
    chain.run(['a'], RUN)
    for path in chain.folder('a').iterdir():
        if path.name != DONE:
            path.write_bytes(b'y')
    said = r'/0, .*/1, .*/2 \(and 6 more files\): missing, or changed'
    with pytest.raises(UserError, match=said):
        Chain(list(chain.stages.values()), tmp_path).check()


def test_notes_and_hidden_files_that_the_stage_did_not_write_are_told_and_no_error(
    tmp_path, capsys
):
    files_chain(tmp_path).run(['teacher'], RUN)
    chain = files_chain(tmp_path)
    for name in (
        '.DS_Store',
        'sub/.cache/rows.npz',
        'note.txt',
        'top.5.6.part',
        'checkpoints/step_4/c',
    ):
        (chain.folder('teacher') / name).parent.mkdir(parents=True, exist_ok=True)
        (chain.folder('teacher') / name).write_text('mine')
    chain.check()
    wanted = '3 files are not of its stage, such as .DS_Store'
    assert wanted in capsys.readouterr().err


@pytest.mark.parametrize(
    'name',
    [
        *(
            'weights/step_1/d/a',
            'weights/note.txt',
            'weights/.DS_Store',
            'findings.npz',
            'rows-00000-of-00001.npz',
        ),
        *(
            'x-train.array_record-00000-of-00001',
            'sub/dataset_info.json',
            'sub/merges.txt',
            'numbers.json',
            'unet/a.safetensors',
        ),
    ],
)
def test_files_that_could_be_taken_for_the_stages_are_refused(tmp_path, name):
    seen = []
    files_chain(tmp_path).run(['teacher'], RUN)
    chain = files_chain(tmp_path, seen)
    file = chain.folder('teacher') / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(b'theirs')
    told = (
        rf"{file}: not written by the stage 'teacher', .*Move what is not its own out of"
        rf' {chain.folder("teacher")} and run again'
    )
    for act in (lambda: chain.run(['user'], RUN), chain.check):
        with pytest.raises(UserError, match=told):
            act()
    assert not seen
    file.unlink()
    chain.run(['user'], RUN)


def test_a_linked_folder_among_the_weights_is_refused(tmp_path):
    chain = files_chain(tmp_path)
    chain.run(['teacher'], RUN)
    (tmp_path / 'theirs').mkdir()
    (chain.folder('teacher') / 'weights' / 'step_1').symlink_to(tmp_path / 'theirs')
    with pytest.raises(UserError, match="weights/step_1: not written by the stage 'teacher'"):
        files_chain(tmp_path).check()


def test_done_of_another_stages_name_is_refused(tmp_path):
    chain = files_chain(tmp_path)
    chain.run(['teacher'], RUN)
    write_json(chain.folder('teacher') / DONE, {**chain.done('teacher'), 'stage': 'student'})
    said = r"is of the stage 'student', not of 'teacher'\. Delete its stage folder and run again"
    with pytest.raises(UserError, match=said):
        files_chain(tmp_path).check()


@pytest.mark.parametrize('value', [float('nan'), float('inf'), -1, 10**40, '3', None, [], True])
@pytest.mark.parametrize('file', [DONE, COST_FILE])
def test_costs_that_no_stage_has_are_refused(tmp_path, file, value):
    chain = files_chain(tmp_path)
    chain.run(['teacher'], RUN)
    name = 'teacher' if file == DONE else 'user'
    chain.folder(name).mkdir(exist_ok=True)
    held = (
        {'cost': {**chain.done(name)['cost'], 'seconds': value}}
        if file == DONE
        else {'seconds': value}
    )
    whole = {**chain.done(name), **held} if file == DONE else {**Cost().totals(), **held}
    (chain.folder(name) / file).write_text(json.dumps(whole))
    cure = (
        f'Delete {chain.folder(name)} and run again'
        if file == DONE
        else 'Delete it and run again: the stage goes on'
    )
    with pytest.raises(UserError, match=rf'{name}-\w+/{file}: not .*seconds.*{cure}'):
        files_chain(tmp_path).run(['user'], RUN)


def test_a_file_in_the_place_of_a_stages_folder_is_the_users_error(tmp_path):
    chain = files_chain(tmp_path)
    chain.folder('teacher').write_text('')
    said = rf'{chain.folder("teacher")}: cannot be made .*Move what is in the way'
    with pytest.raises(UserError, match=said):
        chain.run(['teacher'], RUN)


def test_a_full_disk_before_the_stages_folder_is_the_users_error(tmp_path, monkeypatch):
    chain, make = files_chain(tmp_path), Path.mkdir

    def full(path, *args, **options):
        if path == chain.folder('teacher'):
            raise OSError(errno.ENOSPC, 'No space left on device')
        make(path, *args, **options)

    monkeypatch.setattr(Path, 'mkdir', full)
    with pytest.raises(UserError, match='the disk is full'):
        chain.run(['teacher'], RUN)


def test_a_stage_is_hashed_once_for_each_chain_and_not_again_after_it_was_written(
    tmp_path, monkeypatch
):
    hashed = []
    monkeypatch.setattr(
        finished, 'sha256_of', lambda path: hashed.append(path.name) or files.sha256_of(path)
    )
    chain = files_chain(tmp_path)
    chain.run(['teacher', 'user'], RUN)
    chain.check()
    assert sorted(hashed) == ['a', 'b', 'out', 'top']
    again = files_chain(tmp_path)
    again.run(['teacher', 'user'], RUN)
    assert len(hashed) == 4  # nobody reads what is done
    again.check()
    again.check(['teacher'])
    assert sorted(hashed[4:]) == ['a', 'b', 'out', 'top']


def test_a_stage_that_noted_no_hashes_is_believed_with_a_word_only_where_an_older_version_ran_it(
    tmp_path, capsys, monkeypatch
):
    def strip(chain):
        chain.run(['teacher'], RUN)
        done = chain.done('teacher')
        write_json(
            chain.folder('teacher') / DONE,
            {name: value for name, value in done.items() if name != 'files'},
        )
        return chain.prints

    here = strip(files_chain(tmp_path))
    told = r'notes no hashes, .*Delete .*/teacher-\w+ and run again'
    with pytest.raises(UserError, match=told):
        files_chain(tmp_path).run(['user'], RUN)
    chain = files_chain(tmp_path)
    chain.recall(here)  # of this very version
    with pytest.raises(UserError, match=told):
        chain.check()
    monkeypatch.setattr(purify, '__version__', '0.1.0')
    older = strip(files_chain(tmp_path))
    monkeypatch.undo()
    chain = files_chain(tmp_path)
    chain.recall(older)
    chain.check()
    assert 'an older version noted no hashes' in capsys.readouterr().err


# None: a folder
@pytest.mark.parametrize('text', ['', '[]', '3', '{}', '{"stage": 3}', '\x00', None])
@pytest.mark.parametrize('file', [DONE, COST_FILE])
def test_a_damaged_file_of_the_chain_itself_is_named(tmp_path, file, text):
    chain = files_chain(tmp_path)
    chain.run(['teacher'], RUN)
    name = 'teacher' if file == DONE else 'user'
    chain.folder(name).mkdir(exist_ok=True)
    (chain.folder(name) / file).unlink(missing_ok=True)
    (
        (chain.folder(name) / file).mkdir()
        if text is None
        else (chain.folder(name) / file).write_text(text)
    )
    cure = (
        f'Delete {chain.folder(name)} and run again'
        if file == DONE
        else 'Delete it and run again: the stage goes on'
    )
    with pytest.raises(UserError, match=rf'{name}-\w+/{file}: (not|cannot be read) .*{cure}'):
        files_chain(tmp_path).run(['user'], RUN)


def test_hashing_stops_when_asked_to(tmp_path):
    files_chain(tmp_path).run(['teacher'], RUN)
    chain = files_chain(tmp_path)
    with preemption.watched():
        signal.raise_signal(signal.SIGTERM)
        with pytest.raises(Preempted):
            chain.check(['teacher'])
    chain.run(['user'], RUN)


@pytest.mark.parametrize(('verdict', 'error'), [(1, UserError), (2, Preempted)])
def test_other_hosts_leave_when_the_first_finds_a_changed_file(
    tmp_path, monkeypatch, verdict, error
):
    files_chain(tmp_path).run(['teacher'], RUN)
    chain = files_chain(tmp_path)
    monkeypatch.setattr(devices, 'is_lead', lambda: False)
    monkeypatch.setattr(devices, 'lead_says', lambda value: verdict)
    monkeypatch.setattr(finished, 'sha256_of', lambda path: pytest.fail('only host 0 hashes'))
    with pytest.raises(error):
        chain.check(['teacher'])
