"""Generative relabelling: its steps, and settings that it refuses."""

import pytest

from purify.core.errors import UserError
from purify.defenses.registry import DEFENSES
from purify.defenses.steps import simclr
from purify.models.classifiers.registry import NETWORKS


def test_steps_follow_the_features():
    student = {'objective': {'name': 'classify'}}
    encoder = simclr(NETWORKS.part('resnet18'), epochs=1)
    places = {}
    for features in ('simclr', 'teacher', 'encoder'):
        options = DEFENSES.part(
            'relabel', features=features, encoder=encoder if features == 'simclr' else None
        )
        name = options.pop('name')
        method = DEFENSES.make(name, **options).method(student)
        steps = {step.name: step for step in method.steps}
        places[features] = ('encoder' in steps, steps['features'].inputs['encoder'])
        assert steps['densities'].kind == 'densities'
        assert method.outcome.findings == 'verdicts'
        assert method.outcome.features == 'features'
    wanted = {'simclr': (True, 'encoder'), 'teacher': (False, 'teacher')}
    wanted |= {'encoder': (False, 'encoder')}
    assert places == wanted


@pytest.mark.parametrize(
    ('changes', 'said'),
    [
        ({'alpha': 0.5, 'keep': 0.51}, 'alpha'),
        ({'keep': 0.0}, 'keep'),
        ({'alpha': 0.0}, 'alpha'),
        ({'nondisruptive': 0.0}, 'nondisruptive'),
        ({'features': 'pixels'}, 'encoder, simclr, teacher'),
        ({'features': 'teacher', 'encoder': {}}, 'encoder'),
        ({'features': 'simclr'}, 'encoder'),
        ({'disruptive': {'name': 'canyon'}}, 'outlying, valley'),
    ],
)
def test_settings_that_mean_nothing_are_refused(changes, said):
    options = DEFENSES.part('relabel', features='teacher') | changes
    with pytest.raises(UserError, match=said):
        DEFENSES.make(options.pop('name'), **options)
