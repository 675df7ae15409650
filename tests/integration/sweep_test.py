"""launch/sweep.py on a stand-in for purify that only notes what it is asked, and `purify list`,
which says what the runs are.
"""
# ruff: noqa: E501  (programs and files as text)

import json
import os
import runpy
import signal
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import pytest

from purify.cli import main
from purify.commands.list import list_points
from purify.core.errors import UserError
from purify.report.results import Results

ROOT = Path(__file__).resolve().parents[2]
REQUIRED = {field.encode_name for field in msgspec.structs.fields(Results) if field.required}
QUICKSTART = str(ROOT / 'configs' / 'quickstart.py')

STAND_IN = (
    f"""
KEYS = {sorted(REQUIRED)}
"""
    + """
import json, os, pathlib, signal, sys, time
command, args = sys.argv[1], sys.argv[2:]
config = args[args.index('--config') + 1] if '--config' in args else ''
workdir = pathlib.Path(args[args.index('--workdir') + 1]) if '--workdir' in args else None
if command == 'list':
    for i, seed in ((i, s) for i in range(3) for s in args[args.index('--seeds') + 1].split(',')):
        flags = [f'--config.x={i}', *[a for a in args if a.startswith('--config.')]]
        run = {'name': f'x={i}-seed{seed}', 'point': {'config.x': i}, 'seed': int(seed), 'config': config, 'file': config.partition(':')[0], 'flags': flags}
        print(json.dumps(run))
elif command == 'report':
    print('table of', sorted(json.loads(f.read_text())['point']['config.x'] for f in workdir.rglob('point.json')))
else:
    with open(workdir / 'calls.jsonl', 'a') as calls:
        gpu = {k: v for k, v in os.environ.items() if k in ('CUDA_VISIBLE_DEVICES', 'XLA_PYTHON_CLIENT_MEM_FRACTION')}
        calls.write(json.dumps({'args': args, 'gpu': gpu, 'point': json.loads((workdir / 'point.json').read_text())}) + chr(10))
    behaviour = json.loads(os.environ.get('STAND_IN', '{}')).get(workdir.name, 0)
    if behaviour == 'wait':
        def stop(*_):
            print('told to stop', flush=True)
            time.sleep(0.5 if workdir.name == 'x=0-seed0' else 0)
            sys.exit(75)
        signal.signal(signal.SIGTERM, stop)
        print('ready', flush=True)
        time.sleep(30)
    if behaviour:
        print('first words')
        print('the reason, at last')
        sys.exit(behaviour)
    settings = [config, *[a for a in args if a.startswith('--config.')]]
    (workdir / 'overrides.json').write_text(json.dumps(settings))
    (workdir / 'results.json').write_text(json.dumps(dict.fromkeys(KEYS)))
"""
)


@pytest.fixture
def sweep(tmp_path, monkeypatch):
    """Calls sweep.py for tmp_path/out; the stand-in does as told by run: an exit code or 'wait'."""
    (tmp_path / 'stand_in.py').write_text(STAND_IN)
    monkeypatch.setenv('PURIFY_COMMAND', f'{sys.executable} {tmp_path / "stand_in.py"}')

    def start(*flags, behaviour=None):
        command = [
            sys.executable,
            str(ROOT / 'launch' / 'sweep.py'),
            '--config',
            'c.py',
            '--workdir',
            str(tmp_path / 'out'),
            *flags,
        ]
        env = os.environ | {'STAND_IN': json.dumps(behaviour or {})}
        return subprocess.Popen(
            command,
            env=env,
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(*flags, behaviour=None):
        process = start(*flags, behaviour=behaviour)
        return process.communicate(timeout=60)[0], process.returncode

    run.start, run.out = start, tmp_path / 'out'
    return run


def calls(out: Path) -> dict[str, list[dict]]:
    """What the stand-in was asked to run, by name of the run."""
    return {
        path.parent.name: [json.loads(line) for line in path.read_text().splitlines()]
        for path in out.glob('points/*/calls.jsonl')
    }


def test_a_dry_run_prints_the_product_and_touches_nothing(sweep):
    said, code = sweep('--seeds', '0,7', '--dry-run')
    assert code == 0
    wanted = [['open', f'x={i}-seed{s}'] for i in range(3) for s in (0, 7)]
    assert [line.split()[1:] for line in said.splitlines()] == wanted
    assert not sweep.out.exists()


def test_every_run_has_its_folder_and_all_share_one_store(sweep):
    said, code = sweep('--seeds', '4', '-j', '2', '--config.y=5')
    assert code == 0
    assert said.splitlines()[-1] == 'table of [0, 1, 2]'
    asked = calls(sweep.out)
    assert sorted(asked) == ['x=0-seed4', 'x=1-seed4', 'x=2-seed4']
    (call,) = asked['x=1-seed4']
    folder = sweep.out / 'points' / 'x=1-seed4'
    places = ['--workdir', str(folder), '--store', str(sweep.out / 'stages')]
    assert call['args'] == ['--config', 'c.py', '--config.x=1', '--config.y=5', *places]
    assert call['point'] == {'point': {'config.x': 1}, 'seed': 4}  # written before the run starts


@pytest.mark.long
@pytest.mark.parametrize('name', ['overrides.json', 'results.json'])
@pytest.mark.parametrize(
    'damage', [b'', b'[cut', b'\xff\xfe\x00', b'[' * 100_000, b'{}', b'[]', b'5', b'{"teacher": 3}']
)
def test_a_run_whose_files_are_damaged_is_not_done(sweep, name, damage):
    sweep()
    damaged = sweep.out / 'points' / 'x=1-seed0'
    times = {path: path.stat().st_mtime for path in damaged.iterdir()}
    (damaged / name).write_bytes(damage)
    for path, when in times.items():
        os.utime(path, (when, when))  # so that it is not the dates that tell
    said, code = sweep()
    assert code == 0
    wanted = ['started: x=1-seed0']
    assert [line for line in said.splitlines() if line.startswith('started')] == wanted


@pytest.mark.long
@pytest.mark.parametrize('damage', [b'[]', b'{"point": {"config.x": 9}, "seed": 0}', None])
def test_the_point_of_a_finished_run_is_written_again(sweep, damage):
    sweep()
    point = sweep.out / 'points' / 'x=1-seed0' / 'point.json'
    if damage is None:
        point.unlink()
    else:
        point.write_bytes(damage)
    said, code = sweep()
    assert (code, 'started' in said) == (0, False)
    assert json.loads(point.read_text()) == {'point': {'config.x': 1}, 'seed': 0}
    assert said.splitlines()[-1] == 'table of [0, 1, 2]'


def test_a_result_is_known_by_the_keys_that_purify_writes():
    assert runpy.run_path(str(ROOT / 'launch' / 'sweep.py'))['RESULTS'] == REQUIRED


@pytest.mark.parametrize(
    ('text', 'number'),
    [(b'', '0'), (b'nonsense\n', '0'), (b'{"command": ["true"]}\n', '1'), (b'[1]\n', '0')],
)
def test_an_array_task_without_a_run_says_so(sweep, tmp_path, text, number):
    (tmp_path / 'points.jsonl').write_bytes(text)
    said, code = sweep('--run-point', str(tmp_path / 'points.jsonl'), number)
    assert code == 1
    assert said.startswith(f'sweep: {tmp_path / "points.jsonl"}: holds no run {number}')


def test_an_unknown_user_s_folder_is_refused_in_a_sentence(sweep):
    said, code = sweep('--workdir', '~nobody-of-that-name/x')
    assert code == 2
    assert 'Write the path out in full' in said
    assert 'Traceback' not in said


@pytest.mark.long
def test_finished_runs_are_skipped_unless_their_settings_changed(sweep):
    sweep()
    said, code = sweep()
    assert code == 0
    assert 'started' not in said
    assert said.splitlines()[-1] == 'table of [0, 1, 2]'
    assert [len(asked) for asked in calls(sweep.out).values()] == [1, 1, 1]
    sweep('--config.y=6')
    assert [len(asked) for asked in calls(sweep.out).values()] == [2, 2, 2]


def test_a_run_that_fails_is_reported_and_the_others_finish(sweep):
    said, code = sweep(behaviour={'x=1-seed0': 3})
    assert code == 1
    assert 'failed: x=1-seed0: the reason, at last' in said
    assert 'failed: x=0-seed0' not in said
    assert (sweep.out / 'points' / 'x=2-seed0' / 'results.json').exists()
    assert 'first words' in (sweep.out / 'logs' / 'x=1-seed0.log').read_text()


def test_a_run_that_was_stopped_stops_the_sweep_with_75(sweep):
    said, code = sweep(behaviour={'x=1-seed0': 75})
    assert code == 75
    assert 'stopped: x=1-seed0' in said
    assert sorted(calls(sweep.out)) == ['x=0-seed0', 'x=1-seed0']


@pytest.mark.long
@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT])
def test_signals_reach_the_runs(sweep, number):
    process = sweep.start('-j', '2', behaviour={'x=0-seed0': 'wait', 'x=1-seed0': 'wait'})
    logs, begun = [sweep.out / 'logs' / f'x={i}-seed0.log' for i in (0, 1)], time.monotonic()
    while not all(log.exists() and 'ready' in log.read_text() for log in logs):
        assert time.monotonic() - begun < 30
        time.sleep(0.05)
    process.send_signal(number)
    said = process.communicate(timeout=20)[0]
    assert process.returncode == 75
    assert 'stopped: x=0-seed0' in said
    assert 'stopped: x=1-seed0' in said
    # the end of one does not tell the other again
    assert [log.read_text().count('told to stop') for log in logs] == [1, 1]
    assert 'x=2-seed0' not in calls(sweep.out)


def test_devices_are_handed_out_in_turn(sweep):
    sweep('--devices', '3,5', '-j', '4', '--seeds', '0,1')
    seen = [call['gpu'] for asked in calls(sweep.out).values() for call in asked]
    assert {gpu['CUDA_VISIBLE_DEVICES'] for gpu in seen} == {'3', '5'}
    assert {gpu['XLA_PYTHON_CLIENT_MEM_FRACTION'] for gpu in seen} == {'0.450'}  # two on a device


@pytest.mark.long
def test_slurm_gets_the_open_runs_as_an_array(sweep, tmp_path, monkeypatch):
    sweep(behaviour={'x=0-seed0': 3, 'x=2-seed0': 3})
    (tmp_path / 'sbatch').write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" > {tmp_path}/submitted\n')
    (tmp_path / 'sbatch').chmod(0o755)
    monkeypatch.setenv('PATH', f'{tmp_path}:{os.environ["PATH"]}')
    said, code = sweep('--slurm=--gpus=1 --time=2:00:00')
    assert code == 0
    assert not (tmp_path / 'submitted').exists()
    assert 'sbatch --array=0,2 ' in said
    assert sweep('--slurm=--gpus=1 --time=2:00:00', '--submit')[1] == 0
    points = str(sweep.out / 'points.jsonl')
    array, output, *rest = (tmp_path / 'submitted').read_text().splitlines()
    assert array == '--array=0,2'
    assert output == f'--output={sweep.out}/logs/slurm-%A_%a.log'
    wanted = ['--gpus=1', '--time=2:00:00', str(ROOT / 'launch' / 'slurm_array.sbatch'), points]
    wanted += [str(ROOT)]
    assert rest == wanted
    command = [sys.executable, str(ROOT / 'launch' / 'sweep.py'), '--run-point', points, '2']
    assert subprocess.run(command, cwd=tmp_path, stdout=subprocess.DEVNULL).returncode == 0
    found = [len(calls(sweep.out)[name]) for name in ('x=0-seed0', 'x=1-seed0', 'x=2-seed0')]
    assert found == [1, 1, 2]


@pytest.mark.long
def test_what_purify_refuses_is_not_started(tmp_path):
    command = [sys.executable, 'launch/sweep.py', '--config', 'configs/quickstart.py', '--sweep']
    command += ['strat', '--workdir', str(tmp_path)]
    refused = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert refused.returncode == 2
    assert 'offers ablation, attack, start' in refused.stderr
    assert not any(tmp_path.iterdir())


def listed(capsys, *args):
    """The runs of `purify list`."""
    spec, sweep, seeds, *others = args
    flags = ['--config', spec, '--sweep', sweep, '--seeds', seeds]
    assert main(['list', *flags, *(others[0] if others else ())]) == 0
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_list_multiplies_sweeps_and_seeds(capsys):
    runs = listed(
        capsys, f'{QUICKSTART}:rate=0.05', 'attack,start', '0,1', ['--config.teacher.epochs=3']
    )
    assert len({run['name'] for run in runs}) == len(runs) == 3 * 3 * 2
    assert runs[1] == {
        'name': 'attack=patch-defense.vary.start=150-seed1',
        'point': {'attack': 'patch', 'config.defense.vary.start': 150},
        'seed': 1,
        'config': f'{QUICKSTART}:rate=0.05,attack=patch,seed=1',
        'file': QUICKSTART,
        'flags': ['--config.teacher.epochs=3', '--config.defense.vary.start=150'],
    }


def test_list_multiplies_sweeps_over_different_words(capsys):
    runs = listed(capsys, QUICKSTART, 'attack,ablation', '', [])
    wanted = f'{QUICKSTART}:attack=blended,defense=variations,distill=False,seed=0'
    assert runs[4]['config'] == wanted
    assert [run['name'] for run in listed(capsys, QUICKSTART, '', '0,1', [])] == ['seed0', 'seed1']


def test_list_names_runs_so_that_they_can_be_folders(capsys, tmp_path):
    config = (ROOT / 'configs' / 'quickstart.py').read_text()
    paths = ['a/b', 'a b', 'x' * 300]
    (tmp_path / 'c.py').write_text(
        f'{config}\n\ndef sweep_path():\n    yield from ({{"config.teacher.load": p}} for p in'
        f' {paths})\n'
    )
    names = [run['name'] for run in listed(capsys, str(tmp_path / 'c.py'), 'path', '', [])]
    assert len(set(names)) == 3
    assert all('/' not in name and ' ' not in name and len(name) < 150 for name in names)


def test_a_config_by_name_is_known_by_its_file(capsys):
    assert listed(capsys, 'quickstart', '', '0', [])[0]['file'] == QUICKSTART


@pytest.mark.parametrize(
    ('spec', 'sweeps', 'seeds', 'flags', 'message'),
    [
        (QUICKSTART, 'strat', '0', [], 'offers ablation, attack, start'),
        (QUICKSTART, 'start,start', '0', [], 'both set config.defense.vary.start'),
        (QUICKSTART, 'start', '0,0', [], 'comes more than once'),
        (QUICKSTART, 'start', '0,a', [], '--seeds 0,a'),
        (f'{QUICKSTART}:seed=1', 'start', '0', [], 'with --seeds'),
        (
            QUICKSTART,
            'start',
            '0',
            ['--config.teacher.epoch=3'],
            'Did you mean --config.teacher.epochs',
        ),
        (
            f'{QUICKSTART}:defense=none',
            'start',
            '0',
            [],
            'unknown setting --config.defense.vary.start',
        ),
        ('nowhere.py', 'start', '0', [], 'no such file'),
    ],
)
def test_list_refuses_a_sweep_with_a_mistake(spec, sweeps, seeds, flags, message):
    with pytest.raises(UserError) as refusal:
        list_points(spec, sweeps, seeds, flags)
    assert message in str(refusal.value)
