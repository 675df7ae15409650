"""The launchers, with stand-ins for purify, Python, ssh, srun, scontrol and gcloud that note how
they are called.
"""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LAUNCH = ROOT / 'launch'

# Says which process it is, then ends as EXIT_<its --host-id> says: with a code, or on SIGTERM with
# 75.
PURIFY = r"""
[[ "$*" =~ --host-id\ ([0-9]+) ]] && id=${BASH_REMATCH[1]} || id=0
note() { echo "$*" >>"$NOTES"; }
trap 'note "$id stopped"; exit 75' TERM
note "$id ${CUDA_VISIBLE_DEVICES:+gpus=$CUDA_VISIBLE_DEVICES }$*"
ending=EXIT_$id
if [ "${!ending:-0}" != wait ]; then exit "${!ending:-0}"; fi
for i in $(seq 200); do sleep 0.1; done
"""

# A Python whose virtual environments are itself again, and whose modules only note that they were
# asked for.
PYTHON = r"""
case "$1 ${2:-}" in
  -c*) exec "$REAL_PYTHON" "$@" ;;
  --version*) echo Python 3.11.0 ;;
  '-m venv') mkdir -p "$3/bin" && cp "$0" "$3/bin/python" && echo venv >>"$NOTES" ;;
  '-m ensurepip') ;;
  *) echo "$@" >>"$NOTES" && if [ "$2" = "${FAILS:-}" ]; then exit 3; fi ;;
esac
"""


def is_running(pid: int) -> bool:
    """Whether the process is there and not merely waiting for its end to be noticed."""
    try:
        os.kill(pid, 0)
        return Path(f'/proc/{pid}/stat').read_text().rpartition(') ')[2][0] != 'Z'
    except ProcessLookupError:
        return False
    except FileNotFoundError:  # no /proc here, or gone meanwhile
        return not Path('/proc').exists()


@pytest.fixture
def bench(tmp_path, monkeypatch):
    """A folder with stand-ins in its bin/, first on the PATH."""
    return Bench(tmp_path, monkeypatch)


class Bench:
    """Stand-ins, what they noted, and the launchers."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch):
        self.folder, self.monkeypatch, self.notes = folder, monkeypatch, folder / 'notes'
        (folder / 'bin').mkdir()
        self.set(PATH=f'{folder / "bin"}:{os.environ["PATH"]}', NOTES=str(self.notes))
        self.set(PURIFY_COMMAND=f'bash {self.stand_in("purify", PURIFY)}')

    def set(self, **variables: str) -> None:
        for name, value in variables.items():
            self.monkeypatch.setenv(name, value)

    def stand_in(self, name: str, text: str) -> Path:
        path = self.folder / 'bin' / name
        path.write_text(f'#!/usr/bin/env bash\n{text}')
        path.chmod(0o755)
        return path

    def stand_in_python(self) -> None:
        """Launchers that do not take PURIFY_COMMAND, or should not, use this Python."""
        self.monkeypatch.delenv('PURIFY_COMMAND', raising=False)
        self.set(PURIFY_PYTHON=str(self.stand_in('python3.11', PYTHON)))
        self.set(PURIFY_VENV=str(self.folder / 'venv'), REAL_PYTHON=sys.executable)

    def start(self, script: str, *args: str) -> subprocess.Popen[str]:
        command = ['bash', str(LAUNCH / script), *args]
        return subprocess.Popen(
            command, text=True, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )

    def run(self, script: str, *args: str) -> tuple[str, int]:
        process = self.start(script, *args)
        return process.communicate(timeout=30)[0], process.returncode

    def noted(self) -> list[str]:
        return self.notes.read_text().splitlines() if self.notes.exists() else []

    def wait_for(self, count: int) -> None:
        begun = time.monotonic()
        while len(self.noted()) < count:
            assert time.monotonic() - begun < 20, self.noted()
            time.sleep(0.05)


@pytest.mark.parametrize(
    'script',
    [*LAUNCH.glob('*.sh'), *LAUNCH.glob('*.sbatch'), ROOT / '.ci' / 'run'],
    ids=lambda path: path.name,
)
def test_scripts_are_valid_bash_and_executable(script):
    assert subprocess.run(['bash', '-n', script]).returncode == 0
    sourced = script.name == 'environment.sh'
    assert os.access(script, os.X_OK) or sourced or script.suffix == '.sbatch'
    assert script.read_text().startswith('#!/usr/bin/env bash\n') or sourced


def test_every_requirement_is_pinned_once():
    pins = [
        line.partition('==')[0].lower().replace('_', '-')
        for line in (ROOT / 'third_party' / 'constraints.txt').read_text().splitlines()
    ]
    assert len(set(pins)) == len(pins)
    wanted = re.findall(r"'([a-zA-Z_-]+)(?:\[\w+\])?>=", (ROOT / 'setup.py').read_text())
    optional = {'tensorboardx', 'wandb', 'umap-learn', 'torch', 'diffusers', 'transformers'}
    assert {name.lower().replace('_', '-') for name in wanted} - optional <= set(pins)
    assert {'jax', 'pytest', 'pyright'} <= set(pins)


def test_local_passes_arguments_and_exit_code_on(bench):
    bench.set(EXIT_0='75')
    assert bench.run('local.sh', '--config', 'a b.py', '--workdir', 'w')[1] == 75
    assert bench.noted() == ['0 run --config a b.py --workdir w']


def test_hosts_starts_every_process_with_its_number_and_gpus(bench):
    assert bench.run(
        'hosts.sh', '-n', '2', '--gpus', '2', '--port', '1234', '--', '--config', "it's"
    ) == ('', 0)
    common = "run --config it's --coordinator 127.0.0.1:1234 --hosts 2 --host-id"
    assert sorted(bench.noted()) == [f'0 gpus=0,1 {common} 0', f'1 gpus=2,3 {common} 1']


@pytest.mark.long
@pytest.mark.parametrize('code', [7, 75])
def test_one_process_that_fails_stops_the_others(bench, code):
    bench.set(EXIT_0='wait', EXIT_1=str(code), EXIT_2='wait')
    said, ended = bench.run('hosts.sh', '-n', '3', '--', '--config', 'x')
    assert ended == code
    assert ('process 1 ended with exit code 7' in said) == (code == 7)
    started = {line[0] for line in bench.noted() if '--host-id' in line} - {'1'}
    assert {f'{number} stopped' for number in started} <= set(
        bench.noted()
    )  # one may have been stopped before it began


@pytest.mark.long
@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_signals_to_hosts_stop_every_process(bench, number):
    bench.set(EXIT_0='wait', EXIT_1='wait')
    process = bench.start('hosts.sh', '-n', '2', '--', '--config', 'x')
    bench.wait_for(2)
    process.send_signal(number)
    process.communicate(timeout=20)
    assert process.returncode == (-signal.SIGKILL if number == signal.SIGKILL else 75)
    bench.wait_for(4)
    assert sorted(bench.noted()[2:]) == ['0 stopped', '1 stopped']


def test_hosts_over_ssh(bench):
    bench.stand_in('ssh', 'echo "ssh $3" >>"$NOTES"; cd / && bash -c "${@:4}"')
    bench.set(EXIT_0='wait', EXIT_1='wait')
    process = bench.start(
        'hosts.sh', '--hosts', 'me@one,two', '--dir', str(ROOT), '--', '--config', "it's a"
    )
    bench.wait_for(4)
    process.terminate()
    process.communicate(timeout=20)
    assert process.returncode == 75
    common = "run --config it's a --coordinator one:8476 --hosts 2 --host-id"
    assert sorted(bench.noted()) == sorted(
        [f'0 {common} 0', '0 stopped', f'1 {common} 1', '1 stopped', 'ssh me@one', 'ssh two']
    )


@pytest.mark.long
def test_a_process_that_will_not_stop_is_killed_with_its_children(bench):
    bench.stand_in(
        'purify', 'trap "" TERM; echo begun >>"$NOTES"; sleep 60 & echo $! >>"$NOTES"; wait'
    )
    process = bench.start('hosts.sh', '-n', '1', '--grace', '0.5', '--', '--config', 'x')
    bench.wait_for(2)
    process.terminate()
    assert process.communicate(timeout=20)[0] == 'did not stop within 0.5 s; killing it\n'
    assert process.returncode == 128 + signal.SIGKILL
    begun = time.monotonic()
    while is_running(int(bench.noted()[1])):
        assert time.monotonic() - begun < 20
        time.sleep(0.05)


@pytest.mark.parametrize(
    'args',
    [['-n', 'x', '--'], ['--foo', '1', '--'], ['-n'], ['-n', '2', '--hosts', 'a', '--'], ['--']],
)
def test_hosts_refuses_what_it_does_not_understand(bench, args):
    said, code = bench.run('hosts.sh', *args)
    assert code == 2
    assert said.startswith('hosts.sh: ')
    assert not bench.noted()


def test_slurm_puts_a_stopped_job_back_into_the_queue(bench):
    bench.stand_in('srun', 'echo "srun $1 $2" >>"$NOTES"; "${@:3}"')
    bench.stand_in('scontrol', 'echo "scontrol $*" >>"$NOTES"')
    bench.set(SLURM_JOB_ID='12', SLURM_NTASKS='4', EXIT_0='75')
    assert bench.run('slurm.sbatch', '--config', 'x')[1] == 75
    step = 'srun --kill-on-bad-exit=0 --wait=300'
    assert bench.noted() == [step, '0 run --config x --coordinator auto', 'scontrol requeue 12']
    bench.notes.unlink()
    bench.set(SLURM_NTASKS='1', EXIT_0='1')
    assert bench.run('slurm.sbatch', '--config', 'x')[1] == 1
    assert bench.noted() == [step, '0 run --config x']


def test_slurm_array_runs_its_point(bench):
    bench.stand_in_python()
    bench.stand_in('srun', '"${@:2}"')
    bench.set(SLURM_JOB_ID='12', SLURM_ARRAY_TASK_ID='3')
    assert bench.run('slurm_array.sbatch', 'points.jsonl', str(ROOT))[1] == 0
    assert bench.noted() == [f'{LAUNCH}/sweep.py --run-point points.jsonl 3']


@pytest.mark.long
def test_tpu_pod_runs_on_all_workers_and_stops_them(bench):
    bench.stand_in('gcloud', 'echo "$*" >>"$NOTES"; [[ "$*" != *local.sh* ]] || sleep 1')
    process = bench.start(
        'tpu_pod.sh', 'run', 'pod', 'zone-b', '--project=p', '--', '--config', "it's"
    )
    bench.wait_for(1)
    process.terminate()
    process.communicate(timeout=20)
    assert process.returncode == 0
    run, stop = bench.noted()
    assert run.startswith(
        'compute tpus tpu-vm ssh pod --zone zone-b --worker=all --project=p --command cd purify '
    )
    assert run.endswith(r'exec bash launch/local.sh --config it\'s --coordinator auto')
    assert stop.startswith(
        'compute tpus tpu-vm ssh pod --zone zone-b --worker=all --project=p --command '
    )
    assert 'kill -TERM' in stop


def test_quickstart_makes_the_environment_once(bench):
    bench.stand_in_python()
    venv = bench.folder / 'venv'
    install = (
        f'-m pip install --quiet --disable-pip-version-check -c {ROOT}/third_party/constraints.txt'
        f' -e {ROOT}'
    )
    run = f'-m purify run --config {ROOT}/configs/quickstart.py'
    assert bench.run('quickstart.sh')[1] == 0
    assert bench.noted() == ['venv', install, f'{run} --workdir {ROOT}/runs/quickstart']
    bench.notes.unlink()
    assert bench.run('quickstart.sh', 'attack=blended', 'rate=0.05', '--workdir', 'w')[1] == 0
    assert bench.noted() == [
        f'{run}:attack=blended,rate=0.05 --workdir {ROOT}/runs/quickstart --workdir w'
    ]
    bench.notes.unlink()
    (venv / 'bin' / 'python').unlink()  # as after an upgrade of the system's Python
    (venv / 'pyvenv.cfg').touch()
    bench.set(PURIFY_EXTRAS='cuda12', FAILS='pip')
    said, code = bench.run('quickstart.sh')
    assert code == 2
    assert 'the installation failed' in said
    assert bench.noted() == ['venv', f'{install}[cuda12]']


def test_quickstart_names_the_python_it_needs(bench):
    bench.stand_in_python()
    bench.set(PURIFY_PYTHON='/bin/false')
    assert 'PURIFY_PYTHON=/bin/false is not Python 3.11' in bench.run('quickstart.sh')[0]
    bench.monkeypatch.delenv('PURIFY_PYTHON')
    for name in ('python3.11', 'python3.12', 'python3.13', 'python3.14', 'python3', 'python'):
        bench.stand_in(name, 'if [ "$1" = --version ]; then echo Python 3.8.1; else exit 1; fi')
    said, code = bench.run('quickstart.sh')
    assert code == 2
    assert 'needs Python 3.11, 3.12, 3.13 or 3.14; python3 here is Python 3.8.1' in said
    bench.stand_in(
        'python3.12', f'if [ "$2" = venv ]; then exit 1; else exec {sys.executable} "$@"; fi'
    )
    assert 'apt install python3-venv' in bench.run('quickstart.sh')[0]


def test_the_test_script_runs_everything_and_fails_if_anything_does(bench):
    bench.stand_in_python()
    tools = [
        '-m ruff check',
        '-m ruff format --check',
        f'-m pyright --threads 2 --pythonpath {os.environ["PURIFY_PYTHON"]}',
    ]
    tests = '-m pytest -n 2 --dist loadfile --no-loadscope-reorder'
    assert bench.run('test.sh', '--no-venv', '-k', 'x')[1] == 0
    assert bench.noted() == [*tools, f'{tests} -m not long -k x']
    assert bench.run('test.sh', '--no-venv', '--all', '-k', 'x')[1] == 0
    assert bench.noted()[-2:] == ['-m mkdocs build --strict --quiet', f'{tests} -k x']
    bench.set(FAILS='pytest')
    assert bench.run('test.sh', '--no-venv')[1] == 3
    bench.set(FAILS='pyright')
    said, code = bench.run('test.sh', '--no-venv')
    assert code == 1
    assert said.splitlines()[-1] == 'the tests passed, but not: pyright (see above)'
    assert bench.noted()[-1] == f'{tests} -m not long'
