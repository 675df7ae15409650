import json

import numpy as np
import pytest
from support.students import student

from purify.core.errors import UserError
from purify.data.table import Table
from purify.defenses.measures import Predictions
from purify.defenses.method import Look
from purify.defenses.registry import DEFENSES
from purify.defenses.trainers.abl import LowestLosses

RNG = np.random.default_rng(0)


def defense(**changes):
    lengths = {
        'isolation': {'epochs': 2.0},
        'finetune': {'epochs': 3.0},
        'unlearn': {'epochs': 1.0},
    }
    part = DEFENSES.part('abl', lengths, **changes)
    return DEFENSES.make(part.pop('name'), **part)


def test_each_phase_trains_with_its_own_numbers():
    steps = {step.name: step for step in defense().method(student(warmup=0.1)).steps}
    assert list(steps) == ['isolation', 'isolated', 'finetuned', 'student']
    first, middle, last = (steps[name].settings for name in ('isolation', 'finetuned', 'student'))
    wanted = ['local_ascent', 'classify', 'unlearn']
    assert [part['objective']['name'] for part in (first, middle, last)] == wanted
    assert [part['epochs'] for part in (first, middle, last)] == [2, 3, 1]
    assert [part['optim']['lr'] for part in (first, middle, last)] == [0.1, 0.1, 5e-4]
    wanted = ['constant', 'step', 'constant']
    assert [part['optim']['schedule'] for part in (first, middle, last)] == wanted
    assert [part['optim']['warmup'] for part in (first, middle, last)] == [0.0, 0.1, 0.0]
    assert [part['init_from'] for part in (first, middle, last)] == ['pretrained', '', '']
    assert [part['load'] for part in (first, middle, last)] == ['', '', 'finished']
    assert all(
        part['network'] == student()['network'] and part['batch'] == 16
        for part in (first, middle, last)
    )


def test_the_others_are_learned_and_the_isolated_forgotten():
    steps = {step.name: step for step in defense().method(student()).steps}
    assert steps['isolated'].inputs == {'poisoned': 'poisoned', 'classifier': 'isolation'}
    assert steps['isolated'].by == Look(Predictions(), LowestLosses(defense().share), 'losses')
    learning = {'data': 'poisoned', 'edits': 'isolated', 'init': 'isolation'}
    assert steps['finetuned'].inputs == learning
    # the role `flagged` takes the flagged of these alone
    unlearning = {'data': 'poisoned', 'flagged': 'isolated', 'init': 'finetuned'}
    assert steps['student'].inputs == unlearning
    assert 'teacher' not in {role for step in steps.values() for role in step.inputs}


def made(count=50):
    ids = RNG.permutation(1000)[:count].astype(np.int64)
    losses = RNG.exponential(size=count).astype(np.float32)
    order = RNG.permutation(count)
    table = Table({'ids': ids[order], 'loss': losses[order]})
    return ids, np.zeros(count, np.int32), {'losses': table}, losses


@pytest.mark.parametrize(('share', 'count'), [(0.1, 5), (0.01, 1), (0.5, 25)])
def test_the_lowest_losses_are_isolated_by_id(share, count):
    ids, labels, tables, losses = made()
    found = LowestLosses(share).decide(ids, labels, tables, 1)
    np.testing.assert_array_equal(found['flagged'], losses <= np.sort(losses)[count - 1])
    np.testing.assert_array_equal(found['keep'], ~found['flagged'])
    np.testing.assert_array_equal(found['loss'], losses)
    assert found.facts['isolated'] == count
    assert found.facts['highest_loss'] == pytest.approx(np.sort(losses)[count - 1])
    json.dumps(found.facts, allow_nan=False)


def test_equal_losses_go_by_id():
    ids = np.array([40, 10, 30, 20])
    table = Table({'ids': ids, 'loss': np.zeros(4, np.float32)})
    found = LowestLosses(0.5).decide(ids, np.zeros(4, np.int32), {'losses': table}, 1)
    assert ids[found['flagged']].tolist() == [10, 20]


@pytest.mark.parametrize(
    'bad',
    [
        {'share': 0.0},
        {'share': 1.0},
        {'isolation': {'loss': 'hinge', 'gamma': 0.5, 'epochs': 1, 'lr': 0.1}},
    ],
)
def test_bad_settings_are_refused(bad):
    with pytest.raises(UserError, match=r'defense\.(share|isolation\.loss)'):
        defense(**bad)
