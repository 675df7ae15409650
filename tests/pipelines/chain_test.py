import hashlib
import os
import shutil
from pathlib import Path

import pytest

from purify.core import devices, files, preemption
from purify.core.errors import Preempted, UserError
from purify.core.files import read_json, write_json
from purify.pipelines import finished
from purify.pipelines.chain import Chain, Input, Stage
from purify.pipelines.finished import DONE
from purify.train.cost import COST_FILE, Cost

RUN = {}


def writes(name, seen=None):
    def run(work):
        if seen is not None:
            seen.append(name)
        text = ''.join(sorted((path / 'out').read_text() for path in work.inputs.values()))
        (work.folder / 'out').write_text(name + str(work.settings.get('x', '')) + text)

    return run


def two(seen, x=1):
    return [Stage('a', writes('a', seen), {'x': x}), Stage('b', writes('b', seen), {}, {'in': Input('a')})]


def test_a_finished_stage_is_not_run_again(tmp_path):
    seen = []
    assert Chain(two(seen), tmp_path).run(['a', 'b'], RUN) == {'a': False, 'b': False}
    assert Chain(two(seen), tmp_path).run(['a', 'b'], RUN) == {'a': True, 'b': True}
    assert seen == ['a', 'b']


def test_a_changed_setting_changes_the_stage_and_all_after_it(tmp_path):
    seen = []
    Chain(two(seen), tmp_path).run(['a', 'b'], RUN)
    changed = Chain(two(seen, x=2), tmp_path)
    changed.run(['a', 'b'], RUN)
    assert seen == ['a', 'b', 'a', 'b']
    assert (changed.folder('b') / 'out').read_text() == 'ba2'


def test_a_stage_that_fails_leaves_no_done_and_runs_again(tmp_path):
    def fails(work):
        (work.folder / 'half').write_text('x')
        raise UserError('no')

    chain = Chain([Stage('a', fails, {})], tmp_path)
    with pytest.raises(UserError, match='no'):
        chain.run(['a'], RUN)
    assert not chain.finished('a')
    assert not (chain.folder('a') / DONE).exists()


def test_some_stages_only_and_what_they_miss(tmp_path):
    seen = []
    chain = Chain(two(seen), tmp_path)
    with pytest.raises(UserError, match="'b' needs 'a', which is not finished"):
        chain.run(['b'], RUN)
    chain.run(['a'], RUN)
    chain.run(['b'], RUN)
    assert seen == ['a', 'b']


def test_an_input_that_is_no_earlier_stage_is_refused(tmp_path):
    with pytest.raises(UserError, match='no earlier stage'):
        Chain([Stage('b', writes('b'), {}, {'in': Input('a')})], tmp_path)


def test_done_says_what_was_done(tmp_path):
    chain = Chain(two([]), tmp_path)
    chain.run(['a', 'b'], RUN)
    done = read_json(chain.folder('b') / DONE)
    assert done['stage'] == 'b'
    assert done['fingerprint'] in chain.folder('b').name
    assert done['cost']['seconds'] >= 0
    assert done['inputs']['in'].startswith('a-')


def secret_chain(tmp_path, rogue, inputs):
    def prepare(work):
        for sub in ('poisoned', 'truth', 'attacker'):
            (work.folder / sub).mkdir(exist_ok=True)
            (work.folder / sub / 'file').write_text(sub)

    return Chain([Stage('prepare', prepare, {}), Stage('rogue', rogue, {}, inputs)], tmp_path)


@pytest.mark.parametrize('secret', ['truth', 'attacker'])
@pytest.mark.parametrize('how', [lambda p: (p / 'file').read_text(), os.listdir, os.scandir])
def test_a_defence_that_reads_the_truth_is_stopped(tmp_path, secret, how):
    def rogue(work):
        how(work.inputs['poisoned'].parent / secret)

    chain = secret_chain(tmp_path, rogue, {'poisoned': Input('prepare', 'poisoned')})
    with pytest.raises(PermissionError, match='may not read the truth'):
        chain.run(['prepare', 'rogue'], RUN)
    assert not chain.finished('rogue')


def test_a_stage_that_was_given_the_truth_may_read_it(tmp_path):
    def honest(work):
        assert (work.inputs['truth'] / 'file').read_text() == 'truth'
        with pytest.raises(PermissionError):
            (work.inputs['truth'].parent / 'attacker' / 'file').read_text()

    secret_chain(tmp_path, honest, {'truth': Input('prepare', 'truth')}).run(['prepare', 'rogue'], RUN)


@pytest.mark.parametrize('conclusion', ['evaluate', 'illustrate', 'atlas'])
def test_what_another_run_concluded_is_shut_too(tmp_path, conclusion):
    """Pictures and numbers made with the truth say who is poisoned."""
    Chain([Stage(conclusion, writes(conclusion), {})], tmp_path).run([conclusion], RUN)
    theirs = next(tmp_path.glob(f'{conclusion}-*/')) / 'out'

    def rogue(work):
        theirs.read_text()

    chain = secret_chain(tmp_path, rogue, {'poisoned': Input('prepare', 'poisoned')})
    with pytest.raises(PermissionError, match='may not read the truth'):
        chain.run(['prepare', 'rogue'], RUN)
    assert theirs.read_text() == conclusion


def test_only_conclusions_and_the_attackers_own_training_ask_for_secrets():
    """The config-made stages: the last ones alone have the truth, nobody but `teacher` the attacker's loader."""
    from pipelines.tiny import ROOT, SMALL, quickstart

    from purify.config.load import load_config
    from purify.pipelines.plan import make_stages

    elixir = load_config(f'{ROOT}/configs/dataelixir.py:attack=blended', SMALL)
    drawn = {'evaluate', 'illustrate'}
    for config, expected in (
        (elixir, drawn),
        *((quickstart(w), {'evaluate'}) for w in ('', 'defense=augmentations', 'attack=blended')),
    ):
        config['attack']['random_poisoning'] = True
        asked = {(stage.name, source.sub) for stage in make_stages(config) for source in stage.inputs.values()}
        secrets = {pair for pair in asked if pair[1] in ('truth', 'attacker')}
        assert secrets == {*((name, 'truth') for name in expected), ('teacher', 'attacker')}


def test_stages_of_equal_runs_share_a_store(tmp_path):
    seen = []
    Chain(two(seen), tmp_path).run(['a'], RUN)
    other = Chain([*two(seen), Stage('c', writes('c', seen), {}, {'in': Input('b')})], tmp_path)
    other.run(['a', 'b', 'c'], RUN)
    assert seen == ['a', 'b', 'c']
    assert isinstance(other.folder('c'), Path)


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

    return Chain([Stage('teacher', leaves, {}), Stage('user', reads, {}, {'in': Input('teacher', 'weights/d')})], tmp_path)


def test_done_names_every_file_with_its_hash_and_nothing_is_left_over(tmp_path):
    chain = files_chain(tmp_path)
    folder = chain.folder('teacher')
    folder.mkdir()
    write_json(folder / COST_FILE, Cost(images=3).totals())  # of a part that was stopped
    chain.run(['teacher'], RUN)
    handed = ('top', 'weights/d/a', 'weights/d/b')
    assert chain.done('teacher').get('files') == {name: hashlib.sha256(name.encode()).hexdigest() for name in handed}
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
    told = rf"{folder}/weights/d/a.*: missing, or changed since the stage 'teacher' wrote it\. Delete {folder} and run again\."
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
    chain = Chain([Stage('a', lambda work: [(work.folder / str(i)).write_bytes(b'x') for i in range(9)], {})], tmp_path)
    chain.run(['a'], RUN)
    for path in chain.folder('a').iterdir():
        if path.name != DONE:
            path.write_bytes(b'y')
    with pytest.raises(UserError, match=r'/0, .*/1, .*/2 \(and 6 more files\): missing, or changed'):
        Chain(list(chain.stages.values()), tmp_path).check()


def test_files_that_the_stage_did_not_write_are_told_and_no_error(tmp_path, capsys):
    files_chain(tmp_path).run(['teacher'], RUN)
    chain = files_chain(tmp_path)
    (chain.folder('teacher') / 'weights' / 'note.txt').write_text('mine')
    (chain.folder('teacher') / 'top.5.6.part').write_text('half')
    chain.check()
    assert 'holds 1 files that its stage did not write, such as weights/note.txt' in capsys.readouterr().err


def test_a_stage_is_hashed_once_for_each_chain_and_not_again_after_it_was_written(tmp_path, monkeypatch):
    hashed = []
    monkeypatch.setattr(finished, 'sha256_of', lambda path: hashed.append(path.name) or files.sha256_of(path))
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


def test_a_stage_that_noted_no_hashes_is_believed_with_a_word(tmp_path, capsys):
    files_chain(tmp_path).run(['teacher'], RUN)
    chain = files_chain(tmp_path)
    done = chain.done('teacher')
    write_json(chain.folder('teacher') / DONE, {name: value for name, value in done.items() if name != 'files'})
    chain.run(['user'], RUN)
    assert 'an older version wrote it and noted no hashes' in capsys.readouterr().err


@pytest.mark.parametrize('text', ['', '[]', '3', '{}', '{"stage": 3}', '\x00'])
@pytest.mark.parametrize('file', [DONE, COST_FILE])
def test_a_damaged_file_of_the_chain_itself_is_named(tmp_path, file, text):
    chain = files_chain(tmp_path)
    chain.run(['teacher'], RUN)
    name = 'teacher' if file == DONE else 'user'
    chain.folder(name).mkdir(exist_ok=True)
    (chain.folder(name) / file).write_text(text)
    with pytest.raises(UserError, match=rf'{name}-\w+/{file}: not '):
        files_chain(tmp_path).run(['user'], RUN)


def test_hashing_stops_when_asked_to(tmp_path, monkeypatch):
    files_chain(tmp_path).run(['teacher'], RUN)
    chain = files_chain(tmp_path)
    monkeypatch.setattr(preemption, '_asked', True)
    with pytest.raises(Preempted):
        chain.check(['teacher'])
    monkeypatch.undo()
    chain.run(['user'], RUN)


@pytest.mark.parametrize(('verdict', 'error'), [(1, UserError), (2, Preempted)])
def test_other_hosts_leave_when_the_first_finds_a_changed_file(tmp_path, monkeypatch, verdict, error):
    files_chain(tmp_path).run(['teacher'], RUN)
    chain = files_chain(tmp_path)
    monkeypatch.setattr(devices, 'is_lead', lambda: False)
    monkeypatch.setattr(devices, 'lead_says', lambda value: verdict)
    monkeypatch.setattr(finished, 'sha256_of', lambda path: pytest.fail('only host 0 hashes'))
    with pytest.raises(error):
        chain.check(['teacher'])


def test_the_hashes_of_the_truth_are_shut_with_it(tmp_path):
    def rogue(work):
        (work.inputs['poisoned'].parent / DONE).read_text()

    chain = secret_chain(tmp_path, rogue, {'poisoned': Input('prepare', 'poisoned')})
    with pytest.raises(PermissionError, match='may not read the truth'):
        chain.run(['prepare', 'rogue'], RUN)
    assert 'truth/file' in chain.done('prepare').get('files', {})
