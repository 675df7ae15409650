import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from purify.core import locks, preemption
from purify.core.errors import Preempted, UserError

ROOT = Path(__file__).parents[2]
HOLDER = """
import sys
from pathlib import Path
from purify.core.locks import locked
with locked(Path(sys.argv[1]), lambda: print('waits', flush=True)):
    print('has it', flush=True)
    sys.stdin.read()
"""


def holder(path):
    pipes = {'stdin': subprocess.PIPE, 'stdout': subprocess.PIPE, 'text': True, 'cwd': ROOT}
    return subprocess.Popen([sys.executable, '-c', HOLDER, str(path)], **pipes)


def test_a_second_process_waits_for_the_lock_and_a_killed_one_frees_it(tmp_path):
    path = tmp_path / 'deep' / 'x.lock'
    with locks.locked(path):
        second = holder(path)
        assert second.stdout.readline() == 'waits\n'
    assert second.stdout.readline() == 'has it\n'
    second.send_signal(signal.SIGKILL)
    second.communicate()
    waited = []
    with locks.locked(path, lambda: waited.append(1)):
        assert not waited


def test_whoever_waits_for_the_lock_leaves_when_asked_to(tmp_path, monkeypatch):
    waited, naps = [], []

    def nap(seconds):
        naps.append(seconds)
        if len(naps) == 3:
            signal.raise_signal(signal.SIGTERM)
        assert len(naps) < 4, 'waits on'

    monkeypatch.setattr(time, 'sleep', nap)
    with (
        preemption.watched(),
        locks.locked(tmp_path / 'x.lock'),
        pytest.raises(Preempted),
        locks.locked(tmp_path / 'x.lock', lambda: waited.append(1)),
    ):
        pytest.fail('the lock was given twice')
    assert (waited, naps) == ([1], [locks.POLL_S] * 3)


def test_a_lock_that_cannot_be_made_is_explained(tmp_path):
    (tmp_path / 'store').write_text('')
    with pytest.raises(UserError, match='store'), locks.locked(tmp_path / 'store' / 'x.lock'):
        pytest.fail('a lock inside a file')
