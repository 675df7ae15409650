r"""Runs the product of a config's sweeps and seeds, here or under Slurm, and collects one table.

    python launch/sweep.py --config quickstart --sweep attack,start --seeds 0,1,2 \
        --workdir runs/sweep
        [--dry-run]                                         prints the runs and stops
        [-j 4 --devices 0,1,2,3]                            four at a time, each on a GPU of its own
        [--slurm='--gpus=1 --time=2:00:00' [--submit]]      as an array job

Every run has its folder in WORKDIR/points and its output in WORKDIR/logs; all share WORKDIR/stages,
so what is equal is done once. Runs that are finished are skipped: the same command goes on after a
stop. Other flags (--config.a.b=c) go to every run.

Needs only Python's standard library: what a run is, `python -m purify list` says. PURIFY_COMMAND
stands in for `python -m purify`. Exit code: 0 all done, 1 some run failed, 2 bad input, 75 stopped
(the same command goes on).
"""

import argparse
import json
import math
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from subprocess import DEVNULL
from types import FrameType
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
EXIT_FAILED, EXIT_PREEMPTED = 1, 75
POLL_S = 0.1
# What every results.json has, as `purify.report.results` says.
RESULTS = {'version', 'name', 'config', 'seeds', 'attack', 'defense', 'classes'}
RESULTS |= {'teacher', 'student', 'detection', 'cost'}


def purify() -> list[str]:
    """Gives the words of the command `python -m purify`."""
    return shlex.split(os.environ.get('PURIFY_COMMAND', '')) or [sys.executable, '-m', 'purify']


def environment() -> dict[str, str]:
    """Copies this environment, with purify found from any folder."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get('PYTHONPATH')]))
    return os.environ | {'PYTHONPATH': path}


def read_json(path: Path) -> Any:
    """Reads a JSON file; None where it cannot be read: a run that starts again writes it anew."""
    try:
        return json.loads(path.read_text(encoding='utf-8'))
    except (OSError, ValueError, RecursionError):
        return None


@dataclass(frozen=True)
class Run:
    """One run of the sweep: its name, its point and seed for the table, its arguments."""

    name: str
    point: dict[str, Any]
    seed: int
    arguments: list[str]
    sweep: Path
    file: Path  # of its config

    @property
    def folder(self) -> Path:
        """The run's own folder."""
        return self.sweep / 'points' / self.name

    @property
    def log(self) -> Path:
        """Where its output goes."""
        return self.sweep / 'logs' / f'{self.name}.log'

    @property
    def command(self) -> list[str]:
        """The command line that starts it, or goes on with it."""
        places = ['--workdir', str(self.folder), '--store', str(self.sweep / 'stages')]
        return [*purify(), 'run', *self.arguments, *places]

    def is_done(self) -> bool:
        """Tells whether its results are there, can be read, and are of these very settings."""
        results, settings = self.folder / 'results.json', self.folder / 'overrides.json'
        if not results.exists() or not settings.exists():
            return False
        if results.stat().st_mtime < settings.stat().st_mtime:
            return False
        if self.file.exists() and self.file.stat().st_mtime > results.stat().st_mtime:
            # Edited since: the run is started again, and does again what has changed.
            return False
        found = read_json(results)
        whole = isinstance(found, dict) and found.keys() >= RESULTS
        return whole and read_json(settings) == self.arguments[1:]

    def prepare(self) -> None:
        """Says beside the run which point it is; `purify report` reads it."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.log.parent.mkdir(exist_ok=True)
        text = json.dumps({'point': self.point, 'seed': self.seed}) + '\n'
        (self.folder / 'point.json').write_text(text)

    def last_words(self) -> str:
        """The last line of its log."""
        lines = self.log.read_text(errors='replace').split('\n') if self.log.exists() else []
        return next((line.strip() for line in reversed(lines) if line.strip()), 'no output')


def list_runs(args: argparse.Namespace, overrides: Sequence[str]) -> list[Run]:
    """Lists all runs of the sweep, as purify multiplies and names them.

    Leaves with purify's message where it refuses.
    """
    which = ['--config', args.config, '--sweep', args.sweep, '--seeds', args.seeds]
    command = [*purify(), 'list', *which, *overrides]
    answer = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=environment())
    if answer.returncode:
        sys.exit(answer.returncode)
    runs = []
    for found in map(json.loads, answer.stdout.splitlines()):
        arguments = ['--config', found['config'], *found['flags']]
        facts = (found['name'], found['point'], found['seed'])
        runs.append(Run(*facts, arguments, args.workdir, Path(found['file'])))
    return runs


@dataclass
class Pool:
    """Runs `size` at a time, each on the device of its slot.

    SIGTERM and SIGINT ask all to stop; a second SIGINT kills them.
    """

    size: int
    devices: list[str]
    running: dict[int, tuple[Run, subprocess.Popen[bytes], float]] = field(default_factory=dict)
    failed: list[Run] = field(default_factory=list)
    stopped: bool = False
    asked: set[int] = field(default_factory=set)  # processes that were told to stop

    def work(self, runs: Sequence[Run]) -> int:
        """Runs all; returns the exit code."""
        waiting = list(runs)
        stops = signal.SIGTERM, signal.SIGINT
        old = {number: signal.signal(number, self._stop) for number in stops}
        try:
            while self.running or (waiting and not self.stopped):
                free = [slot for slot in range(self.size) if slot not in self.running]
                if free and waiting and not self.stopped:
                    self._start(free[0], waiting.pop(0))
                    continue
                time.sleep(POLL_S)
                for slot, (_, process, _) in list(self.running.items()):
                    if process.poll() is not None:
                        self._end(*self.running.pop(slot))
        finally:
            for number, handler in old.items():
                signal.signal(number, handler)
        for run in self.failed:
            print(f'failed: {run.name}: {run.last_words()}\n        {run.log}')
        return EXIT_PREEMPTED if self.stopped else EXIT_FAILED if self.failed else 0

    def _start(self, slot: int, run: Run) -> None:
        env, where = environment(), ''
        if self.devices:
            device = self.devices[slot % len(self.devices)]
            sharing = math.ceil(self.size / len(self.devices))
            env['CUDA_VISIBLE_DEVICES'], where = device, f' on device {device}'
            # Else the first run on a device takes the memory of the others.
            if sharing > 1:
                env.setdefault('XLA_PYTHON_CLIENT_MEM_FRACTION', f'{0.9 / sharing:.3f}')
        with open(run.log, 'ab') as log:
            # In a session of its own: the terminal's Ctrl-C comes here only.
            process = subprocess.Popen(
                run.command, stdin=DEVNULL, stdout=log, stderr=log, env=env, start_new_session=True
            )
        self.running[slot] = run, process, time.monotonic()
        if self.stopped:  # the signal may have come while it was being started
            self._ask_to_stop()
        print(f'started: {run.name}{where}', flush=True)

    def _end(self, run: Run, process: subprocess.Popen[bytes], begun: float) -> None:
        if process.returncode == EXIT_PREEMPTED:
            self.stopped = True
            self._ask_to_stop()
        elif process.returncode:
            self.failed.append(run)
        failed = f'failed with exit code {process.returncode}'
        word = {0: 'done', EXIT_PREEMPTED: 'stopped'}.get(process.returncode, failed)
        print(f'{word}: {run.name}, {time.monotonic() - begun:.0f} s', flush=True)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        again, self.stopped = self.stopped and number == signal.SIGINT, True
        self._ask_to_stop()
        for _, process, _ in self.running.values() if again else ():
            process.kill()

    def _ask_to_stop(self) -> None:
        """Once each: a second SIGTERM may meet a run that is ending, and end it as failed."""
        for _, process, _ in self.running.values():
            if process.pid not in self.asked:
                self.asked.add(process.pid)
                process.terminate()


def submit(args: argparse.Namespace, runs: Sequence[Run]) -> int:
    """Writes points.jsonl, and prints the sbatch command for what is left; --submit starts it."""
    points = args.workdir / 'points.jsonl'
    lines = [json.dumps({'name': run.name, 'command': run.command}) for run in runs]
    points.write_text(''.join(f'{line}\n' for line in lines))
    array = ','.join(str(i) for i, run in enumerate(runs) if not run.is_done())
    output = f'--output={args.workdir / "logs" / "slurm-%A_%a.log"}'
    script = [str(ROOT / 'launch' / 'slurm_array.sbatch'), str(points), str(ROOT)]
    command = ['sbatch', f'--array={array}', output, *shlex.split(args.slurm), *script]
    print(shlex.join(command))
    print(f'when all are done: python -m purify report --workdir {args.workdir}', flush=True)
    return subprocess.run(command).returncode if args.submit else 0


def run_point(points: Path, number: int) -> None:
    """Becomes run `number` of a points.jsonl (an array task of Slurm).

    Leaves with a message where there is none.
    """
    try:
        command = json.loads(points.read_text(encoding='utf-8').splitlines()[number])['command']
    except (OSError, ValueError, LookupError, TypeError) as error:
        sys.exit(
            f'sweep: {points}: holds no run {number} ({error!r}). Start the sweep with --slurm'
            ' again, which writes it.'
        )
    print(shlex.join(command), flush=True)
    os.execvpe(command[0], command, environment())


def folder(text: str) -> Path:
    """Reads a folder as a person writes it, with ~ or ~name."""
    try:
        return Path(text).expanduser().absolute()
    except RuntimeError as error:
        raise argparse.ArgumentTypeError(f'{text}: {error} Write the path out in full.') from error


def parse(argv: Sequence[str] | None) -> tuple[argparse.Namespace, list[str]]:
    """Reads arguments, and the --config.a.b=c flags that go to every run."""
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=form, allow_abbrev=False)
    add = parser.add_argument
    add('--config', help='config file and words')
    add('--sweep', default='', help='names of sweeps of the config, to multiply: attack,start')
    add('--seeds', default='0', help='seeds, to multiply with: 0,1,2 (default 0)')
    add('--workdir', type=folder, help='folder of the whole sweep')
    add('--dry-run', action='store_true', help='only print the runs')
    each = 'runs at a time (default: one per device of --devices, else 1)'
    add('-j', type=int, default=0, metavar='N', help=each)
    add('--devices', default='', help='CUDA devices to hand out in turn, one to a run: 0,1,2,3')
    array = "an array job instead: --slurm='--gpus=1 --time=2:00:00'"
    add('--slurm', nargs='?', const='', metavar='ARGS', help=array)
    add('--submit', action='store_true', help='with --slurm: submit it')
    one = 'one run of a points.jsonl; slurm_array.sbatch uses it'
    add('--run-point', nargs=2, metavar=('FILE', 'NUMBER'), help=one)
    args, overrides = parser.parse_known_args(argv)
    if not args.run_point and not (args.config and args.workdir):
        parser.error('--config and --workdir are needed')
    if args.submit and args.slurm is None:
        parser.error('--submit goes with --slurm')
    return args, overrides


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the sweep that the arguments ask for; returns the exit code."""
    args, overrides = parse(argv)
    if args.run_point:
        run_point(Path(args.run_point[0]), int(args.run_point[1]))
    runs = list_runs(args, overrides)
    for i, run in enumerate(runs):
        print(f'{i:>4}  {"done" if run.is_done() else "open"}  {run.name}')
    if args.dry_run:
        return 0
    for run in runs:  # also of one that is done: the table rests on it
        run.prepare()
    left = [run for run in runs if not run.is_done()]
    if left and args.slurm is not None:
        return submit(args, runs)
    devices = [device for device in args.devices.split(',') if device]
    code = Pool(args.j or len(devices) or 1, devices).work(left)
    if code != EXIT_PREEMPTED and any((run.folder / 'results.json').exists() for run in runs):
        report = [*purify(), 'report', '--workdir', str(args.workdir)]
        code = subprocess.run(report, env=environment()).returncode or code
    return code


if __name__ == '__main__':
    sys.exit(main())
