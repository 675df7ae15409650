"""The command line: `python -m purify run|check|list|report|gallery|bench|convert`: flags, host start-up, dispatch, no more."""

import argparse
import contextlib
import difflib
import sys
from collections.abc import Sequence
from pathlib import Path

from purify.core import preemption
from purify.core.errors import Preempted, UserError

EXIT_USER, EXIT_PREEMPTED = 2, 75


def parse(argv: Sequence[str] | None) -> tuple[argparse.Namespace, list[str]]:
    """Arguments, and the --config.a.b=c flags that are left for the config."""
    parser = argparse.ArgumentParser(
        'purify', description='Train on data that may be poisoned, and come out clean.', allow_abbrev=False
    )
    commands_ = ['run', 'check', 'list', 'report', 'gallery', 'bench', 'convert']
    what = 'bench variations: what it measures; convert improved_ddpm FILE FOLDER: a published prior into a folder for prior.load'
    parser.add_argument('command', choices=commands_, help=what)
    parser.add_argument('--config', help='config file and words: configs/quickstart.py:attack=blended,rate=0.05')
    parser.add_argument('--workdir', type=Path, help="the run's folder (run, report, gallery, bench)")
    parser.add_argument('--store', type=Path, help='where stage folders live, to share them between runs (default: workdir/stages)')
    parser.add_argument('--stages', default='', help='run only these stages, separated by commas')
    parser.add_argument(
        '--sweep', default='', help='list: the product of these sweeps as JSON lines: attack,start; gallery: the attacks shown'
    )
    parser.add_argument('--seeds', default='', help='list: multiply the sweeps with these seeds: 0,1,2')
    parser.add_argument('--coordinator', help="address:port of host 0, or 'auto' (Slurm, TPU pod, Kubernetes)")
    parser.add_argument('--hosts', type=int, help='number of processes')
    parser.add_argument('--host-id', type=int, help='number of this process')
    return parser.parse_known_args(argv)


def dispatch(args: argparse.Namespace, overrides: list[str]) -> int:
    """Runs the command; imports what it needs and no more."""
    wanted = {'bench': 1, 'convert': 3}.get(args.command, 0)
    subjects = [item for item in overrides if item[:1] != '-'][:wanted]
    for subject in subjects:
        overrides.remove(subject)
    _refuse_unknown(args, overrides)
    elsewhere = {'sweep': 'list gallery', 'seeds': 'list', 'stages': 'run', 'coordinator': 'run', 'hosts': 'run', 'host_id': 'run'}
    for name, commands_ in elsewhere.items():
        command = commands_.split()[0]
        if getattr(args, name) not in (None, '') and args.command not in commands_.split():
            hint = ' A seed is a word after the config: configs/quickstart.py:seed=3.' if name == 'seeds' else ''
            raise UserError(f'--{name.replace("_", "-")} belongs to `purify {command}`, not to `purify {args.command}`.{hint}')
    from purify.config.load import load_config
    from purify.pipelines import commands

    if args.command == 'convert':
        if len(subjects) != 3 or overrides or args.config or args.workdir:
            raise UserError('say what is to be converted, and where to: python -m purify convert improved_ddpm FILE.pt FOLDER')
        return commands.convert(subjects[0], Path(subjects[1]), Path(subjects[2]))
    if args.command == 'report':
        return commands.report(_required(args.workdir, '--workdir'))
    if args.command == 'list' and not (args.config or args.sweep or args.seeds):
        return commands.list_registries()
    if args.command == 'list' and (args.sweep or args.seeds):
        return commands.list_points(_required(args.config, '--config'), args.sweep, args.seeds, overrides)
    if args.command == 'bench':
        return commands.bench(next(iter(subjects), None), args.config or 'configs/bench.py', overrides, args.workdir)
    if args.command == 'gallery':
        workdir = _required(args.workdir, '--workdir')
        return commands.gallery(_required(args.config, '--config'), overrides, workdir, args.store, args.sweep)
    try:
        config = load_config(_required(args.config, '--config'), overrides)
    except ValueError as error:
        raise UserError(str(error)) from error
    if args.command == 'check':
        return commands.check(config)
    if args.command == 'list':
        return commands.list_stages(config, args.workdir, args.store)
    workdir, only = _required(args.workdir, '--workdir'), [name for name in args.stages.split(',') if name]
    return commands.run(config, [args.config, *overrides], workdir, args.store, only, (args.coordinator, args.hosts, args.host_id))


def _refuse_unknown(args: argparse.Namespace, overrides: list[str]) -> None:
    for item in overrides:
        if not item.startswith('--config.') or '=' not in item:
            near = difflib.get_close_matches(item.partition('=')[0], [f'--{name.replace("_", "-")}' for name in vars(args)], n=1)
            hint = f' Did you mean {near[0]}?' if near else ''
            raise UserError(f'unknown argument {item!r}.{hint} Settings are given as --config.part.name=value; see --help.')


def _required(value, flag: str):
    if value is None:
        raise UserError(f'{flag} is missing; see python -m purify --help.')
    return value


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point. Returns 0, 2 for bad input, 75 when stopped by SIGTERM with everything saved."""
    args, overrides = parse(argv)
    watch = preemption.watched() if args.command in ('run', 'gallery') else contextlib.nullcontext()
    try:
        with watch:  # from here on, so that a SIGTERM during the imports is not lost
            return dispatch(args, overrides)
    except UserError as error:
        print(f'purify: {error}', file=sys.stderr)
        return EXIT_USER
    except Preempted:
        print('purify: stopped; all finished work is saved. The same command goes on from here.', file=sys.stderr)
        return EXIT_PREEMPTED
