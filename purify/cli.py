"""The command line `purify COMMAND`: reads the flags and starts the command."""

import argparse
import contextlib
import difflib
import importlib
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from purify.core import preemption, progress
from purify.core.errors import Preempted, UserError

EXIT_USER, EXIT_PREEMPTED, EXIT_INTERRUPTED = 2, 75, 130


@dataclass(frozen=True)
class Command:
    """A command, which is a file of `purify.commands`.

    Attributes:
      line: what it does for its caller.
      example: a command line.
      flags: those of `FLAGS` that it takes.
      words: how many words it takes before its flags, and what they are called.
    """

    line: str
    example: str
    flags: tuple[str, ...]
    words: tuple[str, ...] = ()


def _folder(text: str) -> Path:
    """A folder; an unset variable of a shell gives ''."""
    if not text:
        raise argparse.ArgumentTypeError('needs the name of a folder')
    return Path(text)


COMMANDS = {
    'run': Command(
        'run a config: poison, defend, train, measure, report',
        'purify run --config quickstart:attack=blended --workdir runs/blended',
        ('config', 'workdir', 'store', 'stages', 'coordinator', 'hosts', 'host_id', 'quiet'),
    ),
    'check': Command(
        'say what would run and what is missing; train and download nothing',
        'purify check --config quickstart:attack=blended,rate=0.05',
        ('config', 'workdir', 'store', 'target', 'devices', 'json', 'quiet'),
    ),
    'list': Command(
        'name all that configs can use; the stages of a config; the runs of a sweep',
        'purify list --config quickstart --workdir runs/quickstart',
        ('config', 'workdir', 'store', 'sweep', 'seeds', 'json', 'quiet'),
    ),
    'report': Command(
        'write the report of a finished run again, or one table of many runs',
        'purify report --workdir runs/quickstart',
        ('workdir', 'json', 'quiet'),
    ),
    'gallery': Command(
        "draw a config's attacks on one page: what each does to an image",
        'purify gallery --config attacks --workdir runs/attacks',
        ('config', 'workdir', 'store', 'sweep', 'quiet'),
    ),
    'bench': Command(
        'measure what image variations cost on these devices, one JSON line each',
        'purify bench variations --config bench:shapes=tiny --config.steps=2',
        ('config', 'workdir', 'quiet'),
        ('variations',),
    ),
    'convert': Command(
        'turn a diffusion model as its authors published it into a folder for prior.load',
        'purify convert improved_ddpm imagenet64_uncond_100M_1500K.pt priors/imagenet64',
        ('quiet',),
        ('improved_ddpm[:SETTINGS]', 'FILE', 'FOLDER'),
    ),
}

FLAGS: dict[str, dict[str, Any]] = {
    'config': {
        'metavar': 'NAME[:WORDS]',
        'help': 'a config that comes with purify, or a file: quickstart:rate=0.05, mine/own.py',
    },
    'workdir': {'type': _folder, 'metavar': 'FOLDER', 'help': 'the folder of the run'},
    'store': {
        'type': _folder,
        'metavar': 'FOLDER',
        'help': 'where stages are kept, to share them between runs (default: WORKDIR/stages)',
    },
    'stages': {
        'default': '',
        'metavar': 'A,B',
        'help': 'run only these stages; `purify list --config NAME` names them',
    },
    'sweep': {
        'default': '',
        'metavar': 'A,B',
        'help': 'sweeps of the config: their runs as JSON lines (list), their attacks (gallery)',
    },
    'seeds': {'default': '', 'metavar': '0,1,2', 'help': 'multiply the sweeps with these seeds'},
    'coordinator': {
        'metavar': 'ADDRESS:PORT',
        'help': "of host 0, or 'auto' (Slurm, TPU pod, Kubernetes)",
    },
    'hosts': {'type': int, 'metavar': 'N', 'help': 'number of processes'},
    'host_id': {'type': int, 'metavar': 'K', 'help': 'number of this process'},
    'target': {
        'metavar': 'KIND',
        'help': 'also compile every program for such a device, which need not be here, and say what'
        ' it would cost: h200, a100, v5e, v6e',
    },
    'devices': {'type': int, 'metavar': 'N', 'help': 'how many of the target (default: 1)'},
    'json': {'action': 'store_true', 'help': 'print JSON, for programs to read; of a sweep, lines'},
    'quiet': {'action': 'store_true', 'help': 'print results and errors, no progress'},
}
EXIT_CODES = """\
exit codes:
  0   done
  2   bad input: the message says what to change
  75  stopped by SIGTERM or Ctrl-C with all finished work saved; the same command resumes
  1   a fault of purify itself; what was finished is kept
"""
SETTINGS = """\
settings:
  --config.PART.NAME=VALUE        any setting of the config
  purify run --config NAME --help prints every setting of a config: its value, its meaning
"""


def parse(argv: Sequence[str] | None) -> tuple[argparse.Namespace, list[str]]:
    """Arguments, and what is left: words, and the --config.a.b=c flags for the config."""
    parser = argparse.ArgumentParser(
        'purify',
        usage='purify COMMAND [flags]',
        description='Train on data that may be poisoned, and come out clean.',
        epilog=f'{EXIT_CODES}\n`purify COMMAND --help` says more of each command.',
        formatter_class=argparse.RawTextHelpFormatter,
        allow_abbrev=False,
    )
    from purify import __version__

    parser.add_argument('--version', action='version', version=f'purify {__version__}')
    commands = parser.add_subparsers(
        title='commands', metavar='COMMAND', dest='command', required=True
    )
    for name, command in COMMANDS.items():
        own = commands.add_parser(
            name,
            help=f'{command.line}\n$ {command.example}\n ',
            prog=f'purify {name}',
            usage=' '.join(['purify', name, *command.words, '[flags]']),
            description=f'{command.line[0].upper()}{command.line[1:]}.',
            epilog=f'example:\n  {command.example}\n\n'
            + f'{SETTINGS}\n' * ('config' in command.flags)
            + EXIT_CODES,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
            add_help=False,
        )
        own.add_argument('-h', '--help', action='store_true', help='print this')
        for flag in command.flags:
            short = ['-q'] if flag == 'quiet' else []
            own.add_argument(*short, f'--{flag.replace("_", "-")}', **FLAGS[flag])
        own.set_defaults(parser=own, **{flag: None for flag in FLAGS if flag not in command.flags})
    given = [*(sys.argv[1:] if argv is None else argv)]
    if given and given[0].startswith('-') and given[0] not in ('-h', '--help', '--version'):
        raise UserError('flags come after the command: purify COMMAND [flags]; see purify --help.')
    return parser.parse_known_args(given)


def dispatch(args: argparse.Namespace, rest: list[str]) -> int:
    """Runs the command; imports what it needs and no more."""
    name, command = args.command, COMMANDS[args.command]
    words = [item for item in rest if item[:1] != '-'][: len(command.words)]
    for word in words:
        rest.remove(word)
    _refuse_unknown(name, rest)
    if args.help and args.config is None:
        args.parser.print_help()
        return 0
    progress.keep_quiet(bool(args.quiet))
    from purify.commands.call import Call

    module = importlib.import_module(f'purify.commands.{"explain" if args.help else name}')
    return module.command(Call(args, rest, words))


def _refuse_unknown(command: str, rest: list[str]) -> None:
    """Raises `UserError` for what is neither a setting nor a flag of the command."""
    for item in rest:
        given = item.partition('=')[0]
        if given.startswith('--config.') and '=' in item:
            if 'config' in COMMANDS[command].flags:
                continue
            raise UserError(f'{given}: `purify {command}` takes no settings.')
        name = given.removeprefix('--').replace('-', '_')
        if given.startswith('--') and name in FLAGS:
            homes = [other for other, known in COMMANDS.items() if name in known.flags]
            hint = ' A seed is a word after the config: quickstart:seed=3.' * (name == 'seeds')
            raise UserError(
                f'{given} belongs to `purify {homes[0]}`, not to `purify {command}`.{hint}'
            )
        near = difflib.get_close_matches(given, [f'--{flag}' for flag in FLAGS], n=1)
        hint = f' Did you mean {near[0].replace("_", "-")}?' if near else ''
        if 'config' in COMMANDS[command].flags:
            hint += ' Settings are given as --config.part.name=value.'
        raise UserError(f'unknown argument {item!r}.{hint} See `purify {command} --help`.')


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point. Returns 0, 2 for bad input, 75 when stopped by SIGTERM with everything saved."""
    code = 0
    try:
        args, rest = parse(argv)
        works = args.command in ('run', 'gallery') and not args.help
        # From here on, so that a SIGTERM during the imports is not lost.
        with preemption.watched() if works else contextlib.nullcontext():
            code = dispatch(args, rest)
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # whoever read the output, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return code
    except KeyboardInterrupt:
        print('purify: interrupted', file=sys.stderr)
        return EXIT_INTERRUPTED
    except UserError as error:
        print(f'purify: {error}', file=sys.stderr)
        return EXIT_USER
    except Preempted:
        print(
            'purify: stopped; all finished work is saved. The same command goes on from here.',
            file=sys.stderr,
        )
        return EXIT_PREEMPTED
