import dataclasses
import json
import re

import numpy as np
import pytest
from support.meshes import mesh_of
from support.networks import write_classifier
from support.tiny import quickstart

from purify.attacker.fit_trigger import FITS, fit_trigger, fitted_settings, shape_trigger
from purify.attacks.registry import build
from purify.commands.plan import make_stages
from purify.core import devices, preemption
from purify.core.errors import Preempted, UserError
from purify.data.builders import DatasetWriter, make_features
from purify.data.loader import Split
from purify.engine.chain import Chain
from purify.engine.stage import Work
from purify.stages.classifier import classifier_builder
from purify.stages.known import Data, Diagnosis, Known
from purify.train.cost import Cost
from purify.train.state import abstract_network

NETWORK = {'name': 'resnet', 'stages': [1], 'block': 'preact', 'width': 4, 'norm': 'group'}
CLASSES = ['a', 'b', 'c']
OBJECTIVES = {
    'sample_specific': {'image': 1.0},
    'input_aware': {
        'mask_epochs': 1.0,
        'norm': 100.0,
        'density': 0.1,
        'diversity': 1.0,
        'poison': 0.125,
        'cross': 0.125,
    },
    'lira': {'alpha': 0.5},
    'low_frequency': {},
}
OWN = {'sample_specific': {'secret_bits': 4}, 'input_aware': {}, 'lira': {'epsilon': 0.1}}
OWN |= {'low_frequency': {'cutoff': 3}}


def settings_of(name, **changes):
    attack = fitted_settings(
        {'name': name, 'target': 1, 'scheme': 'all_to_one', 'load': ''} | OWN[name]
    )
    own = {'classifier': NETWORK} if name in ('input_aware', 'lira') else {}
    optim = {'name': 'adam', 'lr': 1e-2, 'schedule': 'constant', 'warmup': 0.0, 'clip': 0.0}
    optim |= {'b1': 0.9, 'b2': 0.999}
    return {
        'attack': attack,
        'seed': 3,
        'network': {'width': 4},
        'objective': OBJECTIVES[name],
        'optim': optim,
        'epochs': 0.0,
        'steps': 3,
        'batch': 16,
        'accumulate': 1,
        'augment': {'pad_crop': {'pad_px': 1}},
        'seeds': {'model': 0, 'data': 0},
        **own,
        **changes,
    }


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp('data')
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (48, 8, 8, 1), np.uint8)
    writer = DatasetWriter(folder / 'clean', 'clean', 'train', make_features(8, 1, CLASSES), 1)
    writer.write(0, ({'id': 100 + i, 'image': images[i], 'label': i % 3} for i in range(48)))
    writer.finish([48])
    write_classifier(folder / 'surrogate', 0, NETWORK, CLASSES, size_px=8)
    return folder


def work_of(data, folder, settings):
    inputs = {'data': data / 'clean'}
    if settings['attack']['name'] == 'low_frequency':
        inputs['surrogate'] = data / 'surrogate'
    run = {
        'save_every': 2,
        'log_every': 1,
        'threads': 1,
        'workers': 0,
        'resident_mb': 1,
        'steps_together': 0,
    }
    folder.mkdir(parents=True, exist_ok=True)
    return Work('trigger', folder, inputs, settings, run, (), Cost())


def fit(data, folder, settings, count=1):
    """Runs the stage on `count` devices; -> its folder."""
    mesh = mesh_of(count)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(devices, 'global_mesh', lambda: mesh)
        fit_trigger(work_of(data, folder, settings))
    return folder


@pytest.fixture(scope='module')
def fitted(data, tmp_path_factory):
    """name -> the folder of a fitted trigger; each is fitted once, and on one device but for one
    kind, to save compilation.
    """
    done = {}

    def folder(name):
        if name not in done:
            done[name] = fit(
                data, tmp_path_factory.mktemp(name), settings_of(name), 8 if name == 'lira' else 1
            )
        return done[name]

    return folder


def attack_of(name, folder, **changes):
    return build(name, load=str(folder), target=1, **(OWN[name] | changes))


@pytest.mark.parametrize(
    'name',
    [
        pytest.param(name, marks=() if name == 'low_frequency' else pytest.mark.long)
        for name in sorted(FITS)
    ],
)
def test_a_fitted_trigger_is_what_its_attack_reads(fitted, name):
    folder = fitted(name)
    target = {} if name == 'sample_specific' else {'target': 1}
    image = np.random.default_rng(5).integers(0, 256, (8, 8, 1), np.uint8)
    stamped = attack_of(name, folder).stamp(image, 100)
    assert stamped.shape == image.shape
    assert (stamped != image).any()
    facts = json.loads((folder / 'trigger.json').read_text())
    assert (facts['channels'], facts['size_px'], facts['network']) == (1, 8, {'width': 4})
    assert {name: facts[name] for name in facts if name == 'target'} == target
    assert steps(folder) == [1, 2, 3]


def steps(folder):
    return [
        json.loads(line)['step'] for line in (folder / 'metrics.jsonl').read_text().splitlines()
    ]


@pytest.mark.long
def test_input_aware_fits_masks_first_and_keeps_donors(fitted, data):
    folder = fitted('input_aware')
    assert steps(folder / 'mask') == [1, 2, 3], '48 images once, in batches of 16'
    split = Split(data / 'clean', 'train')
    attack = attack_of('input_aware', folder)
    donors, ids = attack.weights['donors'], attack.weights['donor_ids']
    assert len(np.unique(ids)) == 32
    np.testing.assert_array_equal(donors, split.images(split.position_of(ids).tolist()))
    image = split[0]['image']
    assert attack.stamp(image, 100, 'cover').tolist() != attack.stamp(image, 100).tolist()


@pytest.mark.long
def test_a_stopped_fit_goes_on_to_the_same_bytes(fitted, data, tmp_path, monkeypatch):
    """Stopped in the second of two trainings, the first being over."""
    settings = settings_of('input_aware')
    asked = iter([False] * 4 + [True] * 100)
    monkeypatch.setattr(preemption, 'asked', lambda: next(asked))
    with pytest.raises(Preempted):
        fit(data, tmp_path, settings)
    monkeypatch.undo()
    assert not (tmp_path / 'trigger.json').exists()
    fit(data, tmp_path, settings)
    for file in ('trigger.json', 'trigger.safetensors'):
        assert (tmp_path / file).read_bytes() == (fitted('input_aware') / file).read_bytes()


def shape(name, settings, classes=3):
    """What `check` notes of a fit by those settings, on 48 images."""
    own = {key: value for key, value in settings.items() if key not in ('attack', 'seed')}
    attack = {'scheme': 'all_to_one', 'load': '', 'target': 1} | settings['attack']
    config = {'attack': attack, 'trigger': own, 'seeds': {'poison': 3, 'model': 0}}
    networks = (
        {'surrogate': abstract_network(classifier_builder(NETWORK, 3, 1))}
        if name == 'low_frequency'
        else {}
    )
    known = Known(Diagnosis(), config, Data(8, 1, classes, 48), networks)
    shape_trigger(known)
    assert not known.found.problems
    return known.found.notes


@pytest.mark.long
@pytest.mark.parametrize('name', sorted(FITS))
def test_the_check_shapes_every_fit(name):
    notes = [
        re.fullmatch(r'trigger: (\w+), ([\d,]+) parameters', note).groups()
        for note in shape(name, settings_of(name))
    ]
    wanted = ['mask', 'trigger'] if name == 'input_aware' else ['trigger']
    assert [fit for fit, _ in notes] == wanted
    assert min(int(count.replace(',', '')) for _, count in notes) > 0
    if name != 'sample_specific':  # serves every target
        with pytest.raises(UserError, match='target=1'):
            shape(name, settings_of(name), classes=1)
    with pytest.raises(UserError, match='batch=15'):
        shape(name, settings_of(name, batch=15))


@pytest.mark.parametrize(
    ('name', 'same', 'other'),
    [
        ('sample_specific', [{'scheme': 'all_to_all'}, {'target': 4}], [{'secret_bits': 7}]),
        ('lira', [{'scheme': 'all_to_all'}], [{'target': 4}, {'epsilon': 0.2}]),
        ('input_aware', [{'scheme': 'all_to_all'}], [{'target': 4}]),
        ('fitted_low_frequency', [{'scheme': 'all_to_all'}], [{'target': 4}, {'cutoff': 2}]),
    ],
)
def test_a_trigger_is_fitted_anew_for_what_its_fit_reads_alone(tmp_path, name, same, other):
    config = quickstart(f'attack={name}')

    def prints(**changes):
        found = Chain(make_stages(config | {'attack': config['attack'] | changes}), tmp_path).prints
        return found['trigger'], found['prepare']

    usual = prints()
    for changes in same:
        trigger, prepare = prints(**changes)
        assert trigger == usual[0]
        assert prepare != usual[1]
    assert all(prints(**changes)[0] != usual[0] for changes in other)


def test_low_frequency_needs_its_surrogate(data, tmp_path):
    work = work_of(data, tmp_path, settings_of('low_frequency'))
    with pytest.raises(UserError, match='surrogate'):
        fit_trigger(dataclasses.replace(work, inputs={'data': data / 'clean'}))


def test_only_learned_attacks_can_be_fitted(data, tmp_path):
    settings = settings_of('lira')
    settings['attack'] = {'name': 'patch', 'target': 1}
    with pytest.raises(UserError, match='input_aware, lira, low_frequency, sample_specific'):
        fit_trigger(work_of(data, tmp_path, settings))


@pytest.mark.parametrize(
    ('name', 'part', 'changes', 'told'),
    [
        ('lira', 'attack', {'epsilon': 0}, 'epsilon=0'),
        ('lira', 'attack', {'epsilon': 2.0}, 'epsilon=2'),
        ('lira', 'network', {'width': 0}, 'width=0'),
        ('lira', 'objective', {'alpha': 1.5}, 'alpha'),
        ('lira', '', {'batch': 0}, 'batch=0'),
        ('lira', '', {'accumulate': 0}, 'accumulate=0'),
        ('lira', '', {'init_from': '/no/such/folder'}, 'init_from=/no/such/folder'),
        ('low_frequency', 'attack', {'cutoff': 0}, 'cutoff=0'),
        ('low_frequency', 'attack', {'amplitude': 2}, 'amplitude=2'),
        ('low_frequency', 'attack', {'stretch': True}, 'stretch=True'),
        ('sample_specific', 'attack', {'secret_bits': 0}, 'secret_bits=0'),
        ('sample_specific', 'attack', {'secret_bits': 5000}, 'secret_bits=5000'),
        ('sample_specific', 'objective', {'shift_px': 8}, 'shift_px=8'),
        ('sample_specific', 'objective', {'image': -1}, 'image=-1'),
        ('input_aware', 'objective', {'density': 0}, 'density=0'),
        ('input_aware', 'objective', {'norm': -1}, 'norm=-1'),
        ('input_aware', 'objective', {'diversity': -1}, 'diversity=-1'),
        ('input_aware', 'objective', {'poison': 0.6, 'cross': 0.6}, 'exceed 1 together'),
        ('input_aware', 'objective', {'mask_epochs': 0}, 'mask_epochs=0'),
        (
            'sample_specific',
            'objective',
            {'imge': 1.0},
            r'objective\.imge: .*sample_specific.*Choose from: image, shift_px\.',
        ),
        ('lira', 'objective', {'frozen': 1}, r'objective\.frozen: .*Choose from: alpha\.'),
        (
            'input_aware',
            'objective',
            {'image': 1},
            r'objective\.image: .*: cross, density, diversity, mask_epochs, norm, poison\.',
        ),
        (
            'low_frequency',
            'objective',
            {'alpha': 1},
            r'objective\.alpha: .*low_frequency.*leave trigger\.objective empty',
        ),
        (
            'lira',
            '',
            {'objective': {}},
            r"objective\.alpha is missing: the fit of 'lira' needs alpha",
        ),
        ('input_aware', '', {'objective': {'norm': 1.0}}, r'objective\.cross is missing'),
    ],
)
def test_the_check_refuses_settings_before_any_work(name, part, changes, told):
    settings = settings_of(name)
    settings = settings | {part: settings[part] | changes} if part else settings | changes
    with pytest.raises(UserError, match=told):
        shape(name, settings)
