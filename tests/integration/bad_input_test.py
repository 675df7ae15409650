"""Bad input through the real command line: exit code 2, a message that names the value and the next
step, no traceback.
"""

import errno
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from purify import cli
from purify.core import devices

pytestmark = pytest.mark.usefixtures('few_devices')

CONFIG = str(Path(__file__).parents[2] / 'configs' / 'quickstart.py')
DIGITS = f'{CONFIG}:defense=none'
CLASSES = ('ant', 'bee', 'cat')
APART = ('--config.source.reference=none', '--config.source.reference_size=0')


@pytest.fixture(autouse=True)
def _no_cache(monkeypatch):
    monkeypatch.setattr(devices, 'use_compilation_cache', lambda: None)


@pytest.fixture
def call(capfd):
    """The command line in this process -> exit code, everything it printed."""

    def run(command, config, *flags):
        try:
            code = cli.main([command, '--config', config, *flags])
        except SystemExit as error:  # argparse's own
            code = error.code
        captured = capfd.readouterr()
        return code, captured.out + captured.err

    return run


def assert_refused(result, *fragments):
    code, text = result
    assert code == 2, text
    assert 'Traceback' not in text
    assert 'Error:' not in text, 'the name of an exception is no help'
    for fragment in fragments:
        assert fragment in text


# ------------------------------------------------------------------ what is wrong with the images


def good_arrays():
    return {'images': np.zeros((30, 8, 8, 3), np.uint8), 'labels': np.arange(30) % 3}


def arrays(folder, train, test=None):
    np.savez(folder / 'train.npz', **train)
    np.savez(folder / 'test.npz', **(good_arrays() if test is None else test))
    return f'{CONFIG}:defense=none,source=arrays:{folder},size_px=8'


def changed(**arrays_):
    return lambda folder: arrays(folder, good_arrays() | arrays_)


def pictures(folder, names=CLASSES):
    for split in ('train', 'test'):
        for k, name in enumerate(names):
            (folder / split / name).mkdir(parents=True)
            for i in range(6):
                Image.new('RGB', (10, 9), (40 * k, 10 * i, 7)).save(
                    folder / split / name / f'{i}.png'
                )
    return f'{CONFIG}:defense=none,source=imagefolder:{folder},size_px=8'


def cut_picture(folder):
    config = pictures(folder)
    path = folder / 'train' / 'bee' / '3.png'
    path.write_bytes(path.read_bytes()[:50])
    return config


def class_in_one_split(folder):
    config = pictures(folder)
    (folder / 'train' / 'dog').mkdir()
    Image.new('RGB', (9, 9)).save(folder / 'train' / 'dog' / '0.png')
    return config


def misspelt_test(folder):
    config = pictures(folder)
    (folder / 'test').rename(folder / 'tset')
    return config


def alike(folder):
    return pictures(folder, ('ant', 'caf\u00e9', 'cafe\u0301'))


def not_utf8(folder):
    return pictures(folder, ('ant', os.fsdecode(b'caf\xe9')))


def no_files(folder):
    return f'{CONFIG}:defense=none,source=arrays:{folder / "none"},size_px=8'


def names_differ(folder):
    return arrays(
        folder,
        good_arrays() | {'class_names': list('abc')},
        good_arrays() | {'class_names': list('acb')},
    )


IMAGES = {
    'class in training alone': (
        class_in_one_split,
        ["'train' and 'test' differ: dog", 'Both need every class'],
    ),
    'test folder by another name': (
        misspelt_test,
        ["a folder 'train', but none of test images", 'source.test='],
    ),
    'names alike': (
        alike,
        [
            'differ in their Unicode form alone',
            'c a f e U+0301',
            'c a f U+00E9',
            'Rename all but one',
        ],
    ),
    'name not UTF-8': (not_utf8, ["class name b'caf\\xe9' is not UTF-8", 'Rename it']),
    'one class': (
        lambda folder: pictures(folder, ('ant',)),
        ['training images have one class', 'needs at least two'],
    ),
    'no folder': (
        lambda folder: f'{CONFIG}:defense=none,source=imagefolder:{folder / "none"}',
        [
            'none: no such folder',
            'needs train/<class>/ and test/<class>/',
            'or <class>/ folders alone',
        ],
    ),
    'missing file': (no_files, ['none/train.npz: no such file', 'needs train.npz and test.npz']),
    'wrong channels': (
        changed(images=np.zeros((30, 8, 8, 4), np.uint8)),
        ['train.npz: images have 4 channels, but source.channels=3', 'convert the images'],
    ),
    'disagreeing sizes': (
        changed(labels=np.arange(29) % 3),
        ['train.npz: 30 images but 29 labels', 'must agree'],
    ),
    'durations': (
        changed(labels=(np.arange(30) % 3).astype('timedelta64[s]')),
        ['labels are timedelta64[s][30]', 'must be integers'],
    ),
    'names that are no text': (
        changed(class_names=np.array([b'a', b'caf\xe9', b'c'])),
        ["train.npz: the class name b'caf\\xe9' is not UTF-8", 'Store class_names as texts'],
    ),
    'scaled to one': (
        changed(images=np.ones((30, 8, 8, 3), np.uint8)),
        ['train.npz: no value of images is above 1', 'np.round(255 * images)'],
    ),
    'duplicate ids': (
        changed(ids=np.arange(30) // 2),
        ['training ids occur more than once', 'must be unique'],
    ),
    'NaN': (
        changed(images=np.full((30, 8, 8, 3), np.nan)),
        ['train.npz: images hold NaN', 'store uint8 0..255'],
    ),
    'pickled': (
        changed(images=np.array([{'a': 1}] * 30, object)),
        ['train.npz: not a readable npz file without pickles', 'Write it again with np.savez'],
    ),
    'missing class': (
        changed(labels=np.arange(30) % 2 * 2),
        ['no training images of class 1', 'Add some or choose source.classes'],
    ),
    'labels from one': (
        changed(labels=np.arange(30) % 3 - 1),
        ['labels run from -1 to 1', 'must lie in 0 to'],
    ),
    'class names differ': (
        names_differ,
        ["train.npz has ['a', 'b', 'c'], test.npz has ['a', 'c', 'b']", 'Make them equal'],
    ),
}


@pytest.mark.long
@pytest.mark.parametrize('case', IMAGES)
def test_bad_images_are_refused_by_run_and_by_check(case, tmp_path, call):
    make, fragments = IMAGES[case]
    config, workdir = make(tmp_path), tmp_path / 'run'
    assert_refused(call('run', config, *APART, f'--workdir={workdir}'), 'purify: ', *fragments)
    assert not list(workdir.glob('stages/*/DONE'))
    assert_refused(call('check', config, *APART), 'problem: source: ', *fragments)


@pytest.mark.long
def test_a_cut_picture_is_found_before_anything_is_trained(tmp_path, call):
    config, workdir = cut_picture(tmp_path), tmp_path / 'run'
    fragments = (
        'purify: ',
        'train/bee/3.png: not a readable picture',
        'Repair or remove the file and start again',
    )
    assert_refused(call('run', config, *APART, f'--workdir={workdir}'), *fragments)
    assert not list(workdir.glob('stages/teacher-*'))
    Image.new('RGB', (10, 9)).save(tmp_path / 'train' / 'bee' / '3.png')
    code, text = call('run', config, *APART, f'--workdir={workdir}', '--stages=prepare')
    assert code == 0, text


@pytest.mark.long
def test_what_is_peculiar_or_left_out_is_counted_by_the_run(tmp_path, call):
    config = pictures(tmp_path)
    for i in range(4):
        Image.new('RGBA', (10, 9)).save(tmp_path / 'train' / 'bee' / f'{i}.png')
    (tmp_path / 'test' / 'cat' / 'notes.txt').write_text('no picture')
    code, text = call('run', config, *APART, f'--workdir={tmp_path / "run"}', '--stages=prepare')
    assert code == 0, text
    assert f'{tmp_path}/test: left out 1 files that are no pictures (cat/notes.txt).' in text
    wanted = 'source imagefolder: 4 of the pictures read: transparent in places, shown on white.'
    assert wanted in text


# ------------------------------------------------------------------ what is wrong with the settings

SETTINGS = {
    'target': (['--config.attack.target=10'], ['target=10 is not a class', '0 to 9']),
    'negative target': (['--config.attack.target=-1'], ['target=-1', '0']),
    'rate above one': (
        ['--config.attack.rate=1.5'],
        ['rate=1.5 must be a number of at least 0 and at most 1.'],
    ),
    'rate too high': (
        ['--config.attack.rate=0.97'],
        ['rate=0.97 of 800 samples', 'Lower the rate, or set include_target'],
    ),
    'rate too low': (
        ['--config.attack.rate=0.0001'],
        ['rate=0.0001 of 800 samples', 'rounds to 0', 'Raise the rate'],
    ),
    'patch too large': (
        ['--config.attack.size_px=17'],
        ['size_px=17', '16 x 16', 'Lower size_px or margin_px'],
    ),
    'unknown colour': (
        ["--config.attack.colours=('blak','white')"],
        ["unknown colour 'blak'", 'Choose from: black'],
    ),
    'unknown attack': (
        ['--config.attack.name=pach'],
        ["unknown attack 'pach'. Did you mean 'patch'?", 'Choose from: adaptive_blend'],
    ),
    'unknown source': (
        ['--config.source.name=digit'],
        ["unknown source 'digit'. Did you mean 'digits'?", 'arrays'],
    ),
    'too many images': (
        ['--config.source.train_size=801'],
        ['801 training images asked, but there are 800'],
    ),
    'colour digits': (['--config.source.channels=3'], ['source.channels must be 1, not 3']),
}


@pytest.mark.long
@pytest.mark.parametrize('case', SETTINGS)
def test_bad_settings_are_refused_by_run_and_by_check(case, tmp_path, call):
    flags, fragments = SETTINGS[case]
    assert_refused(
        call('run', DIGITS, *flags, f'--workdir={tmp_path / "run"}'), 'purify: ', *fragments
    )
    assert not list(tmp_path.glob('run/stages/*/DONE'))
    assert_refused(call('check', DIGITS, *flags), 'problem: ', *fragments)


def test_an_unknown_attack_hides_no_other_mistake(call):
    flags = ['--config.attack.name=pach', '--config.evaluation.features=nowhere']
    config = DIGITS.replace('defense=none', 'defense=variations')
    assert_refused(call('check', config, *flags), "unknown attack 'pach'", 'nowhere')


def test_an_unknown_dataset_of_tfds(tmp_path, call):
    config = f'{DIGITS},source=tfds:cifar1O'
    assert_refused(
        call('run', config, *APART, f'--workdir={tmp_path}'),
        'purify: source: tfds:cifar1O: TFDS knows no such dataset',
    )
    assert_refused(
        call('check', config, *APART), 'problem: source: tfds:cifar1O: TFDS knows no such dataset'
    )


WORDS = {
    'unknown attack word': (
        [f'{DIGITS},attack=blend'],
        ["attack='blend': choose from adaptive_blend"],
    ),
    'unknown defence word': (
        [f'{CONFIG}:defense=variation'],
        ["defense='variation': choose from abl,", 'variations.'],
    ),
    'unknown word': (
        [f'{DIGITS},atack=none'],
        ["unknown word 'atack'", "Did you mean 'attack'?", 'This config takes: attack'],
    ),
    'word of another type': (
        [f'{DIGITS},rate=high'],
        ["rate='high': must be a number from 0 to 1, or 'usual'"],
    ),
    'unknown setting': (
        [DIGITS, '--config.atack.rate=0.1'],
        ['--config.atack.rate', 'Did you mean --config.attack.rate?'],
    ),
    'setting of another type': (
        [DIGITS, '--config.attack.size_px=big'],
        ['--config.attack.size_px=big: must be of type int, like 3'],
    ),
    'setting that is no number': (
        [DIGITS, '--config.attack.rate=nan'],
        ['--config.attack.rate=nan: must be a finite number'],
    ),
    'batch of none': (
        [DIGITS, '--config.teacher.batch=0'],
        ['--config.teacher.batch=0: must be 1 or more'],
    ),
    'negative seed': ([f'{DIGITS},seed=-1'], ['seeds', '=-1: must be from 0 to 4294967295']),
    'no shards': ([DIGITS, '--config.shard_size=0'], ['--config.shard_size=0: must be 1 or more']),
    'no threads': (
        [DIGITS, '--config.run.threads=0'],
        ['--config.run.threads=0: must be 1 or more'],
    ),
    'unknown type of numbers': (
        [DIGITS, '--config.teacher.network.dtype=float17'],
        ['float17: choose from bfloat16, float16, float32'],
    ),
    'unknown flag': (
        [DIGITS, '--wrkdir=x'],
        ["unknown argument '--wrkdir=x'. Did you mean --workdir?"],
    ),
    'flag without a value': (
        [DIGITS, '--config.attack.rate', '0.1'],
        ["'--config.attack.rate'", '--config.part.name=value'],
    ),
    'stray argument': (
        [DIGITS, 'rate=0.1'],
        ["unknown argument 'rate=0.1'", '--config.part.name=value'],
    ),
    'missing config': (
        [CONFIG.replace('quick', 'slow')],
        ['slowstart.py: no such file', 'There are: ', 'quickstart.py'],
    ),
    'config that is none': (
        [str(Path(CONFIG).parents[1] / 'pyproject.toml')],
        ['pyproject.toml: not a Python file'],
    ),
}


@pytest.mark.parametrize('case', WORDS)
@pytest.mark.parametrize('command', ['run', 'check', 'list'])
def test_mistakes_on_the_command_line(case, command, tmp_path, call):
    arguments, fragments = WORDS[case]
    assert_refused(
        call(command, *arguments, f'--workdir={tmp_path / "run"}'), 'purify: ', *fragments
    )
    assert not (tmp_path / 'run').exists()


@pytest.mark.parametrize(
    ('arguments', 'fragments'),
    [
        (['run', '--config', DIGITS], ['--workdir is missing', '--help']),
        (['run', '--workdir', 'x'], ['--config is missing']),
        (['check'], ['--config is missing']),
        (['report'], ['--workdir is missing']),
        (['report', '--wrkdir', 'x'], ['Did you mean --workdir?']),
        (['list', '--sweep', 'start'], ['--config is missing']),
        (
            ['list', '--config', DIGITS, '--sweep', 'strt'],
            ['--sweep strt', 'offers ablation, attack, start'],
        ),
        (
            ['list', '--config', DIGITS, '--sweep', 'start', '--seeds', '0,x'],
            ['--seeds 0,x', 'like 0,1,2'],
        ),
        (['list', '--config', 'none.py', '--sweep', 'start'], ['none.py: no such file']),
        (['train'], ["invalid choice: 'train'", 'run']),
        (['run', '--hosts', 'two'], ["--hosts: invalid int value: 'two'"]),
    ],
)
def test_what_is_missing_or_misspelt(arguments, fragments, capfd):
    try:
        code = cli.main(arguments)
    except SystemExit as error:
        code = error.code
    captured = capfd.readouterr()
    text = captured.err.replace('error: argument ', 'purify: ')  # argparse's own words
    assert_refused((code, text), 'purify: ', *fragments)


def test_a_stage_there_is_not(tmp_path, call):
    assert_refused(
        call('run', DIGITS, f'--workdir={tmp_path}', '--stages=teach'),
        'no stage teach',
        'Its stages: prepare, teacher, evaluate',
    )


def test_a_stage_whose_input_is_not_there(tmp_path, call):
    assert_refused(
        call('run', DIGITS, f'--workdir={tmp_path}', '--stages=teacher'),
        "'teacher' needs 'prepare'",
        'add it to --stages',
    )


def test_half_a_cluster(tmp_path, call):
    assert_refused(
        call('run', DIGITS, f'--workdir={tmp_path}', '--hosts=2'),
        '--hosts=2',
        '--coordinator=auto alone',
    )


# ------------------------------------------------------------------ networks from outside


@pytest.mark.long
def test_unknown_weights_of_a_prior(tmp_path, call):
    for load in ('no_such_folder', str(tmp_path / 'none')):
        flags = [CONFIG, f'--config.prior.load={load}']
        assert_refused(call('run', *flags, f'--workdir={tmp_path / "run"}'), 'purify: ', load)
        assert_refused(call('check', *flags), 'problem: ', load)
    assert not list(tmp_path.glob('run/stages/*'))


@pytest.mark.long
def test_a_prior_without_safe_weights(tmp_path, call):
    (tmp_path / 'unet').mkdir()
    (tmp_path / 'unet' / 'config.json').write_text('{"_class_name": "UNet2DModel"}')
    (tmp_path / 'unet' / 'diffusion_pytorch_model.bin').write_bytes(b'\x80\x04.')
    flags = [CONFIG, f'--config.prior.load={tmp_path}']
    assert_refused(
        call('run', *flags, f'--workdir={tmp_path / "run"}'), str(tmp_path), 'safetensors'
    )
    assert_refused(call('check', *flags), str(tmp_path), 'safetensors')


def test_unknown_weights_of_a_classifier(tmp_path, call):
    (tmp_path / 'file').write_text('')
    for path in (tmp_path / 'none', tmp_path / 'file'):
        flags = [DIGITS, f'--config.teacher.load={path}']
        fragments = f'{path}/network.json: ', 'folder'
        assert_refused(call('run', *flags, f'--workdir={tmp_path / "run"}'), 'purify: ', *fragments)
        assert_refused(call('check', *flags), 'problem: ', *fragments)


# ------------------------------------------------------------------ where the results go


@pytest.mark.long
@pytest.mark.parametrize('flag', ['--workdir', '--store'])
def test_a_file_where_a_folder_should_be(flag, tmp_path, call):
    (tmp_path / 'taken').write_text('mine')
    flags = [f'--workdir={tmp_path / "run"}'] if flag == '--store' else []
    result = call('run', DIGITS, *flags, f'{flag}={tmp_path / "taken"}')
    assert_refused(
        result, 'purify: ', str(tmp_path / 'taken'), 'cannot be made', 'choose another --workdir'
    )
    assert (tmp_path / 'taken').read_text() == 'mine'


def test_a_folder_that_may_not_be_written(tmp_path, call, monkeypatch):
    access = os.access
    monkeypatch.setattr(
        os, 'access', lambda path, mode: str(path) != str(tmp_path) and access(path, mode)
    )
    assert_refused(
        call('run', DIGITS, f'--workdir={tmp_path}'),
        f'{tmp_path}: cannot write here',
        'Choose a --workdir you own',
    )


def full_after(monkeypatch, count):
    """Renaming works `count` times, and then the disk is full."""
    replace, done = os.replace, []

    def rename(source, target, **options):
        done.append(target)
        if len(done) > count:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return replace(source, target, **options)

    monkeypatch.setattr(os, 'replace', rename)


@pytest.mark.long
@pytest.mark.parametrize('count', [0, 3, 9])
def test_a_full_disk_keeps_what_is_finished(count, tmp_path, call, monkeypatch):
    flags = [DIGITS, f'--workdir={tmp_path}', '--stages=prepare', '--config.source.train_size=300']
    flags += ['--config.source.reference=none']
    with monkeypatch.context() as patch:
        full_after(patch, count)
        assert_refused(
            call('run', *flags),
            'the disk is full',
            'What is finished is kept',
            'free some space',
            'same command',
        )
    assert not list(tmp_path.rglob('*.part'))
    kept = {path: path.stat().st_mtime_ns for path in tmp_path.rglob('*.array_record-*')}
    assert bool(kept) == (count == 9)
    code, text = call('run', *flags)
    assert code == 0, text
    assert all(path.stat().st_mtime_ns == time for path, time in kept.items())
    assert len(list(tmp_path.rglob('*.array_record-*'))) > len(kept)


def test_a_stop_is_told_from_a_failure(tmp_path, call, monkeypatch):
    import signal

    from purify.data import images

    encode = images.encode_png

    def interrupted(image):
        os.kill(os.getpid(), signal.SIGTERM)
        return encode(image)

    monkeypatch.setattr('purify.data.builders.encode_png', interrupted)
    code, text = call('run', DIGITS, f'--workdir={tmp_path}')
    assert code == 75, text
    assert 'all finished work is saved. The same command goes on from here' in text
    assert 'Traceback' not in text


@pytest.mark.long
def test_the_message_is_all_there_is_in_a_real_process(tmp_path):
    import subprocess

    line = [sys.executable, '-m', 'purify', 'run', '--config', DIGITS, '--workdir', str(tmp_path)]
    line += ['--config.attack.target=12']
    done = subprocess.run(line, cwd=Path(CONFIG).parents[1], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stdout == ''
    wanted = ['purify: attack: attack.target=12 is not a class; choose 0 to 9.']
    assert done.stderr.strip().splitlines() == wanted
