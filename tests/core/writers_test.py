import functools
import json
import os
import re
import subprocess
import sys
import types
from pathlib import Path
from typing import ClassVar

import pytest
from support.tracked import OFFLINE, read_tensorboard, read_wandb

from purify.core.errors import Preempted, UserError
from purify.core.writers import WRITERS, JsonLines, Sheet, open_writers, read_rows


def filled(path, steps, step=0):
    writer = JsonLines(path, step)
    for number in steps:
        writer.write('teacher', number, {'loss': 1 / number})
    writer.close()


def test_rows_come_back_as_written(tmp_path):
    filled(tmp_path / 'deep' / 'metrics.jsonl', [10, 20])
    assert read_rows(tmp_path / 'deep' / 'metrics.jsonl') == [
        {'stage': 'teacher', 'step': 10, 'loss': 0.1},
        {'stage': 'teacher', 'step': 20, 'loss': 0.05},
    ]


def test_a_resumed_run_drops_the_rows_it_will_write_again(tmp_path):
    path = tmp_path / 'metrics.jsonl'
    filled(path, [10, 20, 30])
    filled(path, [30, 40], step=20)
    assert [row['step'] for row in read_rows(path)] == [10, 20, 30, 40]


def test_a_line_cut_by_a_kill_is_left_out_and_repaired(tmp_path):
    path = tmp_path / 'metrics.jsonl'
    filled(path, [10, 20])
    whole = path.read_bytes()
    for length in range(len(whole) // 2 + 1, len(whole) - 1):
        path.write_bytes(whole[:length])
        assert [row['step'] for row in read_rows(path)] == [10]
    filled(path, [20], step=10)
    assert path.read_bytes() == whole


def test_every_row_is_on_disk_at_once(tmp_path):
    writer = JsonLines(tmp_path / 'metrics.jsonl', 0)
    writer.write('prior', 1, {'loss': 2.0})
    assert len(read_rows(tmp_path / 'metrics.jsonl')) == 1
    writer.close()


def test_numbers_that_are_not_finite_become_null(tmp_path):
    writer = JsonLines(tmp_path / 'metrics.jsonl', 0)
    writer.write('prior', 1, {'loss': float('nan'), 'accuracy': float('inf'), 'norm': 1.5})
    writer.close()
    row = json.loads((tmp_path / 'metrics.jsonl').read_text(), parse_constant=pytest.fail)
    assert (row['loss'], row['accuracy'], row['norm']) == (None, None, 1.5)


def test_no_file_has_no_rows(tmp_path):
    assert read_rows(tmp_path / 'none.jsonl') == []


@pytest.mark.skipif(not Path('/dev/full').exists(), reason='this system has no /dev/full')
def test_a_full_disk_is_the_users_error_when_writing_and_when_closing(tmp_path):
    writer = JsonLines(tmp_path / 'metrics.jsonl', 0)
    writer.file.close()
    writer.file = open('/dev/full', 'w')  # noqa: SIM115 a real one: every flush fails
    with pytest.raises(UserError, match=r'metrics\.jsonl: the disk is full'):
        writer.write('prior', 1, {'loss': 1.0})
    with pytest.raises(UserError, match=r'metrics\.jsonl: the disk is full'):
        writer.close()


@pytest.mark.parametrize(
    ('data', 'line'),
    [
        (b'\x89PNG\r\n\x1a\n\x00', 'line 1 is'),
        (b'{"stage": "a", "step": 1}\nnonsense\n{"stage": "a", "step": 2}\n', 'line 2 is'),
        (b'{"stage": "a", "step": 1}\n{"step": 2}\n', 'line 2 is .*stage'),
        (b'{"stage": "a", "loss": 2.0}', 'line 1 is .*step'),
        (b'{"stage": "a", "step": "1"}\n', 'line 1 is .*step'),
        (b'{"stage": "a", "step": -1}\n', 'line 1 is .*step'),
        (b'{"stage": 1, "step": 1}\n', 'line 1 is .*stage'),
        (b'{"stage": "a", "step": 1, "loss": [1]}\n', 'line 1 is'),
        (b'[1]\n', 'line 1 is'),
        (b'\xff\xfe\n{"stage": "a", "step": 1}\n', 'line 1 is'),
        (b'{"stage": "a", "step": 1, "loss": 1e999}\n', 'line 1 is'),
        (b'{"stage": "a", "step": 1}\n\x00\x00\x00\n', 'line 2 is'),
    ],
)
def test_what_is_no_row_is_named_and_not_passed_over(tmp_path, data, line):
    (tmp_path / 'metrics.jsonl').write_bytes(data)
    with pytest.raises(UserError, match=rf'metrics\.jsonl: {line}.*Delete the file'):
        read_rows(tmp_path / 'metrics.jsonl')


def test_a_folder_in_the_place_of_the_rows(tmp_path):
    with pytest.raises(UserError, match='cannot be read'):
        read_rows(tmp_path)


@pytest.mark.parametrize(('name', 'package'), [('tensorboard', 'tensorboardX'), ('wandb', 'wandb')])
def test_optional_writers_name_their_extra(tmp_path, monkeypatch, name, package):
    monkeypatch.setitem(sys.modules, package, None)
    said = rf"run.writers has '{name}'.*pip install 'purify\[{name}\]'"
    with pytest.raises(UserError, match=said):
        WRITERS.make(name, tmp_path, 'run', {})


NUMBERS = {'student_acc': 0.75, 'tpr': 0.0, 'cost/teacher': 12.5}
SHEETS = [
    Sheet('before_after', ('measure', 'before', 'after'), [['ACC', 0.5, 0.75], ['ASR', 1.0, None]]),
    Sheet('cost', ('stage', 'seconds'), [['a | b', 12.5]]),
]


def test_tensorboard_shows_every_step_once_after_a_restart(tmp_path):
    # stopped after 30, gone on with from the checkpoint of 10
    for steps, loss in (((10, 20, 30), 1.0), ((20, 30, 40), 2.0)):
        writer = WRITERS.make('tensorboard', tmp_path, 'run', {})
        for step in steps:
            writer.write('teacher', step, {'loss': loss / step, 'accuracy': float('nan')})
            writer.write('prior', step + 100, {'loss': loss})
        writer.close()
    scalars, _ = read_tensorboard(tmp_path / 'tensorboard' / 'run' / 'teacher')
    wanted = [(10, pytest.approx(0.1)), *((step, pytest.approx(2 / step)) for step in (20, 30, 40))]
    assert scalars['teacher/loss'] == wanted
    scalars, _ = read_tensorboard(tmp_path / 'tensorboard' / 'run' / 'prior')
    assert scalars == {'prior/loss': [(110, 1.0), (120, 2.0), (130, 2.0), (140, 2.0)]}


def test_tensorboard_has_rows_on_disk_at_once(tmp_path):
    writer = WRITERS.make('tensorboard', tmp_path, 'run', {})
    writer.write('teacher', 1, {'loss': 2.0})
    wanted = {'teacher/loss': [(1, 2.0)]}
    assert read_tensorboard(tmp_path / 'tensorboard' / 'run' / 'teacher')[0] == wanted
    writer.close()


def test_tensorboard_shows_the_last_results_alone(tmp_path):
    for numbers in (NUMBERS | {'ra': 1.0}, NUMBERS):
        writer = WRITERS.make('tensorboard', tmp_path, 'run', {})
        writer.conclude(numbers, SHEETS)
        writer.close()
    scalars, texts = read_tensorboard(tmp_path / 'tensorboard' / 'run' / 'results')
    assert scalars == {f'results/{name}': [(0, value)] for name, value in NUMBERS.items()}
    assert (
        texts['results/before_after/text_summary']
        == '| measure | before | after |\n| --- | --- | --- |\n| ACC | 0.5 | 0.75 |\n| ASR | 1 |'
        ' – |\n'
    )
    assert texts['results/cost/text_summary'].splitlines()[-1] == '| a \\| b | 12.5 |'


@pytest.fixture
def offline(monkeypatch, tmp_path):
    for name, value in OFFLINE.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv('WANDB_DIR', str(tmp_path))


def test_wandb_keeps_curves_and_results_offline_and_goes_on_with_its_run(offline, tmp_path):
    for steps in ((10, 20), (30,)):
        writer = WRITERS.make('wandb', tmp_path, 'run', {'seeds': {'model': 3}})
        for step in steps:
            writer.write('teacher', step, {'loss': 1 / step})
        writer.conclude(NUMBERS, SHEETS)
        writer.close()
    first, second = read_wandb(tmp_path)
    assert first['id'] == second['id'] == (tmp_path / 'wandb_id').read_text()
    assert (first['name'], first['config']['seeds']) == ('run', {'model': 3})
    assert first['axes'] == {'teacher/*': 'teacher/step'}
    curve = [
        (row['teacher/step'], row['teacher/loss'])
        for run in (first, second)
        for row in run['rows']
        if 'teacher/step' in row
    ]
    assert curve == [(10, 0.1), (20, 0.05), (30, pytest.approx(1 / 30))]
    for run in (first, second):
        assert {name: run['summary'][f'results/{name}'] for name in NUMBERS} == NUMBERS
        assert {
            name: (table['columns'], table['data']) for name, table in run['tables'].items()
        } == {f'results/{sheet.name}': (list(sheet.columns), sheet.rows) for sheet in SHEETS}


class FakeWandB(types.ModuleType):
    """A module that notes how a run was begun, or refuses to begin one."""

    class Error(Exception):
        pass

    def __init__(self, error=None):
        super().__init__('wandb')
        self.error, self.begun, self.Table = error, [], list

    def init(self, **options):
        if isinstance(self.error, Exception):
            raise self.error
        if self.error:
            raise self.Error(self.error)
        self.begun.append(options)


def test_a_name_too_long_for_wandb_keeps_both_its_ends(tmp_path, monkeypatch):
    """Its server refuses more than 128 characters; a sweep's names have 120, a mark and a seed."""
    monkeypatch.setitem(sys.modules, 'wandb', wandb := FakeWandB())
    for length in (128, 129, 200):
        WRITERS.make('wandb', tmp_path, ('attack=patch-' + 'x' * 200)[: length - 6] + '-seed7', {})
    names = [options['name'] for options in wandb.begun]
    assert [len(name) for name in names] == [128] * 3
    assert '…' not in names[0]
    assert all(name.startswith('attack=patch-') and name.endswith('-seed7') for name in names)


def test_wandb_that_does_not_start_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'wandb', FakeWandB('No API key configured.'))
    with pytest.raises(UserError, match=r"run\.writers: 'wandb'.*No API key.*WANDB_MODE=offline"):
        WRITERS.make('wandb', tmp_path, 'run', {})


@pytest.mark.parametrize(
    'error',
    [
        ValueError('mode\n  Input should be online'),
        OSError('no route'),
        KeyError('x'),
        RuntimeError(),
    ],
)
def test_whatever_keeps_wandb_from_starting_is_told_in_a_sentence(tmp_path, monkeypatch, error):
    monkeypatch.setitem(sys.modules, 'wandb', FakeWandB(error))
    said = r"run\.writers: 'wandb' does not start: .+\. Log in with"
    with pytest.raises(UserError, match=said) as caught:
        WRITERS.make('wandb', tmp_path, 'run', {})
    assert '\n' not in str(caught.value)


@pytest.mark.long
def test_a_setting_that_wandb_itself_refuses(tmp_path):
    pytest.importorskip('wandb', reason='the wandb extra is not installed')
    code = (
        'import pathlib, sys; from purify.core.writers import *; WRITERS.make("wandb",'
        ' pathlib.Path(sys.argv[1]), "run", {})'
    )
    # in a process of its own, for wandb reads its settings once
    env = os.environ | {'WANDB_MODE': 'bogus'}
    done = subprocess.run(
        [sys.executable, '-c', code, str(tmp_path)], env=env, capture_output=True, text=True
    )
    assert re.search(
        r"UserError: run\.writers: 'wandb' does not start: .*mode.*bogus",
        done.stderr.splitlines()[-1],
    )


@pytest.mark.parametrize('damage', [b'', b'\xff\x00', b'two words', b'../x'])
def test_a_damaged_mark_of_wandb_begins_a_new_run_and_says_so(
    tmp_path, monkeypatch, capsys, damage
):
    monkeypatch.setitem(sys.modules, 'wandb', wandb := FakeWandB())
    (tmp_path / 'wandb_id').write_bytes(damage)
    WRITERS.make('wandb', tmp_path, 'run', {})
    assert 'wandb_id: holds no id' in capsys.readouterr().err
    assert re.fullmatch('[a-z0-9]{8}', wandb.begun[0]['id'])
    assert wandb.begun[0]['id'] == (tmp_path / 'wandb_id').read_text()


class Recorder:
    """A writer that notes what it gets, and fails where it is told to."""

    def __init__(self, folder, run, config, fails=()):
        self.got, self.fails = [], fails
        self.made.append(self)

    made: ClassVar[list] = []

    def take(self, what):
        self.got.append(what)
        if what in self.fails:
            raise OSError(28, 'No space left on device')

    def write(self, stage, step, row):
        self.take('write')

    def conclude(self, numbers, sheets):
        self.take('conclude')

    def close(self):
        self.take('close')


@pytest.fixture
def recorders(monkeypatch):
    monkeypatch.setattr(Recorder, 'made', [])
    monkeypatch.setitem(WRITERS, 'good', Recorder)
    for what in ('write', 'conclude', 'close'):
        monkeypatch.setitem(WRITERS, f'bad {what}', functools.partial(Recorder, fails=(what,)))
    return Recorder.made


@pytest.mark.parametrize(
    ('what', 'got'),
    [
        ('write', ['write', 'close']),
        ('conclude', ['write', 'write', 'conclude', 'close']),
        ('close', ['write', 'write', 'conclude', 'close']),
    ],
)
def test_a_copy_that_fails_is_said_once_and_stops_nothing(tmp_path, recorders, capsys, what, got):
    with open_writers([f'bad {what}', 'good'], tmp_path, 'run', {}) as writers:
        for _ in range(2):
            for writer in writers:
                writer.write('teacher', 1, {'loss': 1.0})
        for writer in writers:
            writer.conclude({}, [])
    wanted = [got, ['write', 'write', 'conclude', 'close']]
    assert [recorder.got for recorder in recorders] == wanted
    said = capsys.readouterr().err
    assert said.count(f"run.writers: 'bad {what}' failed") == 1
    assert 'No space left' in said


@pytest.mark.parametrize('error', [Preempted, UserError('x'), KeyboardInterrupt])
def test_copies_are_closed_whatever_happens(tmp_path, recorders, error):
    with (
        pytest.raises(type(error) if isinstance(error, Exception) else error),
        open_writers(['good'], tmp_path, 'run', {}),
    ):
        raise error
    assert recorders[0].got == ['close']


def test_copies_that_are_open_are_closed_where_another_is_none(tmp_path, recorders):
    with (
        pytest.raises(UserError, match="unknown writer 'tensorbord'"),
        open_writers(['good', 'tensorbord'], tmp_path, 'run', {}),
    ):
        pytest.fail('entered')
    assert recorders[0].got == ['close']
