"""DataElixir as a user runs it, tiny: killed in its stages, on 1 and 8 devices, on two hosts."""

import json

import numpy as np
import pytest
from support.command import assert_same_weights, kill_at, run, stage, start_hosts

from purify.data.loader import Split
from purify.engine.tables import read_table

CONFIG = 'configs/dataelixir.py'
TINY = (
    '--config.source.train_size=120',
    '--config.source.test_size=60',
    '--config.teacher.epochs=20',
    '--config.teacher.batch=16',
    '--config.student.epochs=2',
    '--config.student.batch=16',
    '--config.defense.rounds=2',
    '--config.defense.steps=4',
    '--config.defense.kept=2',
    # so few images would show nothing otherwise, and no image would be replaced
    '--config.defense.targets.score=0.0',
    '--config.defense.targets.deviations=0.0',
    '--config.defense.targets.level=0.9',
    '--config.shard_size=20',
    '--config.run.log_every=5',
    '--config.run.inference_batch=20',
    '--config.run.batch_per_device=20',
    '--config.run.report_images=2',
)
WRITTEN = ('rows-*.npz', 'findings.*', 'verdicts.csv', '*.array_record-*')
MIDST = ('candidates-*/rows-*', 'replaced-*/*', 'benign-*/checkpoints/step_*', 'agreed-*/*')
MIDST += ('purified-*/*', 'student-*/metrics.jsonl')


def finished(folder, *flags, devices=1):
    """Runs to the end; -> the folder."""
    run(folder, *TINY, *flags, config=CONFIG, devices=devices)
    return folder


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    """An uninterrupted run on one device."""
    return finished(tmp_path_factory.mktemp('whole'))


def written(folder):
    """The bytes of every table and dataset file of a run, by stage and name; what a kill left
    half-written is not one.
    """
    stages = folder / 'stages'
    found = sorted(
        path for name in WRITTEN for path in stages.rglob(name) if path.suffix != '.part'
    )
    return {str(path.relative_to(stages)): path.read_bytes() for path in found}


def table(folder, name):
    """The table of a stage."""
    return read_table(stage(folder, name))


def test_the_run_replaces_images_and_says_what_became_of_each(whole):
    verdicts, targets = table(whole, 'verdicts'), table(whole, 'targets')
    given, purified = Split(whole / 'poisoned', 'train'), Split(whole / 'purified', 'train')
    assert (verdicts['ids'] == given.ids).all()
    open_ones, kept = ~targets['keep'], verdicts['keep']
    # without such images the test shows less than it should
    assert open_ones.any(), 'no suspicious image is left for the benign model'
    assert (targets['candidate'][~open_ones] >= 0).any(), 'no poisoned image is replaced'
    assert kept.all(), 'every image that was open has its label now'
    assert (verdicts['candidate'][open_ones] >= 0).all()
    assert (purified.ids == given.ids[kept]).all()
    assert (purified.labels == verdicts['labels'][kept]).all()
    before = given.images(np.flatnonzero(kept).tolist())
    after = purified.images(range(len(purified)))
    changed = (before != after).any((1, 2, 3))
    assert (changed == (verdicts['candidate'][kept] >= 0)).all()
    assert (verdicts['flagged'] == (verdicts['labels'] != given.labels)).all()
    results = json.loads((whole / 'results.json').read_text())
    assert results['detection']['target_labels'] == verdicts.facts['target_labels']
    assert results['benign']['acc'] is not None
    assert (whole / 'report' / 'index.html').is_file()


@pytest.mark.long
def test_killed_in_the_midst_of_its_stages_it_ends_with_the_same_bytes(whole, tmp_path):
    flags = (*TINY, '--config.run.save_every=5')
    killed = [sign for sign in MIDST if kill_at(tmp_path, sign, *flags, config=CONFIG)]
    assert killed == list(MIDST)
    finished(tmp_path)
    assert written(whole)
    assert written(whole) == written(tmp_path)
    for name in ('teacher', 'benign', 'finetuned', 'student'):
        assert_same_weights(stage(whole, name), stage(tmp_path, name))
    results = [json.loads((folder / 'results.json').read_text()) for folder in (whole, tmp_path)]
    for key in ('teacher', 'benign', 'student', 'detection', 'purified'):
        assert results[0][key] == results[1][key]


def assert_same_candidates(one, other):
    """XLA's CPU convolutions round differently for other numbers of rows: a candidate in hundreds
    may tip over.
    """
    a, b = table(one, 'candidates'), table(other, 'candidates')
    assert (a['ids'] == b['ids']).all()
    assert (a['raw'] == b['raw']).all()
    assert (a['candidates'] != b['candidates']).mean() < 0.01
    assert np.abs(a['distance'] - b['distance']).max() < 0.01
    sets = [table(folder, 'targets')['set'] for folder in (one, other)]
    assert (sets[0] != sets[1]).mean() < 0.02


@pytest.mark.long
def test_eight_devices_see_the_same_candidates(whole, tmp_path):
    loaded = f'--config.teacher.load={whole}/teacher'
    stages = ('--stages', 'prepare,candidates,targets')
    assert_same_candidates(
        whole, finished(tmp_path, loaded, '--config.run.batch_per_device=7', *stages, devices=8)
    )


@pytest.mark.long
def test_two_hosts_share_every_stage(whole, tmp_path):
    flags = ('--workdir', tmp_path, *TINY, f'--config.teacher.load={whole}/teacher')
    hosts = start_hosts(*flags, devices=1, config=CONFIG)
    texts = [host.communicate(timeout=600)[0] for host in hosts]
    assert [host.returncode for host in hosts] == [0, 0], texts
    assert_same_candidates(whole, tmp_path)
    purified = Split(tmp_path / 'purified', 'train')
    verdicts = table(tmp_path, 'verdicts')
    assert (purified.labels == verdicts['labels'][verdicts['keep']]).all()
