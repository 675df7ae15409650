"""From outside the package: each kind of thing is one file and one line in a registry, and goes
through to the report.
"""

import json

import pytest
from outside.attack import Stripe
from outside.filter import Distant
from outside.guard import Cover
from outside.network import OneLayer
from outside.repairer import Tuned
from outside.section import section
from outside.source import read_bars
from support.tiny import ROOT

from purify.attacks.registry import ATTACKS
from purify.commands.check import check
from purify.commands.run import run
from purify.config.load import load_config
from purify.data.sources.open_source import SOURCES
from purify.defenses.registry import DEFENSES
from purify.models.classifiers.registry import NETWORKS
from purify.report.sections.registry import SECTIONS

pytestmark = pytest.mark.usefixtures('few_devices')

LINES = (
    (ATTACKS, 'stripe', Stripe),
    (DEFENSES, 'distant', Distant),
    (DEFENSES, 'tuned', Tuned),
    (DEFENSES, 'cover', Cover),
    (SOURCES, 'bars', read_bars),
    (NETWORKS, 'one_layer', OneLayer),
    (SECTIONS, 'classes', section),
)
SMALL = (
    '--config.source.train_size=100',
    '--config.source.test_size=40',
    '--config.teacher.epochs=4',
    '--config.teacher.batch=16',
    '--config.shard_size=40',
    '--config.run.inference_batch=24',
    '--config.run.batch_per_device=8',
    '--config.run.report_images=2',
)
STUDENT = ('--config.student.epochs=1', '--config.student.batch=16')


@pytest.fixture(scope='module', autouse=True)
def registered():
    with pytest.MonkeyPatch.context() as patch:
        for registry, name, thing in LINES:
            patch.setitem(registry, name, thing)
        yield


def finish(words, folder, *flags, network=None):
    """A run to its end -> (config, results.json, the page)."""
    config = load_config(f'{ROOT}/configs/quickstart.py:{words}', [*SMALL, *flags])
    for part in {'teacher', 'student'} & set(config) if network else ():
        config[part]['network'] = network
    assert not check(config).problems
    run(config, [words, *flags], folder, None, ())
    page = (folder / 'report' / 'index.html').read_text()
    assert '<h2 id="classes">Classes</h2>' in page
    return config, json.loads((folder / 'results.json').read_text()), page


def test_an_attack_a_filter_a_network_and_a_section(tmp_path):
    network = NETWORKS.part('one_layer', width=6)
    config, results, page = finish(
        'attack=stripe,defense=distant',
        tmp_path,
        *STUDENT,
        '--config.attack.width_px=3',
        network=network,
    )
    assert config['attack']['width_px'] == 3
    assert results['attack']['name'] == 'stripe'
    assert results['attack']['poisoned'] == 20  # the class's own rate
    assert results['defense'] == {'name': 'distant', 'share': 0.1}
    assert results['detection']['found']['flagged'] == results['detection']['found']['dropped'] > 0
    assert results['student']['counts']['asr'][1] > 0
    assert 'There are 10 classes.' in page
    made = json.loads(next(tmp_path.glob('stages/student-*/network.json')).read_text())
    assert made['network'] == network


def test_a_repairer_and_a_source(tmp_path):
    flags = (
        *(f'--config.{part}.network.stages=(1,)' for part in ('teacher', 'student')),
        '--config.student.batch=16',
        '--config.source.noise=5',
        '--config.source.reference=own',
    )
    words = 'source=bars,size_px=16,channels=1,network=resnet,defense=tuned'
    _, results, page = finish(words, tmp_path, *flags, '--config.source.reference_size=0')
    assert results['classes'] == ['standing', 'lying']
    assert results['trusted'] == {'images': 4}
    assert results['student'] is None
    assert results['repaired']['counts']['acc'][1] == 40
    assert 'the repaired classifier' in page
    assert 'There are 2 classes.' in page


@pytest.mark.long
def test_a_guard(tmp_path):
    _, results, page = finish(
        'attack=patch,rate=0.3,defense=cover', tmp_path, '--config.teacher.epochs=30'
    )
    assert results['teacher']['asr'] > 0.9
    assert results['guarded']['asr'] < 0.5
    assert results['guarded']['guard'] == 'Cover'
    assert results['guarded']['counts']['acc'][1] == 40
    assert 'the teacher behind the guard' in page
