import pytest
from support.students import student

from purify.core.errors import UserError
from purify.defenses.registry import DEFENSES


def defense(**changes):
    whole = {'epochs': 5.0, 'lr': 0.05} | changes
    part = DEFENSES.part('nad', {'finetune': {'epochs': 3.0, 'lr': whole['lr']}}, **whole)
    return DEFENSES.make(part.pop('name'), **part)


def test_both_parts_start_from_the_poisoned_network_and_see_trusted_images_alone():
    first, last = defense().method(student()).steps
    seen = {'data': 'poisoned', 'edits': 'trusted', 'init': 'teacher'}
    assert (first.name, first.kind, first.inputs) == ('finetuned', 'classifier', seen)
    wanted = ('student', 'classifier', seen | {'teacher': 'finetuned'})
    assert (last.name, last.kind, last.inputs) == wanted
    outcome = defense().method(student()).outcome
    assert (outcome.classifier, outcome.purified, outcome.findings) == ('student', None, None)


def test_each_part_trains_with_its_own_numbers():
    made = defense(finetune={'epochs': 2.0, 'lr': 0.1}, beta=(1.0, 2.0), power=3.0).method(
        student()
    )
    first, last = (step.settings for step in made.steps)
    assert first['objective'] == {'name': 'classify', 'label_smoothing': 0.0}
    assert last['objective'] == {'name': 'attention', 'beta': (1.0, 2.0), 'power': 3.0}
    found = [(part['epochs'], part['steps'], part['optim']['lr']) for part in (first, last)]
    assert found == [(2.0, 0, 0.1), (5.0, 0, 0.05)]
    wanted = [('', ''), ('', 'finished')]
    assert [(part['init_from'], part['load']) for part in (first, last)] == wanted
    for part in (first, last):
        kept = {name: student()[name] for name in ('network', 'batch', 'augment', 'accumulate')}
        assert kept.items() <= part.items()
        assert part['optim'] == student()['optim'] | {'lr': part['optim']['lr']}


@pytest.mark.parametrize(('optimizer', 'lr'), [('sgd', 0.01), ('adam', 0.005), ('adamw', 0.005)])
def test_the_usual_rate_follows_from_the_optimiser(optimizer, lr):
    kind = DEFENSES.bare('nad')
    teacher = student() | {'optim': {'name': optimizer, 'lr': 0.375}}
    part = DEFENSES.part('nad', kind.after(teacher), kind.presets['small'])
    assert part['finetune'] == {'epochs': 20.0, 'lr': lr}
    assert (part['epochs'], part['lr']) == (60.0, lr)


NAN, INF = float('nan'), float('inf')


@pytest.mark.parametrize(
    'bad',
    [
        {'beta': ()},
        {'beta': (-1.0,)},
        {'beta': (NAN,)},
        {'beta': (1.0, INF)},
        {'beta': 1000.0},
        {'beta': (True,)},
        {'beta': '12'},
        {'power': 0.0},
        {'power': NAN},
        {'power': INF},
        {'power': '2'},
    ],
)
def test_bad_settings_are_refused(bad):
    (name, value), *_ = bad.items()
    with pytest.raises(UserError, match=r'defense: beta=.*one for all groups.*power=') as caught:
        defense(**bad)
    assert f'{name}={value}' in str(caught.value)


@pytest.mark.parametrize('name', ['epochs', 'lr'])
@pytest.mark.parametrize('bad', [-3.0, 0.0, NAN, INF])
def test_both_parts_have_a_length_and_a_rate(name, bad):
    with pytest.raises(UserError, match=rf'defense\.{name}={bad} must be'):
        defense(**{'finetune': {'epochs': 1.0, 'lr': 0.1}, 'epochs': 1.0, 'lr': 0.1} | {name: bad})
    with pytest.raises(UserError, match=rf'defense\.finetune\.{name}={bad} must be'):
        defense(finetune={'epochs': 1.0, 'lr': 0.1} | {name: bad})
