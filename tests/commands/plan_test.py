"""Which stages a method's steps become, and what each may open."""

import os
from dataclasses import dataclass

import numpy as np
import pytest
from support.tiny import ROOT, quickstart, write_pictures

from purify.commands.check import check
from purify.commands.plan import make_method, make_stages
from purify.config.load import load_config
from purify.core.errors import UserError
from purify.core.files import write_json
from purify.defenses.measures import Features
from purify.defenses.method import Defense, Guard, Method, Outcome, Step
from purify.defenses.registry import DEFENSES
from purify.engine.chain import Chain
from purify.models.files import hub
from purify.stages import train_classifier
from purify.stages.kind import Kind
from purify.stages.registry import KINDS


def stages(words='', **changes):
    config = load_config(f'{ROOT}/configs/dataelixir.py' + (f':{words}' if words else ''))
    for name, part in changes.items():
        config[name] |= part
    return {stage.name: stage for stage in make_stages(config)}, config


@pytest.mark.parametrize(
    'defense', ['dataelixir', 'activation_clustering', 'spectral', 'abl', 'dbd']
)
def test_no_step_of_a_defence_may_open_the_truth(defense):
    made, config = stages(f'defense={defense}')
    steps = [step.name for step in make_method(config).steps]
    assert len(steps) >= 4
    for name in steps:
        assert not made[name].sees, name
        for role, source in made[name].inputs.items():
            assert source.sub not in ('truth', 'attacker'), (name, role)
            assert source.stage not in ('clean', 'surrogate', 'trigger'), (name, role)


def test_every_step_runs_as_its_kind_with_its_own_settings(monkeypatch):
    ran = []
    for name, kind in KINDS.items():
        noted = Kind(lambda *given, name=name: ran.append((name, *given)), kind.shape, kind.uses)
        monkeypatch.setitem(KINDS, name, noted if name != 'classifier' else kind)
    made, config = stages()
    kinds = set()
    for step in make_method(config).steps:
        kinds.add(step.kind)
        own = {name: value for name, value in step.facts().items() if name != 'load'}
        assert own.items() <= made[step.name].settings.items()
        assert set(made[step.name].inputs) == set(step.inputs)
        if step.kind == 'classifier':
            assert made[step.name].run is train_classifier.run
            continue
        made[step.name].run('the work')
        given = ('the work',) if step.by is None else ('the work', step.by)
        assert ran.pop() == (step.kind, *given)
    assert kinds == {'classifier', 'measure', 'decide', 'look', 'purify', 'rewrite'}


def test_a_decision_is_the_same_whatever_the_seed():
    """Decisions draw nothing: a seed changes what they are made of, not they."""
    one, _ = stages()
    other, _ = stages(seeds={'model': 7})
    assert one['targets'].settings == other['targets'].settings
    assert one['candidates'].settings != other['candidates'].settings


def test_the_evaluation_gets_what_the_outcome_names():
    made, _ = stages()
    found = {role: source.stage for role, source in made['evaluate'].inputs.items()}
    assert found == {
        'truth': 'prepare',
        'poisoned': 'prepare',
        'teacher': 'teacher',
        'benign': 'finetuned',
        'student': 'student',
        'findings': 'verdicts',
        'purified': 'purified',
    }
    assert made['evaluate'].settings == {'features': 'student', 'residual': False}
    assert made['illustrate'].inputs['candidates'].stage == 'candidates'
    assert list(made)[-2:] == ['evaluate', 'illustrate']


@pytest.mark.long
@pytest.mark.parametrize(
    ('words', 'network'),
    [
        ('quickstart.py:', 'teacher: fast'),
        ('castle_walls.py:setting=cifar10_small,', 'teacher: fast'),
        ('relabel.py:setting=cifar10_small,', 'teacher: fast'),
        ('cifar10.py:small,', 'teacher: fast'),
        ('dataelixir.py:setting=cifar10_small,', 'teacher: fast'),
    ],
)
def test_a_whole_run_on_photographs_can_be_traced(tmp_path, words, network):
    write_pictures(tmp_path, 300, 20)
    config = load_config(f'{ROOT}/configs/{words}source=arrays:{tmp_path}')
    if 'cifar10' in words:  # which leaves out what the prior has seen
        config['source'] |= {'train_size': 300, 'test_size': 20, 'skip': 0}
    found = check(config)
    assert not found.problems
    assert any(note.startswith(network) for note in found.notes)


@pytest.mark.parametrize('defense', ['spectral', 'activation_clustering'])
def test_a_method_that_looks_at_features_gets_a_map(defense):
    made, config = stages(f'defense={defense}')
    assert list(made)[-1] == 'atlas'
    wanted = {'truth': 'prepare', 'features': 'features', 'findings': 'verdicts'}
    assert {role: source.stage for role, source in made['atlas'].inputs.items()} == wanted
    assert made['atlas'].settings == {'seed': config['seeds']['model']}
    assert 'atlas' not in stages('defense=abl')[0]


def test_the_residual_attack_needs_a_prior_and_candidates():
    made, config = stages(evaluation={'residual': True})
    assert made['evaluate'].inputs['prior'] == made['candidates'].inputs['prior']
    settings = made['evaluate'].settings
    wanted = {'rank': config['defense']['rank'], 'count_raw': config['defense']['count_raw']}
    assert settings['residual_choice'] == wanted
    assert (
        settings['by']
        == made['candidates'].settings['by']
        == make_method(config).step('candidates').facts()['by']
    )
    found = made['evaluate'].run.keywords
    assert found == {'candidates': make_method(config).step('candidates').by}
    with pytest.raises(UserError, match='residual'):
        make_stages(quickstart() | {'evaluation': {'features': 'none', 'residual': True}})


def test_features_of_a_finished_classifier_are_an_input(tmp_path):
    facts = {'network': {'name': 'resnet'}, 'num_classes': 3, 'channels': 1}
    facts |= {'class_names': ['a', 'b', 'c']}
    write_json(tmp_path / 'network.json', facts)
    made, _ = stages(evaluation={'features': str(tmp_path)})
    assert made['evaluate'].inputs['features'].outside == tmp_path
    with pytest.raises(UserError, match='no such file'):
        stages(evaluation={'features': str(tmp_path / 'nowhere')})


@pytest.mark.parametrize('given', ['weights.safetensors', '.'])
def test_weights_to_start_from_are_told_apart_by_what_they_hold(tmp_path, given):
    digests = []
    for number in (0, 1):
        (tmp_path / 'weights.safetensors').write_bytes(np.full(64, number, np.uint8).tobytes())
        made, _ = stages(teacher={'init_from': str(tmp_path / given)})
        digests.append(made['teacher'].inputs['init'].digest)
    assert len(set(digests)) == 2


@pytest.mark.parametrize('look', [make_stages, check])
@pytest.mark.parametrize('part', ['seeds', 'source', 'attack', 'run', 'shard_size'])
def test_a_config_that_describes_no_run_is_refused(look, part):
    config = {name: value for name, value in quickstart().items() if name != part}
    with pytest.raises(UserError, match=f'the config has no {part}: it describes no run'):
        look(config)


def test_a_method_without_the_parts_it_needs_is_refused(monkeypatch):
    for step, message in (
        (Step('odd', 'guess', {'poisoned': 'poisoned'}), "unknown kind of step 'guess'"),
        (Step('odd', 'measure', {'classifier': 'benign'}, by=Features()), 'needs benign'),
        (
            Step(
                'teacher',
                'measure',
                {'poisoned': 'poisoned', 'classifier': 'teacher'},
                by=Features(),
            ),
            "is called 'teacher', a name that is taken already",
        ),
    ):
        with pytest.raises(UserError, match=message):
            Chain(make_stages(odd(monkeypatch, step)), ROOT)


@dataclass(frozen=True)
class Darkened(Guard):
    """Takes something off every pixel."""

    by: int

    def rule(self, models, context):
        assert set(models) == {'classifier'}
        if self.by < 0:
            raise UserError(f'by={self.by} would add to it.')

        def rule(constants, rows):
            assert set(rows) == {'image', 'id'}
            image = rows['image'] - np.uint8(self.by)
            return {'image': image, 'finite': image[:, 0, 0, 0] >= 0}

        return rule


def guard(**changes):
    """A step that is no stage."""
    return Step(
        'dark', 'guard', **{'inputs': {'classifier': 'mended'}, 'by': Darkened(9)} | changes
    )


def mended():
    return Step(
        'mended',
        'classifier',
        {'data': 'poisoned', 'init': 'teacher'},
        quickstart('defense=none')['teacher'],
    )


def test_the_evaluation_gets_a_guard_and_a_repaired_classifier(monkeypatch):
    config = odd(monkeypatch, mended(), guard=guard(), repaired='mended')
    made = {stage.name: stage for stage in make_stages(config)}
    found = {role: source.stage for role, source in made['evaluate'].inputs.items()}
    wanted = {'truth': 'prepare', 'teacher': 'teacher', 'repaired': 'mended'}
    wanted |= {'guard classifier': 'mended'}
    assert found == wanted
    assert 'dark' not in made
    assert made['evaluate'].settings['guard'] == {'by': {'name': 'Darkened', 'by': 9}}
    assert made['evaluate'].settings['seed'] == config['seeds']['model']
    assert made['evaluate'].run.keywords == {'guard': Darkened(9)}
    assert check(config).problems == []


def test_another_guard_is_another_evaluation_and_no_other_training(monkeypatch):
    prints = [
        Chain(make_stages(odd(monkeypatch, mended(), guard=guard(by=Darkened(by)))), ROOT).prints
        for by in (1, 2)
    ]
    assert {name for name in prints[0] if prints[0][name] != prints[1][name]} == {'evaluate'}


def test_a_guard_that_cannot_work_is_found_before_anything_runs(monkeypatch):
    problems = check(odd(monkeypatch, mended(), guard=guard(by=Darkened(-1)))).problems
    assert problems == ['guard: by=-1 would add to it.']
    with pytest.raises(UserError, match='needs nobody'):
        make_stages(odd(monkeypatch, mended(), guard=guard(inputs={'classifier': 'nobody'})))


def odd(monkeypatch, *steps, **outcome):
    """The quickstart with a defence of these steps in place of its own."""

    class Odd(Defense):
        def method(self, student):
            return Method(steps, Outcome(**outcome))

    monkeypatch.setitem(DEFENSES, 'odd', Odd)
    return quickstart() | {'defense': {'name': 'odd'}}


def prepared(source, attack=None):
    """The digests of what the stage `prepare` reads from outside, which follow the data on disk."""
    config = quickstart()
    config['source'] |= source
    config['attack'] |= attack or {}
    return ' '.join(
        given.digest
        for given in {stage.name: stage for stage in make_stages(config)}['prepare'].inputs.values()
    )


def test_what_a_run_reads_is_told_apart_by_what_it_holds(tmp_path):
    assert prepared({}) == ''
    for kind in ('arrays', 'imagefolder'):
        folder = tmp_path / kind
        for name in ('train', 'test'):
            (folder / name / 'ant').mkdir(parents=True)
            (folder / name / 'ant' / '0.png').write_bytes(b'one')
            (folder / f'{name}.npz').write_bytes(b'one')
        source = {'name': kind, 'path': str(folder)}
        found = {prepared(source), prepared(source)}
        assert len(found) == 1
        assert '' not in found
        file = folder / ('train.npz' if kind == 'arrays' else 'train/ant/0.png')
        file.write_bytes(b'two')
        assert prepared(source) not in found
        seen = prepared(source | {'path': str(tmp_path / 'nowhere')})
        assert seen not in found, 'left to the source to complain about'


def test_a_trigger_picture_is_told_apart_by_what_it_holds(tmp_path):
    attack = {'name': 'blended', 'pattern': 'picture', 'path': str(tmp_path / 'p.png')}
    (tmp_path / 'p.png').write_bytes(b'one')
    before, facts = prepared({}, attack), (tmp_path / 'p.png').stat()
    (tmp_path / 'p.png').write_bytes(b'two')
    os.utime(tmp_path / 'p.png', ns=(facts.st_atime_ns, facts.st_mtime_ns))
    assert '' != before != prepared({}, attack)


@pytest.mark.long
def test_a_start_on_the_hub_is_noted_and_not_fetched(tmp_path, monkeypatch):
    monkeypatch.setattr(hub, '_download', None)
    write_pictures(tmp_path, 300, 20)
    words = f'setting=cifar10_small,source=arrays:{tmp_path},init_from=someone/prior'
    config = load_config(f'{ROOT}/configs/castle_walls.py:{words}')
    config['source'] |= {'train_size': 300, 'test_size': 20, 'skip': 0}
    found = check(config)
    assert not found.problems
    assert any('someone/prior is fetched from the hub' in note for note in found.notes)
