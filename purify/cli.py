"""The command line `python -m purify COMMAND`: reads the flags and starts the command."""

import argparse
import contextlib
import difflib
import importlib
import sys
from collections.abc import Sequence
from pathlib import Path

from purify.core import preemption
from purify.core.errors import Preempted, UserError

EXIT_USER, EXIT_PREEMPTED = 2, 75
COMMANDS = (
    'run',
    'check',
    'list',
    'report',
    'gallery',
    'bench',
    'convert',
)  # each a file of `purify.commands`
WORDS = {'bench': 1, 'convert': 3}  # how many words a command takes before its flags
FLAGS = {  # that are not for all commands, and for which they are
    'sweep': ('list', 'gallery'),
    'seeds': ('list',),
    **dict.fromkeys(('stages', 'coordinator', 'hosts', 'host_id'), ('run',)),
}


def parse(argv: Sequence[str] | None) -> tuple[argparse.Namespace, list[str]]:
    """Arguments, and the --config.a.b=c flags that are left for the config."""
    parser = argparse.ArgumentParser(
        'purify',
        description='Train on data that may be poisoned, and come out clean.',
        allow_abbrev=False,
    )
    what = (
        'bench variations: what it measures; convert improved_ddpm FILE FOLDER: a published prior'
        ' into a folder for prior.load'
    )
    parser.add_argument('command', choices=COMMANDS, help=what)
    parser.add_argument(
        '--config', help='config file and words: configs/quickstart.py:attack=blended,rate=0.05'
    )
    parser.add_argument(
        '--workdir', type=Path, help="the run's folder (run, report, gallery, bench)"
    )
    parser.add_argument(
        '--store',
        type=Path,
        help='where stage folders live, to share them between runs (default: workdir/stages)',
    )
    parser.add_argument('--stages', default='', help='run only these stages, separated by commas')
    parser.add_argument(
        '--sweep',
        default='',
        help=(
            'list: the product of these sweeps as JSON lines: attack,start; gallery: the attacks'
            ' shown'
        ),
    )
    parser.add_argument(
        '--seeds', default='', help='list: multiply the sweeps with these seeds: 0,1,2'
    )
    parser.add_argument(
        '--coordinator', help="address:port of host 0, or 'auto' (Slurm, TPU pod, Kubernetes)"
    )
    parser.add_argument('--hosts', type=int, help='number of processes')
    parser.add_argument('--host-id', type=int, help='number of this process')
    return parser.parse_known_args(argv)


def dispatch(args: argparse.Namespace, overrides: list[str]) -> int:
    """Runs the command; imports what it needs and no more."""
    words = [item for item in overrides if item[:1] != '-'][: WORDS.get(args.command, 0)]
    for word in words:
        overrides.remove(word)
    _refuse_unknown(args, overrides)
    _refuse_misplaced(args)
    from purify.commands.call import Call

    command = importlib.import_module(f'purify.commands.{args.command}')
    return command.command(Call(args, overrides, words))


def _refuse_misplaced(args: argparse.Namespace) -> None:
    """Raises `UserError` for a flag that another command has a use for."""
    for name, commands in FLAGS.items():
        if getattr(args, name) not in (None, '') and args.command not in commands:
            hint = (
                ' A seed is a word after the config: configs/quickstart.py:seed=3.'
                if name == 'seeds'
                else ''
            )
            raise UserError(
                f'--{name.replace("_", "-")} belongs to `purify {commands[0]}`, not to `purify'
                f' {args.command}`.{hint}'
            )


def _refuse_unknown(args: argparse.Namespace, overrides: list[str]) -> None:
    for item in overrides:
        if not item.startswith('--config.') or '=' not in item:
            near = difflib.get_close_matches(
                item.partition('=')[0], [f'--{name.replace("_", "-")}' for name in vars(args)], n=1
            )
            hint = f' Did you mean {near[0]}?' if near else ''
            raise UserError(
                f'unknown argument {item!r}.{hint} Settings are given as --config.part.name=value;'
                ' see --help.'
            )


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
        print(
            'purify: stopped; all finished work is saved. The same command goes on from here.',
            file=sys.stderr,
        )
        return EXIT_PREEMPTED
