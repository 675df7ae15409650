import json
import sys
from pathlib import Path

import pytest

from purify.core.errors import UserError
from purify.core.writers import WRITERS, JsonLines, read_rows


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


@pytest.mark.parametrize(('name', 'package'), [('tensorboard', 'tensorboardX'), ('wandb', 'wandb')])
def test_optional_writers_name_their_extra(tmp_path, monkeypatch, name, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UserError, match=rf"run.writers has '{name}'.*pip install 'purify\[{name}\]'"):
        WRITERS.make(name, tmp_path, 'run')


def test_tensorboard_gets_scalars_by_stage(tmp_path, monkeypatch):
    written = []

    class Summaries:
        def __init__(self, folder):
            self.folder = folder

        def add_scalar(self, name, value, step):
            written.append((name, value, step))

        def close(self):
            written.append('closed')

    monkeypatch.setitem(sys.modules, 'tensorboardX', type(sys)('tensorboardX'))
    sys.modules['tensorboardX'].SummaryWriter = Summaries
    writer = WRITERS.make('tensorboard', tmp_path, 'run')
    writer.write('teacher', 5, {'loss': 0.5})
    writer.close()
    assert writer.writer.folder == str(tmp_path / 'tensorboard' / 'run')
    assert written == [('teacher/loss', 0.5, 5), 'closed']
