"""What `check` sees of a method's steps without running them."""

from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.networks import write_classifier
from support.tiny import ROOT, SMALL

from purify.commands import check as checking
from purify.commands.check import check
from purify.commands.plan import make_method, make_stages
from purify.config.load import load_config
from purify.core.errors import UserError
from purify.defenses.method import Measure, Purifier, Step
from purify.stages import known as knowing
from purify.stages.classifier import classifier_builder
from purify.stages.known import Data, Diagnosis, Known
from purify.stages.networks_on_disk import write_network
from purify.stages.registry import KINDS
from purify.stages.train_classifier import shape_classifier
from purify.train.state import abstract_network


def small(words=''):
    """A config whose classifiers are of one block."""
    config = load_config(f'{ROOT}/configs/dataelixir.py:{words}'.rstrip(':'), SMALL)
    for name in {'teacher', 'student'} & set(config):
        config[name]['network'] |= {'stages': [1], 'width': 4}
    return config


def shape_step(known, step):
    """As `check` does it."""
    known.found.attempt(step.name, lambda: KINDS[step.kind].shape(known, step))


@pytest.fixture
def known():
    config = small()
    made = Known(Diagnosis(), config, Data(size_px=8, channels=1, classes=10, images=96), {})
    shape_classifier(made, 'teacher', config['teacher'])
    assert not made.found.problems
    return made


@pytest.mark.parametrize(('classes', 'fresh'), [(10, False), (3, True)])
def test_a_start_with_a_head_for_another_number_of_classes_is_told(known, tmp_path, classes, fresh):
    part = known.config['teacher']
    write_classifier(tmp_path, 0, part['network'], '0123456789'[:classes])
    for start in (tmp_path, tmp_path / 'weights'):
        known.found.notes.clear()
        known.traced.clear()
        shape_classifier(known, 'teacher', part | {'init_from': str(start)})
        assert not known.found.problems
        assert any('another number of classes' in note for note in known.found.notes) is fresh


@dataclass(frozen=True)
class Widths(Measure):
    """Needs logits of `classes` numbers."""

    classes: int

    def rule(self, models, context):
        def rule(constants, rows):
            logits, _ = models['classifier'].answer(
                constants['classifier'], rows['image'].astype(jnp.float32)
            )
            assert logits.shape == (len(rows['id']), 10)
            return {'apart': logits - jnp.zeros((1, self.classes))}

        return rule


def look(known, classifier='teacher', *, classes):
    shape_step(
        known,
        Step(
            'look',
            'measure',
            {'poisoned': 'poisoned', 'classifier': classifier},
            by=Widths(classes),
        ),
    )
    return known.found.problems


def test_a_measure_is_traced_with_the_classifier_it_asks_for(known):
    assert not look(known, classes=10)
    assert 'look' in look(known, classes=7)[0]


@dataclass(frozen=True)
class Against(Measure):
    """Compares every image with so many drawn ones."""

    draws: int

    def drawn(self):
        return self.draws

    def rule(self, models, context):
        def rule(constants, rows):
            assert constants['drawn'].shape == (self.draws, *context.shape)
            return {'number': rows['id'] + constants['drawn'].sum(dtype=jnp.int32)}

        return rule


def test_a_measure_that_draws_more_images_than_there_are_is_a_problem(known):
    for draws, told in (
        (96, []),
        (97, ['look: draws=97: the dataset it draws from has 96 images. Choose fewer.']),
    ):
        shape_step(known, Step('look', 'measure', {'poisoned': 'poisoned'}, by=Against(draws)))
        assert known.found.problems == told


@dataclass(frozen=True)
class Shifted(Purifier):
    """Images that are higher by `pixels` than theirs."""

    pixels: int

    def number(self):
        return 1

    def rule(self, models, context):
        assert (context.shape, context.seed, len(context.class_names)) == ((8, 8, 1), 0, 10)

        def rule(constants, rows):
            made = jnp.zeros((len(rows['variation']), 8 + self.pixels, 8, 1), jnp.uint8)
            return {'image': made + rows['image'], 'finite': rows['label'] >= 0}

        return rule


def test_a_purifier_is_traced_with_what_it_is_handed(known):
    for pixels, problems in ((0, 0), (1, 1)):
        shape_step(known, Step('purified', 'purify', {'poisoned': 'poisoned'}, by=Shifted(pixels)))
        assert len(known.found.problems) == problems


UNKNOWN = [  # a config, and where in the settings of its defence a word stands that nobody reads
    ('quickstart.py:defense=asd', ()),
    ('quickstart.py:defense=asd', ('loss',)),
    ('quickstart.py:defense=strip', ('score',)),
    ('castle_walls.py', ('sampling',)),
    ('castle_walls.py', ('scores', 'strip')),
]


@pytest.mark.parametrize(('file', 'place'), UNKNOWN)
def test_an_unknown_setting_of_a_rule_is_refused_by_name(file, place):
    config = load_config(f'{ROOT}/configs/{file}', [])
    make_method(config)
    part = config['defense']
    for name in place:
        part = part[name]
    part['unheard_of'] = 1
    for act in (make_method, make_stages):
        with pytest.raises(UserError, match='unheard_of'):
            act(config)


def test_a_classifier_that_is_wrong_itself_is_one_problem_not_two(known):
    part = known.config['teacher'] | {'network': {'name': 'resnet999'}}
    shape_step(known, Step('benign', 'classifier', {'data': 'poisoned'}, part))
    assert len(look(known, 'benign', classes=10)) == 1


def test_a_start_from_a_network_of_another_build_is_a_problem(known):
    part = known.config['teacher'] | {'network': known.config['teacher']['network'] | {'width': 8}}
    shape_step(
        known,
        Step(
            'finetuned',
            'classifier',
            {'data': 'poisoned', 'init': 'teacher'},
            known.config['teacher'],
        ),
    )
    assert not known.found.problems
    shape_step(
        known, Step('finetuned', 'classifier', {'data': 'poisoned', 'init': 'teacher'}, part)
    )
    (problem,) = known.found.problems
    assert 'another build' in problem


def test_a_decision_with_a_wrong_setting_is_a_problem():
    for changes, told in (({'share': 1.5}, 'share=1.5'), ({'kept': 'others'}, "'kept'")):
        config = small('defense=abl')
        config['defense'] |= changes
        (problem,) = check(config).problems
        assert told in problem


VGG = {'name': 'vgg', 'stages': [1] * 5, 'width': 2, 'hidden': 4}  # for images of 32 px and more


def network_of(folder, settings, channels):
    """The folder of a finished classifier with weights of nought."""
    _, like = abstract_network(classifier_builder(settings, 2, channels))
    facts = {'network': settings, 'num_classes': 2, 'channels': channels, 'class_names': ['a', 'b']}
    write_network(folder, facts, jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), like))
    return str(folder)


def test_the_network_of_fid_sees_the_images_before_anything_runs(tmp_path):
    config = small()
    resnet = config['teacher']['network'] | {'stages': [1], 'width': 4}
    config['evaluation']['features'] = network_of(tmp_path / 'rgb', resnet, 3)
    assert not check(config).problems  # grey images are seen in colour
    config['evaluation']['features'] = network_of(tmp_path / 'four', resnet, 4)
    config['source'] |= {'name': 'imagefolder', 'path': str(tmp_path), 'channels': 3}
    assert any('looks at 4 channels' in problem for problem in check(config).problems)


def test_a_network_that_is_too_deep_for_the_images_is_a_problem(tmp_path):
    config = small()
    config['evaluation']['features'] = network_of(tmp_path / 'vgg', VGG, 3)
    (problem,) = check(config).problems
    assert problem.startswith('evaluation.features: ')


def test_features_of_a_student_that_is_not_trained_are_a_problem(monkeypatch):
    config = small()
    config['evaluation']['features'] = 'student'
    assert not check(config).problems
    real = checking.make_method

    def unfinished(config):
        method = real(config)
        return replace(method, outcome=replace(method.outcome, classifier=None))

    monkeypatch.setattr(checking, 'make_method', unfinished)
    (problem,) = check(config).problems
    assert 'this run has no student' in problem


def test_all_problems_come_at_once(tmp_path):
    config = small('defense=spectral')
    config['prior'] = {'load': str(tmp_path), 'revision': ''}
    config['run']['writers'] = ['carrier_pigeon']
    config['defense']['remove'] = 2.0
    problems = check(config).problems
    for word in (str(tmp_path), 'carrier_pigeon', 'remove=2.0'):
        assert sum(word in problem for problem in problems) == 1, word


def test_equal_trainings_are_traced_once_and_others_again(known, monkeypatch):
    traced = []
    real = knowing.make_step
    monkeypatch.setattr(knowing, 'make_step', lambda *args: traced.append(args[0]) or real(*args))
    teacher = known.config['teacher']
    shape_classifier(known, 'again', teacher)
    assert not traced  # as the teacher's
    for number, change in enumerate(
        ({'batch': 8}, {'augment': {}}, {'objective': {'name': 'unlearn'}}), 1
    ):
        shape_classifier(known, f'other{number}', teacher | change)
        assert len(traced) == number
    assert not known.found.problems
