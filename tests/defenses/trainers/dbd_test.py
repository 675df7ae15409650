import numpy as np
import pytest

from purify.core.errors import UserError
from purify.data.table import Table
from purify.defenses.measures import Predictions
from purify.defenses.method import Look
from purify.defenses.registry import DEFENSES
from purify.defenses.trainers.dbd import Credible, Guessed
from purify.models.classifiers.registry import NETWORKS
from purify.stages.train_classifier import classifier
from purify.train.optim import OPTIMIZERS

IDS = np.array([3, 8, 1, 20, 7, 15], np.int64)
LABELS = np.array([0, 1, 2, 0, 1, 2], np.int32)


def table(order, **columns):
    """A table with its rows in another order than `IDS`."""
    return Table(
        {'ids': IDS[order]} | {name: np.asarray(column)[order] for name, column in columns.items()}
    )


def recipe(**changes):
    network, optim = NETWORKS.part('resnet', width=4), OPTIMIZERS.part('adamw', lr=2e-3)
    return classifier(network, optim, epochs=4, batch=16, augment={'flip': {'p': 0.5}}) | changes


def decoupling(**changes):
    options = DEFENSES.part('dbd', {'encoder': {'epochs': 3.0}, 'head': {'epochs': 2.0}}, **changes)
    return DEFENSES.make(options.pop('name'), **options)


def test_the_lowest_losses_are_believed_whatever_the_order():
    losses = np.array([0.5, 0.1, 0.9, 0.3, 0.2, 0.8], np.float32)
    for order in ([0, 1, 2, 3, 4, 5], [5, 2, 0, 4, 1, 3]):
        found = Credible(0.5).decide(IDS, LABELS, {'losses': table(order, loss=losses)}, 3)
        np.testing.assert_array_equal(found['ids'], IDS)
        np.testing.assert_array_equal(found['keep'], [False, True, False, True, True, False])
        np.testing.assert_array_equal(found['loss'], losses)
        np.testing.assert_array_equal(found['labels'], LABELS)
        assert set(found['candidate'].tolist()) == {-1}
        assert found.facts == {'share': 0.5, 'credible': 3, 'highest_loss': pytest.approx(0.3)}


def test_equal_losses_go_by_id():
    even = {'losses': table([4, 3, 2, 1, 0, 5], loss=np.zeros(6, np.float32))}
    found = Credible(1 / 3).decide(IDS, LABELS, even, 3)
    np.testing.assert_array_equal(np.sort(IDS[found['keep']]), [1, 3])


def test_what_is_not_believed_is_called_what_the_student_says():
    tables = {
        'split': table([0, 1, 2, 3, 4, 5], keep=[True, False, False, True, False, True]),
        'guesses': table([5, 4, 3, 2, 1, 0], label=np.array([2, 1, 0, 1, 0, 1], np.int32)),
    }
    found = Guessed().decide(IDS, LABELS, tables, 3)
    np.testing.assert_array_equal(found['labels'], [0, 1, 0, 0, 0, 2])
    np.testing.assert_array_equal(found['flagged'], [False, False, True, False, True, False])
    assert found['keep'].all()
    assert found.facts == {'credible': 3, 'relabelled': 2}


def test_steps_use_what_came_before_and_the_numbers_of_the_config():
    method = decoupling().method(recipe())
    known = {'poisoned'}
    for step in method.steps:
        assert set(step.inputs.values()) <= known
        known.add(step.name)
    steps = {step.name: step for step in method.steps}
    assert {method.outcome.classifier, method.outcome.findings} <= known
    assert 'teacher' not in {source for step in method.steps for source in step.inputs.values()}
    encoder, head, student = (steps[name].settings for name in ('encoder', 'head', 'student'))
    found = (encoder['epochs'], encoder['optim']['lr'], encoder['objective']['temperature'])
    assert found == (3, 0.4, 0.5)
    assert (head['epochs'], head['optim']['lr'], head['augment']) == (2, 1e-3, {'flip': {'p': 0.5}})
    assert head['objective'] == {'name': 'head', 'alpha': 0.1, 'beta': 1.0}
    assert student == recipe() | {
        'objective': {'name': 'mixmatch'} | decoupling().mixmatch,
        'augment': {},
    }
    assert list(steps) == ['encoder', 'head', 'split', 'student', 'verdicts']
    assert steps['split'].inputs == {'poisoned': 'poisoned', 'classifier': 'head'}
    assert steps['split'].by == Look(
        Predictions('sce', alpha=0.1, beta=1.0), Credible(decoupling().credible), 'losses'
    )
    assert steps['student'].inputs == {'data': 'poisoned', 'edits': 'split', 'init': 'head'}
    wanted = {'poisoned': 'poisoned', 'classifier': 'student', 'split': 'split'}
    assert steps['verdicts'].inputs == wanted
    assert steps['verdicts'].by == Look(Predictions(), Guessed(), 'guesses')


@pytest.mark.parametrize('share', [0.0, 1.0])
def test_a_share_of_none_or_all_is_refused(share):
    with pytest.raises(UserError, match='credible'):
        decoupling(credible=share)


def test_a_student_that_starts_elsewhere_is_refused():
    with pytest.raises(UserError, match='init_from'):
        decoupling().method(recipe(init_from='x'))
