import os
import shutil
from pathlib import Path

import pytest

from purify.core.errors import UserError
from purify.core.files import read_json
from purify.engine import finished
from purify.engine.chain import Chain
from purify.engine.finished import DONE
from purify.engine.stage import Input, Stage

RUN = {}


def writes(name, seen=None):
    def run(work):
        if seen is not None:
            seen.append(name)
        text = ''.join(sorted((path / 'out').read_text() for path in work.inputs.values()))
        (work.folder / 'out').write_text(name + str(work.settings.get('x', '')) + text)

    return run


def two(seen, x=1):
    return [
        Stage('a', writes('a', seen), {'x': x}),
        Stage('b', writes('b', seen), {}, {'in': Input('a')}),
    ]


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
    with pytest.raises(UserError, match="'b' needs 'a', unfinished"):
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

    first = Stage(
        'prepare', prepare, {}, {'source': Input(digest='x')}, sees=('source',), shows=('poisoned',)
    )
    sees = tuple(role for role in inputs if role == 'truth')
    return Chain([first, Stage('rogue', rogue, {}, inputs, sees=sees)], tmp_path)


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

    secret_chain(tmp_path, honest, {'truth': Input('prepare', 'truth')}).run(
        ['prepare', 'rogue'], RUN
    )


@pytest.mark.parametrize('theirs', ['evaluate', 'a', 'made_up'])
def test_what_other_runs_left_in_the_store_is_shut_too(tmp_path, theirs):
    """What was made with the truth says who is poisoned: it is no input, whatever it is called."""
    Chain([Stage(theirs, writes(theirs), {})], tmp_path).run([theirs], RUN)
    left = next(tmp_path.glob(f'{theirs}-*/')) / 'out'

    def rogue(work):
        left.read_text()

    chain = secret_chain(tmp_path, rogue, {'poisoned': Input('prepare', 'poisoned')})
    with pytest.raises(PermissionError, match='may not read the truth'):
        chain.run(['prepare', 'rogue'], RUN)
    assert left.read_text() == theirs


def test_a_copy_of_a_stage_under_another_name_is_shut_too(tmp_path):
    backup = tmp_path / 'prepare-old'

    def rogue(work):
        (backup / 'truth' / 'file').read_text()

    chain = secret_chain(tmp_path, rogue, {'poisoned': Input('prepare', 'poisoned')})
    chain.run(['prepare'], RUN)
    shutil.copytree(chain.folder('prepare'), backup)
    with pytest.raises(PermissionError, match='may not read the truth'):
        chain.run(['rogue'], RUN)


def test_an_input_that_tells_too_much_is_refused_before_anything_runs(tmp_path):
    source = {'source': Input(digest='x')}
    first = Stage('prepare', writes('prepare'), {}, source, sees=('source',), shows=('poisoned',))
    open_ones = [first, Stage('b', writes('b'), {}, {'in': Input('prepare', 'poisoned/deep')})]
    assert list(Chain(open_ones, tmp_path).stages) == ['prepare', 'b']
    for sub in ('truth', '', 'poisoned_too'):
        with pytest.raises(UserError, match=f"'b' may not open prepare/{sub}, its input 'in'"):
            Chain([first, Stage('b', writes('b'), {}, {'in': Input('prepare', sub)})], tmp_path)
    seen = Stage('b', writes('b'), {}, {'in': Input('prepare', 'truth')}, sees=('in',))
    # what has seen the truth tells it on
    with pytest.raises(UserError, match="'c' may not open b/"):
        Chain([first, seen, Stage('c', writes('c'), {}, {'in': Input('b')})], tmp_path)
    told = Stage('b', writes('b'), {}, {'in': Input('prepare', 'truth')}, sees=('in',), shows=('',))
    assert list(
        Chain([first, told, Stage('c', writes('c'), {}, {'in': Input('b')})], tmp_path).stages
    ) == ['prepare', 'b', 'c']
    with pytest.raises(ValueError, match='sees truth, no input of its own'):
        Stage('b', writes('b'), {}, {'in': Input('prepare', 'truth')}, sees=('truth',))


@pytest.mark.parametrize('sub', ['poisoned/../truth', '..', '/etc'])
def test_an_input_lies_in_its_stages_folder(sub):
    with pytest.raises(ValueError, match="is no subfolder of 'prepare'"):
        Input('prepare', sub)


def test_two_stages_of_one_name_are_refused(tmp_path):
    with pytest.raises(UserError, match="two stages of this run are called 'a'"):
        Chain([*two([]), Stage('a', writes('a'), {'x': 5})], tmp_path)


def test_only_conclusions_and_the_attackers_own_training_ask_for_secrets():
    """Of a config: the last stages alone have the truth, `teacher` alone the attacker's loader."""
    from support.tiny import ROOT, SMALL, quickstart

    from purify.commands.plan import make_stages
    from purify.config.load import load_config

    elixir = load_config(f'{ROOT}/configs/dataelixir.py:attack=blended', SMALL)
    drawn = {'evaluate', 'illustrate'}
    for config, expected in (
        (elixir, drawn),
        *((quickstart(w), {'evaluate'}) for w in ('', 'defense=augmentations', 'attack=blended')),
    ):
        config['attack']['random_poisoning'] = True
        asked = {
            (stage.name, source.sub)
            for stage in make_stages(config)
            for source in stage.inputs.values()
        }
        secrets = {pair for pair in asked if pair[1] in ('truth', 'attacker')}
        assert secrets == {*((name, 'truth') for name in expected), ('teacher', 'attacker')}


def test_stages_of_equal_runs_share_a_store(tmp_path):
    seen = []
    Chain(two(seen), tmp_path).run(['a'], RUN)
    other = Chain([*two(seen), Stage('c', writes('c', seen), {}, {'in': Input('b')})], tmp_path)
    other.run(['a', 'b', 'c'], RUN)
    assert seen == ['a', 'b', 'c']
    assert isinstance(other.folder('c'), Path)


@pytest.mark.parametrize('other', ['another stage', 'the same stage by other settings'])
def test_a_whole_folder_in_anothers_place_is_refused(tmp_path, other):
    chain, seen = Chain(two([]), tmp_path), []
    chain.run(['a', 'b'], RUN)
    theirs = chain.folder('b')
    if other != 'another stage':
        changed = Chain(two([], x=2), tmp_path)
        changed.run(['a'], RUN)
        theirs = changed.folder('a')
    folder = chain.folder('a')
    shutil.rmtree(folder)
    shutil.copytree(theirs, folder)
    shutil.rmtree(chain.folder('b'))
    again = Chain(two(seen), tmp_path)
    told = (
        rf'{folder}/DONE: is of the stage .* not of the one that {folder.name} is named for\.'
        rf' Delete {folder} and'
    )
    for act in (lambda: again.run(['a', 'b'], RUN), again.check, lambda: again.done('a')):
        with pytest.raises(UserError, match=told):
            act()
    assert not seen


def test_a_link_to_a_stage_is_held_to_the_stages_name(tmp_path):
    chain = Chain(two([]), tmp_path)
    chain.run(['a', 'b'], RUN)
    (tmp_path / 'teacher').symlink_to(chain.folder('a'))
    assert finished.read_done(tmp_path / 'teacher')['stage'] == 'a'
    shutil.copy(chain.folder('b') / DONE, chain.folder('a') / DONE)
    with pytest.raises(UserError, match='is named for'):
        finished.read_done(tmp_path / 'teacher')


def test_the_hashes_of_the_truth_are_shut_with_it(tmp_path):
    def rogue(work):
        (work.inputs['poisoned'].parent / DONE).read_text()

    chain = secret_chain(tmp_path, rogue, {'poisoned': Input('prepare', 'poisoned')})
    with pytest.raises(PermissionError, match='may not read the truth'):
        chain.run(['prepare', 'rogue'], RUN)
    assert 'truth/file' in chain.done('prepare').get('files', {})
