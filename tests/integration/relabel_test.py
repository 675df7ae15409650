"""Relabelling as a user runs it on the digits, at a tenth of the work: it finds the poison, and
killed it goes on.
"""

import json
import os
import random
import signal
import time

import pytest
from support.command import call, dataset_bytes, start, weights

from purify.engine.tables import read_table

CONFIG = 'configs/relabel.py'
TINY = (
    '--config.source.size_px=8',  # what they are at heart
    '--config.attack.size_px=2',
    '--config.teacher.epochs=1',
    '--config.student.epochs=1',
    '--config.defense.encoder.epochs=24',
    '--config.defense.fit.members=3',
    '--config.run.save_every=10',
    '--config.run.report_images=2',
)
SEED = int(os.environ.get('PURIFY_KILL_SEED', '0'))


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    """An uninterrupted run."""
    folder = tmp_path_factory.mktemp('whole')
    code, text = call('run', '--workdir', folder, *TINY, config=CONFIG)
    assert code == 0, text
    return folder


def stage(folder, name):
    """The folder of a finished stage."""
    (found,) = folder.glob(f'stages/{name}-*/DONE')
    return found.parent


def test_the_target_is_found_and_its_images_get_their_true_labels(whole):
    results = json.loads((whole / 'results.json').read_text())
    assert results['findings']['types'] == {'0': 'non-disruptive'}
    found = results['detection']
    assert found['target_labels'] == [0]
    assert found['relabel_accuracy'] >= 0.9
    assert found['counts']['relabel_accuracy'][1] >= 20
    assert found['auroc'] >= 0.9
    page = (whole / 'report' / 'index.html').read_text()
    assert '<h2 id="features">' in page


def tables(folder):
    """The bytes of what says how likely every image is, and what became of it."""
    written = {
        path: path.read_bytes()
        for name in ('densities', 'verdicts')
        for path in stage(folder, name).glob('findings.*')
    }
    return {f'{path.parent.name} {path.name}': content for path, content in written.items()}


def test_killed_within_its_encoder_or_its_densities_it_ends_with_the_same_bytes(whole, tmp_path):
    rng = random.Random(SEED)
    name = rng.choice(('encoder', 'densities'))
    stages = ('--stages', 'prepare,encoder,features,densities,verdicts,purified,student')
    flags = ('--workdir', tmp_path, *TINY, f'--config.teacher.load={whole}/teacher', *stages)
    process = start('run', *flags, config=CONFIG)
    deadline = time.monotonic() + 300
    while process.poll() is None and not list(tmp_path.glob(f'stages/{name}-*/checkpoints/step_*')):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    time.sleep(rng.uniform(0, 0.15))
    if process.poll() is None:
        process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not list(tmp_path.glob(f'stages/{name}-*/DONE')), (
        'it was done before it was killed: the test shows nothing'
    )
    code, text = call('run', *flags, config=CONFIG)
    assert code == 0, text
    assert len(tables(whole)) == 4
    assert tables(whole) == tables(tmp_path)
    for name in ('features', 'densities', 'verdicts'):
        assert len(read_table(stage(whole, name))['ids']) == 800
    assert dataset_bytes(stage(whole, 'purified'))
    assert dataset_bytes(stage(whole, 'purified')) == dataset_bytes(stage(tmp_path, 'purified'))
    for name in ('encoder', 'student'):
        pairs = list(zip(weights(stage(whole, name)), weights(stage(tmp_path, name)), strict=True))
        assert pairs
        assert all(a.tobytes() == b.tobytes() for a, b in pairs)
