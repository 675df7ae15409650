import itertools
import json

import numpy as np
import pytest

from purify.core.errors import UserError
from purify.data.table import Table
from purify.defenses.measures import Predictions
from purify.defenses.method import Look
from purify.defenses.registry import DEFENSES
from purify.defenses.trainers.asd import EasiestByClass, EasiestOfAll
from purify.defenses.trainers.dbd import Guessed
from purify.models.classifiers.registry import NETWORKS
from purify.stages.train_classifier import classifier
from purify.train.optim import OPTIMIZERS

RNG = np.random.default_rng(0)
COUNT, CLASSES = 60, 4
IDS = RNG.permutation(1000)[:COUNT].astype(np.int64)
LABELS = RNG.integers(0, CLASSES, COUNT).astype(np.int32)
LOSSES, AFTER = RNG.exponential(size=(2, COUNT)).astype(np.float32)
TRUSTED = np.isin(
    np.arange(COUNT), [np.flatnonzero(label == LABELS)[3] for label in range(CLASSES)]
)


def table(**columns):
    """A table with its rows in another order than `IDS`."""
    order = RNG.permutation(COUNT)
    return Table(
        {'ids': IDS[order]} | {name: np.asarray(column)[order] for name, column in columns.items()}
    )


def decide(rule, tables):
    found = rule.decide(IDS, LABELS, {'trusted': table(keep=TRUSTED)} | tables, CLASSES)
    np.testing.assert_array_equal(found['ids'], IDS)
    np.testing.assert_array_equal(found['labels'], LABELS)
    assert set(found['candidate'].tolist()) == {-1}
    assert found.facts['believed'] == found['keep'].sum()
    assert found.facts['trusted'] == CLASSES
    json.dumps(found.facts, allow_nan=False)
    return found


@pytest.mark.parametrize('count', [1, 5])
def test_the_easiest_of_every_class_join_the_trusted(count):
    found = decide(EasiestByClass(count), {'losses': table(loss=LOSSES)})
    expected = set(IDS[TRUSTED].tolist())
    for label in range(CLASSES):
        others = [
            (loss, i)
            for loss, i, y, known in zip(LOSSES, IDS, LABELS, TRUSTED, strict=True)
            if y == label and not known
        ]
        expected |= {int(i) for _, i in sorted(others)[:count]}
    assert set(IDS[found['keep']].tolist()) == expected
    assert len(expected) == CLASSES * (count + 1)
    np.testing.assert_array_equal(found['score'], LOSSES)


def test_a_small_class_is_believed_whole_and_all_classes_are_too_much():
    smallest = min(range(CLASSES), key=lambda label: (label == LABELS).sum())
    size = int((smallest == LABELS).sum())
    found = decide(EasiestByClass(size), {'losses': table(loss=LOSSES)})
    assert found['keep'][smallest == LABELS].all()
    with pytest.raises(UserError, match=r'all 60 images are believed.*Lower defense\.add'):
        decide(EasiestByClass(COUNT), {'losses': table(loss=LOSSES)})


def test_the_easiest_of_all_join_the_trusted_whatever_their_class():
    found = decide(EasiestOfAll(0.3), {'losses': table(loss=LOSSES)})
    np.testing.assert_array_equal(found['keep'], TRUSTED | np.isin(LOSSES, np.sort(LOSSES)[:18]))
    assert found.facts['highest'] == pytest.approx(np.sort(LOSSES)[17])


def test_what_a_copy_learns_fast_is_not_believed():
    """Poison: its loss is the lowest before, but falls most."""
    poison = np.zeros(COUNT, np.bool_)
    poison[np.flatnonzero(~TRUSTED)[:12]] = True
    before = np.where(poison, 0.5, 2.0 + LOSSES).astype(np.float32)
    after = np.where(poison, 0.0, before - 0.1 * AFTER / AFTER.max()).astype(np.float32)
    tables = {'losses': table(loss=before)}
    assert decide(EasiestOfAll(0.2), tables)['keep'][poison].all()
    found = decide(EasiestOfAll(0.2), tables | {'relearned': table(loss=after)})
    drop = before.astype(np.float64) - after
    np.testing.assert_array_equal(found['keep'], TRUSTED | (drop <= np.sort(drop)[11]))
    assert not found['keep'][poison].any()
    np.testing.assert_array_equal(found['score'], drop)


@pytest.mark.parametrize('rule', [EasiestByClass(2), EasiestOfAll(0.1)])
def test_equal_scores_go_by_id(rule):
    found = decide(rule, {'losses': table(loss=np.zeros(COUNT))})
    by_class = isinstance(rule, EasiestByClass)
    groups = (
        [(y == LABELS) & ~TRUSTED for y in range(CLASSES)]
        if by_class
        else [np.ones(COUNT, np.bool_)]
    )
    first = [np.sort(IDS[group])[: 2 if by_class else 6] for group in groups]
    seen = set(IDS[found['keep'] & ~TRUSTED])
    assert seen == set(np.concatenate(first).tolist()) - set(IDS[TRUSTED])


def recipe(**changes):
    network = NETWORKS.part('resnet', width=4)
    optim = OPTIMIZERS.part(
        'adamw', lr=2e-3, schedule='step', drops=(0.3, 0.5), factor=0.1, warmup=0.1
    )
    return classifier(network, optim, epochs=0, batch=16, augment={'flip': {'p': 0.5}}) | changes


def defense(**changes):
    options = DEFENSES.part('asd', {'rounds': (3, 2, 2)}, **changes)
    return DEFENSES.make(options.pop('name'), **options)


def steps_of(**changes):
    return {step.name: step for step in defense().method(recipe(steps=100, **changes)).steps}


def test_steps_use_what_came_before():
    method = defense().method(recipe(steps=100))
    known = {'poisoned', 'trusted'}
    for step in method.steps:
        assert set(step.inputs.values()) <= known
        assert step.name not in known
        known.add(step.name)
    assert {method.outcome.classifier, method.outcome.findings} <= known


def test_rounds_follow_one_another():
    steps = steps_of()
    order = [
        name
        for name, step in steps.items()
        if step.kind == 'classifier' and not name.startswith('copy')
    ]
    assert order == ['round0', 'round1', 'round2', 'round3', 'round4', 'round5', 'student']
    assert steps['round0'].inputs == {'data': 'poisoned', 'edits': 'trusted'}
    for number, (before, name) in enumerate(itertools.pairwise(order), 1):
        assert steps[name].inputs == {'data': 'poisoned', 'edits': f'split{number}', 'init': before}
        seen = {'poisoned': 'poisoned', 'trusted': 'trusted', 'classifier': before}
        if number > 4:  # where a copy is needed
            assert steps[f'losses{number}'].inputs == {'poisoned': 'poisoned', 'classifier': before}
            seen |= {'losses': f'losses{number}', 'classifier': f'copy{number}'}
        assert steps[f'split{number}'].inputs == seen
    looks = [steps[f'split{number}'].by for number in range(1, 7)]
    found = [look.decision for look in looks]
    assert found == [EasiestByClass(10), EasiestByClass(20), *[EasiestOfAll(0.5)] * 4]
    assert [look.role for look in looks] == ['losses'] * 4 + ['relearned'] * 2
    assert {look.measure for look in looks} == {Predictions('sce', **defense().loss)}
    wanted = [False] * 4 + [True] * 2
    assert ['losses' in steps[f'split{number}'].inputs for number in range(1, 7)] == wanted


def test_the_last_rounds_ask_how_much_a_copy_learns():
    steps = steps_of()
    assert steps['losses5'].inputs == {'poisoned': 'poisoned', 'classifier': 'round4'}
    assert steps['copy5'].inputs == {'data': 'poisoned', 'init': 'round4'}
    split = {'poisoned': 'poisoned', 'trusted': 'trusted', 'losses': 'losses5'}
    split |= {'classifier': 'copy5'}
    assert (steps['split5'].kind, steps['split5'].inputs) == ('look', split)
    assert steps['losses5'].by == steps['split5'].by.measure
    assert not {'copy4', 'losses4'} & set(steps)


def test_what_is_not_believed_at_last_is_guessed_by_the_student():
    verdicts = steps_of()['verdicts']
    assert (verdicts.kind, verdicts.by) == ('look', Look(Predictions(), Guessed(), 'guesses'))
    assert verdicts.inputs == {'poisoned': 'poisoned', 'split': 'split6', 'classifier': 'student'}


def test_rounds_are_one_run_in_pieces():
    steps = steps_of(init_from='pretrained', load='finished')
    rounds = [
        steps[name].settings
        for name in ('round0', 'round1', 'round2', 'round3', 'round4', 'round5', 'student')
    ]
    firsts, lasts = zip(*(part['part'] for part in rounds), strict=True)
    assert (firsts[0], *lasts) == (*firsts, 100)
    assert {last - first for first, last in zip(firsts, lasts, strict=True)} == {14, 15}
    assert {(part['epochs'], part['steps']) for part in rounds} == {(0, 100)}
    assert [part['init_from'] for part in rounds] == ['pretrained'] + [''] * 6
    assert [part['load'] for part in rounds] == [''] * 6 + ['finished']
    for part in rounds:
        assert part['objective'] == {'name': 'mixmatch'} | defense().mixmatch
        assert part['optim'] == {
            'name': 'adamw',
            'lr': 2e-3,
            'schedule': 'constant',
            'warmup': 0.0,
            'clip': 0.0,
        } | {'b1': 0.9, 'b2': 0.999, 'weight_decay': 1e-4}
        assert (part['augment'], part['batch'], part['network']) == ({}, 16, recipe()['network'])


def test_the_copy_learns_at_its_own_rate():
    copy = steps_of(init_from='pretrained', load='finished')['copy6'].settings
    assert copy['objective'] == {'name': 'tail', 'groups': 2}
    wanted = ('adam', 0.015, 'constant')
    assert (copy['optim']['name'], copy['optim']['lr'], copy['optim']['schedule']) == wanted
    assert (copy['epochs'], copy['steps'], copy['augment']) == (1.0, 0, {'flip': {'p': 0.5}})
    assert (copy['init_from'], copy['load']) == ('', '')


def test_one_round_believes_the_trusted_alone():
    steps = defense(rounds=(1, 0, 0)).method(recipe(steps=5)).steps
    assert [step.name for step in steps] == ['student', 'verdicts']
    assert steps[1].inputs['split'] == 'trusted'


@pytest.mark.parametrize(
    'bad',
    [
        {'rounds': (0, 1, 1)},
        {'rounds': (1, 1)},
        {'rounds': (1, -1, 1)},
        {'rounds': (1, 0.5, 1)},
        {'rounds': (True, False, False)},
        {'add': 0},
        {'add': 2.5},
        {'add': True},
        {'add': float('inf')},
        {'share': 0.0},
        {'share': 1.0},
        {'loss': {'alpha': 0.0, 'beta': 0.0}},
    ],
)
def test_bad_settings_are_refused(bad):
    with pytest.raises(UserError, match=rf'defense\.{next(iter(bad))}'):
        defense(**bad)


@pytest.mark.parametrize('length', [{'epochs': 3}, {'steps': 6}])
def test_a_student_without_steps_for_every_round_is_refused(length):
    with pytest.raises(UserError, match='divides steps over its 7 rounds'):
        defense().method(recipe(**length))
