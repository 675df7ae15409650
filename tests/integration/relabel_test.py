"""Relabelling as a user runs it on the digits, at a tenth of the work: it finds the poison, and
killed it goes on.
"""

import json
import os
import random

import pytest
from support.command import assert_same_weights, dataset_bytes, kill_at, least_networks, run, stage

from purify.engine.tables import read_table

CONFIG = 'configs/relabel.py'
TINY = (
    '--config.source.size_px=8',  # what they are at heart
    '--config.attack.size_px=2',
    '--config.teacher.epochs=1',
    '--config.student.epochs=1',
    *least_networks('teacher', 'student'),
    '--config.defense.encoder.epochs=8',
    '--config.defense.encoder.network.width=8',
    '--config.defense.fit.members=3',
    '--config.run.report_images=2',
)
SEED = int(os.environ.get('PURIFY_KILL_SEED', '0'))


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    """An uninterrupted run."""
    folder = tmp_path_factory.mktemp('whole')
    run(folder, *TINY, config=CONFIG)
    return folder


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


@pytest.mark.long
def test_killed_within_its_encoder_or_its_densities_it_ends_with_the_same_bytes(whole, tmp_path):
    rng = random.Random(SEED)
    name = rng.choice(('encoder', 'densities'))
    stages = ('--stages', 'prepare,encoder,features,densities,verdicts,purified,student')
    flags = (*TINY, '--config.run.save_every=10', f'--config.teacher.load={whole}/teacher', *stages)
    sign, pause = f'{name}-*/checkpoints/step_*', rng.uniform(0, 0.15)
    kill_at(tmp_path, sign, *flags, config=CONFIG, pause_s=pause)
    assert not list(tmp_path.glob(f'stages/{name}-*/DONE')), (
        'it was done before it was killed: the test shows nothing'
    )
    run(tmp_path, *flags, config=CONFIG)
    assert len(tables(whole)) == 4
    assert tables(whole) == tables(tmp_path)
    for name in ('features', 'densities', 'verdicts'):
        assert len(read_table(stage(whole, name))['ids']) == 800
    assert dataset_bytes(stage(whole, 'purified'))
    assert dataset_bytes(stage(whole, 'purified')) == dataset_bytes(stage(tmp_path, 'purified'))
    for name in ('encoder', 'student'):
        assert_same_weights(stage(whole, name), stage(tmp_path, name))
