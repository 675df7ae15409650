"""The whole job once, tiny, through the real command line; then everything it left is looked at."""

import json
import subprocess
import sys

import jax
import numpy as np
import pytest
from support.command import ROOT
from support.tiny import SMALL, STUDENT, VARY

from purify.attacker.manifest import Manifest
from purify.attacks.registry import ATTACKS
from purify.attacks.settings import attack_words
from purify.cli import main
from purify.data.loader import Split
from purify.stages.networks_on_disk import read_classifier

QUICKSTART = f'{ROOT}/configs/quickstart.py'
FLAGS = [*SMALL, *STUDENT, *VARY]


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
    # a folder of its own above it: one test collects all runs there
    folder = tmp_path_factory.mktemp('runs') / 'tiny'
    assert main(['run', '--config', QUICKSTART, '--workdir', str(folder), *FLAGS]) == 0
    return folder


def test_results_have_their_fixed_keys(finished):
    results = json.loads((finished / 'results.json').read_text())
    for side in ('teacher', 'student'):
        assert set(results[side]) == {'acc', 'asr', 'ra', 'counts', 'intervals'}
        hits, count = results[side]['counts']['asr']
        assert results[side]['asr'] == hits / count
        assert count < 48  # the target class is left out
        assert results[side]['counts']['acc'][1] == 48
    assert set(results['detection'].values()) == {None}  # this defence judges no image
    wanted = {'prepare', 'teacher', 'purified', 'student', 'evaluate'}
    assert set(results['cost']['stages']) == wanted
    stages = results['cost']['stages']
    assert stages['purified']['images_per_s'] > 0
    # each once: the first weights and an update, or what is done to a batch
    programs = {name: stages[name]['programs'] for name in ('teacher', 'purified', 'student')}
    assert programs == {'teacher': 2, 'purified': 1, 'student': 2}
    assert stages['prepare']['programs'] == 0
    assert stages['evaluate']['programs'] <= 6  # clean and triggered, likeness
    assert results['seeds'] == {'poison': 0, 'model': 0, 'data': 0}
    assert results['attack']['poisoned'] == 10


def test_plain_tfds_opens_the_datasets_without_tensorflow(finished):
    code = (
        'import sys\nimport tensorflow_datasets as tfds\nfor name in ("poisoned", "purified"):\n  '
        f'  source = tfds.builder_from_directory("{finished}/" +'
        ' name).as_data_source(split="train")\n    print(name, len(source),'
        ' source[3]["image"].shape, source[3]["image"].dtype)\nassert "tensorflow" not in'
        ' sys.modules\n'
    )
    out = subprocess.run(
        [sys.executable, '-c', code], capture_output=True, text=True, check=True
    ).stdout
    wanted = ['poisoned 96 (16, 16, 1) uint8', 'purified 288 (16, 16, 1) uint8']
    assert out.split('\n')[:2] == wanted


def test_the_manifest_is_the_truth_about_the_poisoned_dataset(finished):
    truth = (finished / 'poisoned').resolve().parent / 'truth'
    manifest = Manifest.read(truth)
    given = Split(finished / 'poisoned', 'train')
    order = np.argsort(given.ids)
    assert (given.ids[order] == manifest.ids).all()
    assert (given.labels[order] == manifest.given_labels).all()
    assert (manifest.given_labels[manifest.poisoned] == 0).all()
    assert (manifest.true_labels[manifest.poisoned] != 0).all()
    originals = Split(truth / 'originals', 'train')
    for identity in manifest.ids[manifest.poisoned][:3]:
        before, after = (
            x[int(x.position_of(np.array([identity]))[0])]['image'] for x in (originals, given)
        )
        changed = np.argwhere((before != after)[..., 0])
        assert len(changed)
        assert changed.min() >= 12  # nothing outside the 3x3 patch one pixel from the corner
        assert changed.max() <= 14


def test_purified_images_keep_labels_and_ids_and_are_new_images(finished):
    given, purified = Split(finished / 'poisoned', 'train'), Split(finished / 'purified', 'train')
    assert (given.ids.repeat(3) == purified.ids).all()
    assert (given.labels.repeat(3) == purified.labels).all()
    assert (purified.variations == np.tile(range(3), 96)).all()
    images = purified.images(range(288))
    assert (given.images(range(96)).repeat(3, 0) != images).any((1, 2, 3)).all()
    assert (images[0] != images[1]).any()


def test_the_same_command_again_runs_nothing(finished, capfd):
    before = (finished / 'student').resolve().stat().st_mtime_ns
    assert main(['run', '--config', QUICKSTART, '--workdir', str(finished), *FLAGS]) == 0
    assert capfd.readouterr().err.count('done before') == 5
    assert (finished / 'student').resolve().stat().st_mtime_ns == before


def test_the_record_of_the_run(finished):
    names = {path.name for path in finished.iterdir()}
    assert {
        'config.json',
        'overrides.json',
        'environment.json',
        'metrics.jsonl',
        'results.json',
        'report',
        'stages',
    } <= names
    assert json.loads((finished / 'overrides.json').read_text())[0] == QUICKSTART
    wanted = jax.__version__
    assert json.loads((finished / 'environment.json').read_text())['versions']['jax'] == wanted
    stages = {
        json.loads(line)['stage'] for line in (finished / 'metrics.jsonl').read_text().splitlines()
    }
    assert stages == {'teacher', 'student'}


def test_report_can_be_written_again_and_lists_of_runs_make_a_table(finished, capfd):
    (finished / 'report' / 'index.html').unlink()
    assert main(['report', '--workdir', str(finished)]) == 0
    assert 'data:image/png' in (finished / 'report' / 'index.html').read_text()
    assert main(['report', '--workdir', str(finished.parent)]) == 0
    assert 'teacher ACC' in capfd.readouterr().out


@pytest.mark.long
def test_a_finished_teacher_and_prior_are_handed_to_another_run(finished, tmp_path, capfd):
    loaded = [
        f'--config.teacher.load={finished}/teacher',
        '--config.prior.load=purify/models/pretrained/digits_ddpm',
    ]
    assert (
        main(
            [
                'run',
                '--config',
                QUICKSTART,
                '--workdir',
                str(tmp_path),
                *FLAGS,
                *loaded,
                '--stages',
                'prepare,purified',
            ]
        )
        == 0
    )
    assert main(['list', '--config', QUICKSTART, '--workdir', str(tmp_path), *FLAGS, *loaded]) == 0
    listed = capfd.readouterr().out
    assert 'teacher ' not in {line[:8] for line in listed.splitlines()}
    assert f'teacher={finished}/teacher' in listed


@pytest.mark.long
def test_networks_start_from_a_given_checkpoint(finished, tmp_path):
    """With a learning rate of almost 0, a student started from the teacher stays the teacher."""
    flags = [f'--config.teacher.init_from={finished}/teacher', '--config.teacher.optim.lr=1e-12']
    flags += ['--stages', 'prepare,teacher']
    assert (
        main(
            ['run', '--config', f'{QUICKSTART}:seed=5', '--workdir', str(tmp_path), *FLAGS, *flags]
        )
        == 0
    )
    old, new = (
        read_classifier((folder / 'teacher').resolve()).weights['params']
        for folder in (finished, tmp_path)
    )
    for a, b in zip(jax.tree.leaves(old), jax.tree.leaves(new), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


def test_list_and_check(finished, capfd):
    assert main(['list']) == 0
    said = dict(line.split(': ') for line in capfd.readouterr().out.splitlines())
    assert said['attack'] == ', '.join(sorted(attack_words()))
    assert {*said['attack'].split(', ')} > {*ATTACKS, 'two_patches'}
    assert said['score'] == 'cognitive_distillation, fct, strip'
    assert main(['list', '--config', QUICKSTART, '--workdir', str(finished), *FLAGS]) == 0
    assert capfd.readouterr().out.count('  done') == 5
    assert main(['check', '--config', QUICKSTART, *FLAGS]) == 0
    assert 'every stage can run' in capfd.readouterr().out


def test_check_lists_all_problems_at_once(tmp_path, capfd):
    wrong = [
        '--config.attack.target=12',
        '--config.student.optim.name=adm',
        '--config.defense.vary.start=5000',
    ]
    assert main(['check', '--config', QUICKSTART, *FLAGS, *wrong, '--config.teacher.batch=7']) == 2
    out = capfd.readouterr().out
    for word in ('target=12', "'adm'", 'start=5000', 'batch=7'):
        assert word in out


def test_unknown_stage(finished, capfd):
    found = main(
        ['run', '--config', QUICKSTART, '--workdir', str(finished), *FLAGS, '--stages', 'purify']
    )
    assert found == 2
    assert 'Its stages: prepare, teacher, purified, student, evaluate' in capfd.readouterr().err
