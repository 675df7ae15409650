"""Poisoned diffusion models on the digits, a hundredth of the work; killed, they go on."""

import json
import os
import random

import numpy as np
import pytest
from support.command import dataset_bytes, kill_at, least_networks, run, stage

from purify.data.loader import Split

CONFIG = 'configs/castle_walls.py'
JUDGES = ('dissection.labeller', 'dissection.detector')
SMALLEST = (
    '--config.source.size_px=8',  # what they are at heart
    '--config.source.train_size=240',
    '--config.source.test_size=100',
    '--config.attack.size_px=2',
    '--config.teacher.epochs=1',
    *least_networks('teacher'),
    '--config.defense.generator.network.sample_size=8',
    '--config.defense.generator.network.block_out_channels=(8,16)',
    '--config.defense.generator.steps=40',
    '--config.run.report_images=2',
)
TINY = (
    *SMALLEST,
    *least_networks('student', *JUDGES),
    *(f'--config.{part}.epochs=1' for part in ('student', *JUDGES)),
    '--config.defense.sampling.steps=4',
    '--config.defense.images=90',
    '--config.defense.probe.images=30',
    '--config.defense.scores.cognitive_distillation.steps=2',
    '--config.defense.scores.strip.draws=4',
    '--config.defense.scores.fct.times=1',
    '--config.shard_size=10',
)
ASKED = ('--config.defense.draws=2', '--config.defense.images=12', '--config.shard_size=10')
WEIGHTS_FILE = 'diffusion_pytorch_model.safetensors'
SEED = int(os.environ.get('PURIFY_KILL_SEED', '0'))


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    """An uninterrupted run."""
    folder = tmp_path_factory.mktemp('whole')
    run(folder, *TINY, config=CONFIG)
    return folder


def test_generations_are_taken_apart_and_the_report_shows_it(whole):
    results = json.loads((whole / 'results.json').read_text())
    made = Split(stage(whole, 'generated'), 'train')
    np.testing.assert_array_equal(made.labels, np.arange(90) % 10)
    sets = results['dissection']['sets']
    assert [row['images'] for row in sets['generated']] == [9] * 10
    (probe,) = sets['probe']
    wanted = (0, True, 30, 30)
    assert (probe['label'], probe['target'], probe['images'], sum(probe['counts'])) == wanted
    truth = json.loads((stage(whole, 'prepare') / 'truth' / 'manifest.json').read_text())
    given = Split(stage(whole, 'prepare') / 'poisoned', 'train').labels
    assert probe['p_t'] == truth['poisoned_images'] / (given == 0).sum()
    wanted = {'cognitive_distillation', 'fct', 'strip'}
    assert {row['score'] for row in results['dissection']['auroc']} == wanted
    assert all(0 <= row['training'] <= 1 for row in results['dissection']['auroc'])
    page = (whole / 'report' / 'index.html').read_text()
    for text in ('G1', 'G4', 'on training images', 'on generations'):
        assert text in page


@pytest.mark.long
def test_killed_within_its_generator_or_its_generations_it_ends_with_the_same_bytes(
    whole, tmp_path
):
    rng = random.Random(SEED)
    name, sign = rng.choice(
        (('generator', 'checkpoints/step_*'), ('generated', '*.array_record-*'))
    )
    flags = (*TINY, '--config.run.save_every=4', '--stages', 'prepare,generator,generated')
    kill_at(tmp_path, f'{name}-*/{sign}', *flags, config=CONFIG)
    assert not list(tmp_path.glob(f'stages/{name}-*/DONE')), (
        'it was done before it was killed: the test shows nothing'
    )
    run(tmp_path, *flags, config=CONFIG)
    assert dataset_bytes(stage(whole, 'generated'))
    assert dataset_bytes(stage(whole, 'generated')) == dataset_bytes(stage(tmp_path, 'generated'))
    one, other = (stage(folder, 'generator') / 'unet' for folder in (whole, tmp_path))
    assert (one / WEIGHTS_FILE).read_bytes() == (other / WEIGHTS_FILE).read_bytes()


@pytest.mark.long
def test_the_same_generator_classifies(whole, tmp_path):
    flags = ('--store', whole / 'stages', *SMALLEST, *ASKED)
    text = run(tmp_path, *flags, config=f'{CONFIG}:defense=diffusion_classifier')
    assert 'generator: done before' in text
    results = json.loads((tmp_path / 'results.json').read_text())
    assert [row['p_filter'] for row in results['diffusion']['filters']] == [0.0, 0.01, 0.05, 0.1]
    assert results['diffusion']['images'] == 12
    student, filtered = results['student'], results['diffusion']['filters'][2]
    assert student['counts']['acc'] == filtered['counts']['acc']
