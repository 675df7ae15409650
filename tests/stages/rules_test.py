"""Every attribute of every rule does something, whatever config it comes from."""

import ast
import dataclasses
import importlib
import inspect
import pkgutil
import textwrap

import numpy as np
import pytest

import purify.defenses
from purify.data.table import Table
from purify.defenses.dataelixir.target_labels import TARGETS
from purify.defenses.filters.fct import Fct
from purify.defenses.filters.score_filter import score, score_steps
from purify.defenses.method import Decision, Guard, Measure, Purifier, describe_rule
from purify.defenses.registry import DEFENSES
from purify.defenses.relabelling.method import Relabelling
from purify.defenses.relabelling.poisoned_classes import DISRUPTIONS, Strangers, own_and_foreign
from purify.defenses.relabelling.verdicts import Relabel
from purify.models.flow import CouplingFlow
from purify.stages.fit_densities import prepare_features
from purify.train import class_batches, density
from purify.train.class_batches import Fit
from purify.train.objectives.registry import OBJECTIVES
from purify.train.views import Views


def children(kind):
    """The classes of a kind, and those of these."""
    return {child for one in kind.__subclasses__() for child in (one, *children(one))}


def rules():
    """The classes that measure, decide and make images, wherever they lie, and others whose
    attributes are settings.
    """
    for module in pkgutil.walk_packages(purify.defenses.__path__, 'purify.defenses.'):
        importlib.import_module(module.name)
    found = {rule for kind in (Measure, Purifier, Decision, Guard) for rule in children(kind)}
    made = [rule for registry in (OBJECTIVES, TARGETS, DISRUPTIONS) for rule in registry.values()]
    ours = {rule for rule in found if rule.__module__.startswith('purify.')}
    return sorted(
        ours | {getattr(rule, 'func', rule) for rule in made} | {Views, Strangers},
        key=lambda rule: rule.__qualname__,
    )


def used_attributes(rule):
    """What methods of a class and its bases read of `self`, without the checks after its making."""
    found = set()
    for base in rule.__mro__:
        if base.__module__ in ('abc', 'builtins', 'typing'):  # the source of some cannot be read
            continue
        for node in ast.parse(textwrap.dedent(inspect.getsource(base))).body[0].body:
            if isinstance(node, ast.FunctionDef) and node.name not in ('__post_init__', 'method'):
                reads = (
                    n
                    for n in ast.walk(node)
                    if isinstance(n, ast.Attribute) and isinstance(n.value, ast.Name)
                )
                found |= {read.attr for read in reads if read.value.id == 'self'}
    return found


@pytest.mark.long
@pytest.mark.parametrize('rule', rules(), ids=lambda rule: rule.__qualname__)
def test_every_attribute_of_a_rule_is_used(rule):
    # the test below looks for the score of disruptive poison
    checked_below = {'score'} if rule in DISRUPTIONS.values() else set()
    whole = {field.name for field in dataclasses.fields(rule)} - checked_below
    # settings of tasks; `dtype` opens diffusion models
    read_by_the_loop, read_by_stages = {'ema_decay', 'frozen'}, {'dtype'}
    # `Fct.method` makes a plainer rule, see below
    read_by_method = {'network', 'early', 'spread'} if rule is Fct else set()
    assert whole - used_attributes(rule) <= read_by_the_loop | read_by_stages | read_by_method


@pytest.mark.parametrize(('changes', 'number'), [({}, 3), (Fct.presets['small'], 1)])
def test_what_fct_says_of_its_network_is_no_attribute_of_the_rule_that_measures(changes, number):
    student = {'optim': {'name': 'sgd', 'lr': 0.1}, 'init_from': ''}
    steps, _ = score_steps({'fct': score('fct', **changes)}, student, {'given': 'poisoned'})
    assert len(steps) == number
    assert set(steps[-1].facts()['by']) == {'name', 'rotation', 'shift', 'times'}


def test_the_rules_of_every_kind_are_found():
    names = {rule.__qualname__ for rule in rules()}
    assert names >= {
        'Candidates',
        'Remake',
        'LabelTransition',
        'TrueLabels',
        'Variations',
        'Predictions',
        'Relabel',
        'Strip',
    }
    assert names >= {
        'ActivationClustering',
        'HighestScores',
        'Generate',
        'DenoisingErrors',
        'Views',
        'Distill',
    }


def read_of(holder, *modules):
    """The attributes that modules read of what they call `holder`, its first checks left out."""
    found = set()
    for tree in (ast.parse(inspect.getsource(module)) for module in modules):
        checks = {
            id(n)
            for f in ast.walk(tree)
            if getattr(f, 'name', '') == '__post_init__'
            for n in ast.walk(f)
        }
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and id(node) not in checks:
                owner = getattr(node.value, 'attr', getattr(node.value, 'id', None))
                found |= {node.attr} if owner == holder else set()
    return found


def used_arguments(made):
    """The arguments of a class that its `__init__` does something with, other than refuse them."""
    body = ast.parse(textwrap.dedent(inspect.getsource(made.__init__))).body[0].body
    working = [
        line
        for line in body
        if not (isinstance(line, ast.If) and isinstance(line.body[0], ast.Raise))
    ]
    return {node.id for line in working for node in ast.walk(line) if isinstance(node, ast.Name)}


def test_every_setting_of_the_flows_and_of_their_fit_is_used():
    defense = Relabelling(features='teacher')
    assert set(defense.fit) == {field.name for field in dataclasses.fields(Fit)}
    assert set(defense.fit) == read_of('fit', class_batches, density) & set(defense.fit)
    assert set(defense.flows) - {'reduce'} <= used_arguments(CouplingFlow)
    assert not np.allclose(
        *(
            prepare_features(np.random.default_rng(0).normal(size=(9, 4)), reduce)[0][:, :2]
            for reduce in (0, 2)
        )
    )


def suspected(lone):
    """Labels i32[400], log densities [400 4]: class 1 fitted to all, 20 of it strangers; 30 of
    class 2 near to none, or `lone`.
    """
    rng, labels = np.random.default_rng(0), (np.arange(400) % 4).astype(np.int32)
    densities = rng.normal(-40, 3, (400, 4))
    densities[np.arange(400), labels] = rng.normal(0, 3, 400)
    densities[:, 1] = np.where(labels == 1, 0, -12) + rng.normal(0, 3, 400)
    place = np.quantile(own_and_foreign(densities, labels)[1][labels != 2], lone) if lone else -90
    densities[np.flatnonzero(labels == 2)[:30]] = place
    strangers = np.flatnonzero(labels == 1)[:20]
    densities[strangers, np.array([0, 2, 3])[np.arange(20) % 3]] = 20
    return labels, densities


SUSPICIONS = [  # the rule, what may be changed, where some images lie
    (
        DISRUPTIONS.part('outlying'),
        {'share': 0.4, 'most': 0.06, 'apart': 0.5, 'level': 1e-30, 'score': 'ratio'},
        0,
    ),
    (DISRUPTIONS.part('outlying'), {'quantile': 0.04}, 0.025),
    (DISRUPTIONS.part('valley'), {'share': 0.6, 'limit': 0.01, 'bins': 3, 'score': 'outside'}, 0),
]
OTHERS = {'nondisruptive': 0.01, 'alpha': 0.3, 'keep': 0.3, 'narrow': 0.9}
OTHERS |= {'strangers': {'share': 0.9, 'deviations': 5.0, 'level': 0.05}}


def fates(tests, labels, densities):
    """What becomes of every image."""
    ids = np.arange(len(labels))
    found = Relabel(**tests).decide(
        ids, labels, {'densities': Table({'ids': ids, 'log_density': densities})}, 4
    )
    return [found[name].tolist() for name in ('keep', 'labels', 'verdict', 'flagged')]


@pytest.mark.parametrize(('rule', 'changes', 'lone'), SUSPICIONS)
def test_every_number_of_the_tests_for_poison_changes_a_verdict(rule, changes, lone):
    usual = DEFENSES.part('relabel')
    tests = {field.name: usual[field.name] for field in dataclasses.fields(Relabel)} | {
        'disruptive': dict(rule)
    }
    made = suspected(lone)
    first = fates(tests, *made)
    for name, value in OTHERS.items():
        assert fates(tests | {name: value}, *made) != first, name
    for name, value in changes.items():
        assert fates(tests | {'disruptive': dict(rule) | {name: value}}, *made) != first, name


def test_every_number_of_the_tests_for_poison_was_changed():
    for rule, *_ in SUSPICIONS:
        changed = {
            name
            for other, changes, _ in SUSPICIONS
            if other['name'] == rule['name']
            for name in changes
        }
        assert changed == set(rule) - {'name'}
    assert {rule['name'] for rule, *_ in SUSPICIONS} == set(DISRUPTIONS)
    assert {*OTHERS, 'disruptive'} == {field.name for field in dataclasses.fields(Relabel)}


def test_a_rule_is_described_by_its_attributes_and_not_by_its_presets():
    rule = Fct(network='teacher', times=3)
    assert Fct.presets
    own = {'rotation': 180.0, 'shift': 0.2, 'times': 3, 'network': 'teacher', 'early': rule.early}
    own |= {'spread': rule.spread}
    assert describe_rule(rule) == {'name': 'Fct'} | own


@dataclasses.dataclass(frozen=True)
class Idle(Measure):
    """A rule of which one attribute does nothing."""

    busy: int
    idle: int

    def rule(self, models, context):
        return self.busy


def test_an_attribute_that_does_nothing_is_found():
    assert Idle in children(Measure)
    assert used_attributes(Idle) == {'busy'}
