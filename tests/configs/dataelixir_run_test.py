"""The experiments of Zhou 2024: points of the studies pass `check` at full size, and run at a tiny
one to their reports.

A few in the whole suite; with PURIFY_ALL_POINTS=1 all, but those that `tiny` refuses.
"""

import json
import os

import pytest
from safetensors.numpy import save_file
from support.improved_ddpm_reference import random_state
from support.tiny import ROOT, shrink_study, write_pictures

from purify.commands import run as running
from purify.commands.check import check
from purify.commands.convert import convert
from purify.commands.list import describe_run, points_of
from purify.commands.plan import make_method, make_stages
from purify.config.load import load_config, load_module
from purify.config.sweeps import sweep_functions
from purify.engine.chain import Chain

pytestmark = pytest.mark.usefixtures('few_devices')

CONFIG = f'{ROOT}/configs/dataelixir.py'
SETTINGS = ('digits', 'cifar10', 'tiny', 'lfw')
SWEEPS = tuple(sweep_functions(load_module(CONFIG)))
REFUSED = (('tiny', 'start'), ('tiny', 'kept'))
# in the whole suite; all of them with PURIFY_ALL_POINTS=1
SOME = [('digits', 'selection', 1), ('cifar10', 'table1', 0)]
SOME_RUNS = [('digits', 'table1', 1)]
SMALL = {'name': 'resnet', 'stages': [1], 'block': 'preact', 'width': 4, 'stem': 'small'}
SMALL |= {'norm': 'group', 'dtype': 'float32'}


@pytest.fixture(scope='module')
def place(tmp_path_factory):
    """Coloured random pictures of ten classes, brought to any size, and a small Improved DDPM."""
    folder = tmp_path_factory.mktemp('pictures')
    write_pictures(folder, 1200, 30)
    save_file(random_state(mult=(1, 2), attends=()), folder / 'ema.safetensors')
    for name, noise in (
        ('prior', 'steps=4000,noise=cosine'),
        ('linear', 'steps=1000,noise=linear'),
    ):
        convert(
            f'improved_ddpm:size_px=16,heads=4,rescale=True,{noise}',
            folder / 'ema.safetensors',
            folder / name,
        )
    return folder


def run_of(setting, sweep, which, place):
    """(words, flags) of one run of a sweep, with nothing in it that lies on the net."""
    spec, flags = f'{CONFIG}:setting={setting}', []
    if setting != 'digits':
        spec += f',source=arrays:{place},weights='
    point, seed = points_of(spec, sweep, '0')[which]
    described = describe_run(spec, [], point, seed)
    if (
        setting == 'tiny'
        and point.get('prior', 'usual') == 'usual'
        and point.get('defense', 'dataelixir') == 'dataelixir'
    ):
        flags = [f'--config.prior.load={place}/prior']
    return described['config'], [*described['flags'], *flags]


def every_point(some):
    """(setting, sweep, place in it), without what tiny refuses: its prior has other steps."""
    if not os.environ.get('PURIFY_ALL_POINTS'):
        return some
    pairs = [
        (setting, name) for setting in SETTINGS for name in SWEEPS if (setting, name) not in REFUSED
    ]
    return [
        (setting, name, k)
        for setting, name in pairs
        for k in range(len(points_of(CONFIG, name, '0')))
    ]


@pytest.mark.long
@pytest.mark.parametrize(('setting', 'sweep', 'which'), every_point(SOME))
def test_points_of_the_studies_pass_check_as_they_are(place, setting, sweep, which):
    config = load_config(*run_of(setting, sweep, which, place))
    if config['source']['reference'] == 'held_out':
        config['source']['reference_size'] = 100  # the pictures here are few
    assert not check(config).problems


@pytest.mark.long
@pytest.mark.parametrize(('setting', 'sweep', 'which'), every_point(SOME_RUNS))
def test_points_of_the_studies_run_to_their_reports(place, tmp_path, setting, sweep, which):
    run, flags = run_of(setting, sweep, which, place)
    settings = shrink_study(load_config(run, flags))
    if '/' in settings.get('prior', {}).get('load', '').removeprefix(f'{place}/'):
        settings['prior']['load'] = f'{place}/linear'
    if settings['source']['reference'] == 'held_out':
        settings['source']['reference_size'] = 100
    running.run(settings, [run, *flags], tmp_path, place / 'stages', [])
    assert (tmp_path / 'report' / 'index.html').is_file()
    results = json.loads((tmp_path / 'results.json').read_text())
    for who in ('teacher', 'student'):
        assert results[who]['acc'] is not None
    for link in ('verdicts', 'benign'):
        made = (
            (tmp_path / link).resolve().name.partition('-')[0]
            if (tmp_path / link).exists()
            else None
        )
        assert made == handed_over(settings)[link]
    if sweep == 'residual':
        assert results['student']['residual_asr'] is not None
    assert results['detection'] is not None


def handed_over(config):
    """What the method says that it hands over, by the name of the link."""
    outcome = make_method(config).outcome
    return {'verdicts': outcome.findings, 'benign': outcome.benign}


def prints(sweep):
    """Stage -> its fingerprints in the points of a sweep."""
    chains = [
        Chain(make_stages(load_config(*run_of('digits', sweep, k, ''))), ROOT)
        for k in range(len(points_of(CONFIG, sweep, '0')))
    ]
    return {name: [chain.prints.get(name) for chain in chains] for name in chains[0].stages}


def test_points_share_what_they_have_in_common():
    """Readings are studied on the same candidates, and one attack's defences on one teacher."""
    for sweep, shared, own in [
        ('tau', 'candidates', 'targets'),
        ('labelling', 'candidates', 'student'),
        ('rounds', 'teacher', 'candidates'),
    ]:
        found = prints(sweep)
        assert len(set(found[shared])) == 1
        assert len(set(found[own])) == len(found[own])
    assert len(set(prints('prior')['teacher'])) == 1


@pytest.mark.parametrize('words', ['', ',exact'])
def test_the_chain_of_tiny_fits_a_prior_of_4000_steps(place, words):
    spec = f'{CONFIG}:setting=tiny,source=arrays:{place},weights={words}'
    config = load_config(spec, [f'--config.prior.load={place}/prior'])
    config['teacher']['network'] = config['student']['network'] = SMALL
    assert not check(config).problems
    config['prior'] = load_config(CONFIG)['prior'] | {'load': 'google/ddpm-cifar10-32'}
    assert any('1200' in problem for problem in check(config).problems)


def test_check_names_every_file_that_tiny_misses(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    config = load_config(f'{CONFIG}:setting=tiny')
    config['teacher']['network'] = config['student']['network'] = SMALL
    problems = '\n'.join(check(config).problems)
    for missing in (
        'tiny-imagenet-200',
        './priors/imagenet64',
        './weights/efficientnet_b4.safetensors',
    ):
        assert missing in problems
