"""Which stages a method's steps become, and what each may open."""

import numpy as np
import pytest
from pipelines.tiny import ROOT, quickstart

from purify.config.load import load_config
from purify.core.errors import UserError
from purify.core.files import write_json
from purify.defenses.method import Method, Step
from purify.defenses.registry import DEFENSES
from purify.pipelines.chain import ATTACKERS, SECRETS
from purify.pipelines.plan import KINDS, make_method, make_stages


def stages(words='', **changes):
    config = load_config(f'{ROOT}/configs/dataelixir.py' + (f':{words}' if words else ''))
    for name, part in changes.items():
        config[name] |= part
    return {stage.name: stage for stage in make_stages(config)}, config


@pytest.mark.parametrize('defense', ['dataelixir', 'activation_clustering', 'spectral', 'abl', 'dbd'])
def test_no_step_of_a_defence_may_open_the_truth(defense):
    made, config = stages(f'defense={defense}')
    steps = [step.name for step in make_method(config).steps]
    assert len(steps) >= 4
    for name in steps:
        for role, source in made[name].inputs.items():
            assert source.sub not in SECRETS, (name, role)
            assert source.stage not in ATTACKERS, (name, role)


def test_every_step_runs_as_its_kind_with_its_own_settings():
    made, config = stages()
    kinds = set()
    for step in make_method(config).steps:
        kinds.add(step.kind)
        assert made[step.name].run is KINDS[step.kind]
        own = {name: value for name, value in step.settings.items() if name != 'load'}
        assert own.items() <= made[step.name].settings.items()
        assert set(made[step.name].inputs) == set(step.inputs)
    assert kinds == {'classifier', 'measure', 'decide', 'purify', 'rewrite'}


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
        'truth': 'prepare', 'poisoned': 'prepare', 'teacher': 'teacher', 'benign': 'finetuned', 'student': 'student',
        'findings': 'verdicts', 'purified': 'purified',
    }  # fmt: skip
    assert made['evaluate'].settings == {'features': 'student', 'residual': False}
    assert made['illustrate'].inputs['candidates'].stage == 'candidates'
    assert list(made)[-2:] == ['evaluate', 'illustrate']


@pytest.mark.parametrize('defense', ['spectral', 'activation_clustering'])
def test_a_method_that_looks_at_features_gets_a_map(defense):
    made, config = stages(f'defense={defense}')
    assert list(made)[-1] == 'atlas'
    assert {role: source.stage for role, source in made['atlas'].inputs.items()} == {
        'truth': 'prepare', 'features': 'features', 'findings': 'verdicts',
    }  # fmt: skip
    assert made['atlas'].settings == {'seed': config['seeds']['model']}
    assert 'atlas' not in stages('defense=abl')[0]


def test_the_residual_attack_needs_a_prior_and_candidates():
    made, config = stages(evaluation={'residual': True})
    assert made['evaluate'].inputs['prior'] == made['candidates'].inputs['prior']
    settings = made['evaluate'].settings
    assert settings['residual_choice'] == {'rank': config['defense']['rank'], 'count_raw': config['defense']['count_raw']}
    assert settings['residual_rule'].items() <= made['candidates'].settings.items()
    with pytest.raises(UserError, match='residual'):
        make_stages(quickstart() | {'evaluation': {'features': 'none', 'residual': True}})


def test_features_of_a_finished_classifier_are_an_input(tmp_path):
    write_json(tmp_path / 'network.json', {'num_classes': 3})
    made, _ = stages(evaluation={'features': str(tmp_path)})
    assert made['evaluate'].inputs['features'].outside == tmp_path
    with pytest.raises(UserError, match='no such file'):
        stages(evaluation={'features': str(tmp_path / 'nowhere')})


def test_weights_in_one_file_are_told_apart_by_what_they_hold(tmp_path):
    file = tmp_path / 'weights.safetensors'
    digests = []
    for number in (0, 1):
        file.write_bytes(np.full(64, number, np.uint8).tobytes())
        made, _ = stages(teacher={'init_from': str(file)})
        digests.append(made['teacher'].inputs['init'].digest)
    assert len(set(digests)) == 2


def test_a_method_without_the_parts_it_needs_is_refused(monkeypatch):
    class Odd:
        def __init__(self, step):
            self.step = step

        def method(self, student):
            return Method((self.step,))

    for step, message in (
        (Step('odd', 'guess', {'poisoned': 'poisoned'}, {}), "unknown kind 'guess'"),
        (Step('odd', 'measure', {'classifier': 'benign'}, {}), 'needs benign'),
    ):
        monkeypatch.setitem(DEFENSES, 'odd', lambda step=step: Odd(step))
        with pytest.raises(UserError, match=message):
            make_stages(quickstart() | {'defense': {'name': 'odd'}})
