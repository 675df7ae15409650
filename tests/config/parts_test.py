"""The parts of configs that rooms make of their own defaults."""

import re
from pathlib import Path

import pytest

from purify.attacks.settings import attack
from purify.config.load import load_config
from purify.data.sources.open_source import source
from purify.train.optim import OPTIMIZERS

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ('name', 'expected'),
    [
        ('digits', {'name': 'digits'}),
        ('arrays:/data/x:y', {'name': 'arrays', 'path': '/data/x:y'}),
        ('imagefolder:pictures', {'name': 'imagefolder', 'path': 'pictures'}),
        ('tfds:cifar10', {'name': 'tfds:cifar10', 'data_dir': ''}),
    ],
)
def test_a_source_by_name(name, expected):
    made = source(name, size_px=8, split_seed=3)
    own = {key: value for key, value in made.items() if key in ('name', 'path', 'data_dir')}
    assert own == expected
    assert (made['size_px'], made['split_seed'], made['channels']) == (8, 3, 3)


def test_no_attack_has_no_rate():
    assert attack('none', rate=0.1)['rate'] == 0.0
    assert attack('patch', rate=0.1, size_px=5).items() >= {'rate': 0.1, 'size_px': 5}.items()


@pytest.mark.parametrize(
    ('make', 'expected'),
    [
        (
            lambda: attack('badnets', rate=0.1),
            r"attack='badnets': choose from adaptive_blend, .*none, patch",
        ),
        (
            lambda: OPTIMIZERS.part('lion', lr=0.1),
            r"optimizer='lion': choose from adam, adamw, lars, muon, sgd",
        ),
        (
            lambda: source('kaggle:digits', size_px=8),
            r"source='kaggle': choose from arrays, digits, imagefolder, tfds",
        ),
    ],
)
def test_unknown_names_are_answered_with_the_choices(make, expected):
    with pytest.raises(ValueError, match=expected):
        make()


def test_settings_belong_to_their_optimiser_and_schedule():
    assert 'momentum' not in OPTIMIZERS.part('adam', lr=0.1)
    stepped = OPTIMIZERS.part('sgd', lr=0.1, schedule='step', drops=(0.3, 0.5), factor=0.1)
    assert stepped.items() >= {'momentum': 0.9, 'factor': 0.1, 'lr': 0.1}.items()
    assert 'factor' not in OPTIMIZERS.part('sgd', lr=0.1)


CIFAR = [(0.4914, 0.4822, 0.4465), (0.247, 0.243, 0.261)]
IMAGENET = [(0.485, 0.456, 0.406), (0.229, 0.224, 0.225)]


@pytest.mark.parametrize(
    ('spec', 'scale'),
    [
        ('cifar10.py', CIFAR),
        ('cifar10.py:small,source=arrays:x', CIFAR),
        ('attacks.py:source=arrays:x', CIFAR),
        ('attacks.py:source=arrays:x,full', CIFAR),
        ('relabel.py:setting=cifar10', CIFAR),
        ('relabel.py:setting=vggface30', IMAGENET),
        ('dataelixir.py:setting=cifar10', CIFAR),
        ('dataelixir.py:setting=tiny', IMAGENET),
    ],
)
def test_networks_scale_images_as_their_datasets_do(spec, scale):
    network = load_config(f'{ROOT}/configs/{spec}')['teacher']['network']
    assert [tuple(network[name]) for name in ('mean', 'std')] == scale


def test_scales_stand_in_one_place():
    files = [
        path
        for room in ('configs', 'purify')
        for path in sorted((ROOT / room).rglob('*.py'))
        if path.name != 'sscd.py'
    ]
    for number in ('0.4914', '0.247', '0.485', '0.229'):
        found = [path.name for path in files if re.search(rf'{number}\b', path.read_text())]
        assert found == ['registry.py']


def _networks(value):
    """All classifier networks in a config, wherever they stand."""
    if isinstance(value, dict):
        if 'stem' in value or str(value.get('name', '')).startswith(('resnet', 'densenet')):
            yield value
        for part in value.values():
            yield from _networks(part)


@pytest.mark.parametrize(
    'spec',
    [
        'imagenette.py',
        'imagenet100.py',
        'castle_walls.py:setting=imagenette',
        'castle_walls.py:setting=imagenette,network=densenet121,copies=simclr',
        'castle_walls.py:setting=caltech15,source=imagefolder:x,network=vgg16',
        'relabel.py:setting=imagenet30,features=simclr',
        'relabel.py:setting=vggface30',
        'relabel.py:setting=vggface30,defense=dbd',
    ],
)
def test_photographs_meet_the_stem_that_was_published_for_them(spec):
    """7 x 7 of stride 2 and a max pool (He 2015, Huang 2016, tables 1); a VGG has one beginning."""
    config = load_config(f'{ROOT}/configs/{spec}')
    found = list(_networks(config))
    assert all(network['stem'] == 'imagenet' for network in found)
    assert found or config['teacher']['network']['name'] == 'vgg16'
