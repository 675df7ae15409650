"""What `check` sees of a method's steps without running them."""

from dataclasses import dataclass

import jax.numpy as jnp
import pytest
from pipelines.tiny import ROOT, SMALL

from purify.config.load import load_config
from purify.defenses.method import Step
from purify.defenses.registry import MEASURES
from purify.pipelines.check import check
from purify.pipelines.shaping import Findings, Known, Shape, shape_classifier, shape_step


def small(words=''):
    """A config whose classifiers are of one block."""
    config = load_config(f'{ROOT}/configs/dataelixir.py:{words}'.rstrip(':'), SMALL)
    for name in {'teacher', 'student'} & set(config):
        config[name]['network'] |= {'stages': [1], 'width': 4}
    return config


@pytest.fixture
def known():
    config = small()
    made = Known(Findings(), config, Shape(size_px=8, channels=1, classes=10, images=96), {})
    shape_classifier(made, 'teacher', config['teacher'])
    assert not made.found.problems
    return made


@dataclass(frozen=True)
class Widths:
    """Needs logits of `classes` numbers."""

    classes: int

    def rule(self, models, shape, seed, class_names):
        def rule(constants, rows):
            logits, _ = models['classifier'].answer(constants['classifier'], rows['image'].astype(jnp.float32))
            assert logits.shape == (len(rows['id']), 10)
            return {'apart': logits - jnp.zeros(self.classes)}

        return rule


def look(known, classifier='teacher', **settings):
    step = Step('look', 'measure', {'poisoned': 'poisoned', 'classifier': classifier}, {'name': 'widths'} | settings)
    shape_step(known, step)
    return known.found.problems


def test_a_measure_is_traced_with_the_classifier_it_asks_for(known, monkeypatch):
    monkeypatch.setitem(MEASURES, 'widths', Widths)
    assert not look(known, classes=10)
    assert 'look' in look(known, classes=7)[0]


def test_an_unknown_attribute_is_a_problem(known, monkeypatch):
    monkeypatch.setitem(MEASURES, 'widths', Widths)
    assert 'unheard_of' in look(known, classes=10, unheard_of=1)[0]


def test_a_classifier_that_is_wrong_itself_is_one_problem_not_two(known, monkeypatch):
    monkeypatch.setitem(MEASURES, 'widths', Widths)
    part = known.config['teacher'] | {'network': {'name': 'resnet999'}}
    shape_step(known, Step('benign', 'classifier', {'data': 'poisoned'}, part))
    assert len(look(known, 'benign', classes=10)) == 1


def test_a_start_from_a_network_of_another_build_is_a_problem(known):
    part = known.config['teacher'] | {'network': known.config['teacher']['network'] | {'width': 8}}
    shape_step(known, Step('finetuned', 'classifier', {'data': 'poisoned', 'init': 'teacher'}, known.config['teacher']))
    assert not known.found.problems
    shape_step(known, Step('finetuned', 'classifier', {'data': 'poisoned', 'init': 'teacher'}, part))
    (problem,) = known.found.problems
    assert 'another build' in problem


def test_a_decision_with_a_wrong_setting_is_a_problem(known):
    shape_step(known, Step('isolated', 'decide', {}, {'name': 'lowest_losses', 'share': 0.1, 'kept': 'others'}))
    (problem,) = known.found.problems
    assert "'kept'" in problem


def test_all_problems_come_at_once(tmp_path):
    config = small('defense=spectral')
    config['prior'] = {'load': str(tmp_path), 'revision': ''}
    config['run']['writers'] = ['carrier_pigeon']
    config['defense']['remove'] = 2.0
    problems = check(config).problems
    for word in (str(tmp_path), 'carrier_pigeon', 'remove=2.0'):
        assert sum(word in problem for problem in problems) == 1, word
