"""The command line itself: help, JSON, quiet, exit codes."""

import contextlib
import json
import shlex
import subprocess
import sys

import pytest
from support.command import ROOT

from purify import cli
from purify.attacks.settings import attack_words
from purify.config.load import load_config
from purify.core import progress


@pytest.fixture(autouse=True)
def _loud_again():
    yield
    progress.keep_quiet(False)


def printed_help(capsys, *arguments):
    with contextlib.suppress(SystemExit):  # argparse's own
        assert cli.main([*arguments, '--help']) == 0
    return capsys.readouterr().out


def test_help_shows_each_command_with_a_line_and_an_example(capsys):
    said = printed_help(capsys)
    for name, command in cli.COMMANDS.items():
        assert f'{name} ' in said
        assert command.line in said
        assert f'$ {command.example}' in said
    for code in ('0 ', '2 ', '75 ', '1 '):
        assert f'\n  {code}' in said


@pytest.mark.parametrize('name', cli.COMMANDS)
def test_help_of_a_command_shows_its_flags_alone(name, capsys):
    said = printed_help(capsys, name)
    command = cli.COMMANDS[name]
    assert command.example in said
    for flag in cli.FLAGS:
        assert (f'--{flag.replace("_", "-")} ' in said or f'--{flag}\n' in said) == (
            flag in command.flags
        ), flag
    assert ('--config.PART.NAME=VALUE' in said) == ('config' in command.flags)


@pytest.mark.parametrize('name', cli.COMMANDS)
def test_examples_can_be_parsed(name):
    program, *arguments = shlex.split(cli.COMMANDS[name].example)
    args, rest = cli.parse(arguments)
    assert (program, args.command) == ('purify', name)
    words = [item for item in rest if not item.startswith('--config.')]
    assert len(words) == len(cli.COMMANDS[name].words)
    if args.config:
        load_config(args.config, [item for item in rest if item not in words])


@pytest.mark.parametrize(
    ('arguments', 'fragment'),
    [
        (['report', '--config', 'x'], '--config belongs to `purify run`, not to `purify report`'),
        (['run', '--seeds', '3'], 'A seed is a word after the config: quickstart:seed=3.'),
        (['report', '--config.a=1'], '`purify report` takes no settings'),
        (['run', '--jsn'], 'Did you mean --json?'),
        (['check', '--hostid', '1'], 'Did you mean --host-id?'),
        (['--json', 'list'], 'flags come after the command: purify COMMAND [flags]'),
        (['report', 'runs/a'], "unknown argument 'runs/a'. See `purify report --help`."),
        (['list', '--config.foo=1'], 'settings change a config: give one with --config NAME'),
        (['run', '--config', 'quickstart'], '--workdir is missing; see `purify run --help`'),
        (['check', '--config', ''], 'no config of that name'),
        (
            ['check', '--config', 'quickstart', '--config.attack.name=blended'],
            "attack 'blended' has no setting 'colours'. It has: ",
        ),
    ],
)
def test_flags_of_other_commands_are_refused(arguments, fragment, capsys):
    assert cli.main(arguments) == 2
    captured = capsys.readouterr()
    assert fragment in captured.err + captured.out


def test_a_closed_pipe_is_no_fault(tmp_path):
    """The run is concluded, though nobody reads its table any more."""
    flags = ['source.train_size=100', 'source.test_size=50', 'teacher.epochs=1']
    given = ' '.join(f'--config.{flag}' for flag in (*flags, 'teacher.network.stages=(1,)'))
    given = given.replace('(1,)', "'(1,)'")
    command = f'{shlex.quote(sys.executable)} -m purify run --config quickstart:defense=none'
    line = f'{command} --workdir {tmp_path / "run"} -q {given} | true; exit ${{PIPESTATUS[0]}}'
    done = subprocess.run(['bash', '-c', line], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert 'report: ' in done.stderr
    assert 'Exception' not in done.stderr


def test_list_as_json(capsys):
    assert cli.main(['list', '--json']) == 0
    names = json.loads(capsys.readouterr().out)
    assert names['attack'] == sorted(attack_words())
    assert 'quickstart' in names['config']
    assert cli.main(['list', '--config', 'quickstart', '--json']) == 0
    stages = {stage['name']: stage for stage in json.loads(capsys.readouterr().out)}
    assert stages['student']['inputs']['data'] == 'purified'
    assert {stage['done'] for stage in stages.values()} == {False}


def test_check_as_json(capsys):
    assert cli.main(['check', '--config', 'quickstart:defense=none', '--json']) == 0
    found = json.loads(capsys.readouterr().out)
    assert found['problems'] == []
    assert any(note.startswith('teacher: resnet') for note in found['notes'])
    flags = ['--config.attack.target=12', '--json']
    assert cli.main(['check', '--config', 'quickstart:defense=none', *flags]) == 2
    found = json.loads(capsys.readouterr().out)
    assert any('attack.target' in problem for problem in found['problems'])


def test_check_looks_where_the_run_would_write(tmp_path, capsys):
    (tmp_path / 'file').write_text('')
    line = ['check', '--config', 'quickstart:defense=none']
    assert cli.main([*line, f'--workdir={tmp_path / "new" / "run"}']) == 0
    assert not (tmp_path / 'new').exists()
    assert cli.main([*line, f'--store={tmp_path / "file" / "run"}']) == 2
    assert f'problem: store: {tmp_path / "file"} is no folder' in capsys.readouterr().out


def test_quiet_leaves_out_progress_and_keeps_messages(capsys):
    progress.keep_quiet(True)
    progress.say('passing', passing=True)
    progress.say('a message')
    with progress.Bar('work', 10) as bar:
        bar.said -= 60
        bar.advance(5)
    assert capsys.readouterr().err == 'a message\n'
    progress.keep_quiet(False)
    with progress.Bar('work', 10) as bar:
        bar.said -= 60
        bar.advance(5)
    assert 'work: 5/10 images' in capsys.readouterr().err


@pytest.mark.long
def test_whoever_has_read_enough_may_go():
    line = f'{shlex.quote(sys.executable)} -m purify run --config castle_walls --help | head -n 1'
    done = subprocess.run(
        ['bash', '-c', f'set -o pipefail; {line}'], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0
    assert not done.stderr
