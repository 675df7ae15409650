"""kill -9 at random moments, the same command again, and nothing is different."""

import json
import os
import random
import shutil
import signal
import time

import pytest
from support.command import TINY, assert_same_weights, dataset_bytes, run, start, start_hosts

pytestmark = pytest.mark.long

KILLS = int(os.environ.get('PURIFY_KILLS', '3'))
FULL = os.environ.get('PURIFY_KILL_FULL') == '1'  # the real quickstart instead of its tiny twin


def timed(folder, flags):
    """Runs to the end; -> the seconds that it took without compiling, which takes none when the
    programs are in the cache.
    """
    begun = time.monotonic()
    run(folder, *flags)
    stages = json.loads((folder / 'results.json').read_text())['cost']['stages'].values()
    return time.monotonic() - begun - sum(stage['compile_seconds'] for stage in stages)


def test_killed_runs_end_as_uninterrupted_ones(tmp_path):
    flags = () if FULL else TINY
    warm = timed(tmp_path / 'whole', flags)
    longest = 12.0 if FULL else 0.9 * warm
    rng, killed = random.Random(0), 0
    for _ in range(4 * KILLS):
        if killed == KILLS:
            break
        process = start('run', '--workdir', tmp_path / 'cut', *flags)
        time.sleep(rng.uniform(0.3, 1.0) * longest)
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            killed += 1
        process.communicate()
        # it was done first: the cores are freer now than when it was timed
        if process.returncode == 0:
            shutil.rmtree(tmp_path / 'cut')
            longest *= 0.6
        done = sorted(path.parent.name.split('-')[0] for path in tmp_path.glob('cut/stages/*/DONE'))
        print(f'killed {killed} times; finished so far: {", ".join(done) or "nothing"}', flush=True)
    assert killed == KILLS
    run(tmp_path / 'cut', *flags)
    whole, cut = tmp_path / 'whole', tmp_path / 'cut'
    for name in ('poisoned', 'purified'):
        assert dataset_bytes(whole / name)
        assert dataset_bytes(whole / name) == dataset_bytes(cut / name)
    for name in ('teacher', 'student'):
        assert_same_weights(whole / name, cut / name)


def test_sigterm_saves_exits_75_and_the_same_command_goes_on(tmp_path):
    process = start('run', '--workdir', tmp_path, *TINY, '--config.teacher.epochs=2000')
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob('stages/teacher-*/metrics.jsonl')) and time.monotonic() < deadline:
        time.sleep(0.2)
    time.sleep(1)
    process.terminate()
    text, _ = process.communicate(timeout=120)
    assert process.returncode == 75, text
    assert 'saved' in text
    (saved,) = tmp_path.glob('stages/teacher-*/checkpoints/step_*')
    assert int(saved.name.removeprefix('step_')) > 0
    assert not list(tmp_path.glob('stages/teacher-*/DONE'))


def test_sigterm_to_one_of_two_hosts_stops_both_with_75(tmp_path):
    hosts = start_hosts('--workdir', tmp_path, *TINY, '--config.teacher.epochs=2000', devices=1)
    deadline = time.monotonic() + 120
    while (
        not list(tmp_path.glob('stages/teacher-*/checkpoints/step_*'))
        and time.monotonic() < deadline
    ):
        time.sleep(0.2)
    hosts[1].terminate()
    texts = [host.communicate(timeout=120)[0] for host in hosts]
    assert [host.returncode for host in hosts] == [75, 75], texts
