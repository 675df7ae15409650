"""`report` on damaged files: it works, or says in one sentence what is wrong; never a traceback,
and never for ever.

500 cases, or as many as the environment variable PURIFY_FUZZ says. A case is its number:
`PURIFY_FUZZ_CASE=17` runs that one alone.
"""

import argparse
import contextlib
import copy
import io
import json
import os
import random
import shutil
import time
from pathlib import Path

import msgspec
import pytest
from report.typed import list_lost
from support.tiny import quickstart

from purify.commands import report as reporting
from purify.commands import run as running
from purify.commands.call import Call
from purify.core.errors import UserError
from purify.core.writers import read_rows
from purify.report.results import Results

pytestmark = pytest.mark.long

CASES = int(os.environ.get('PURIFY_FUZZ', '500'))
ALONE = os.environ.get('PURIFY_FUZZ_CASE')
LONGEST_S = 5.0  # of a report, of processor time; one takes a tenth of a second
FILES = ('results.json', 'point.json', 'results.json', 'config.json', 'results.json')
FILES += ('environment.json', 'point.json', 'stages/teacher-*/metrics.jsonl')
# Of studies: results of every kind of method.
STORED = Path(__file__).parents[2] / 'docs' / 'results'
KINDS = (
    'castle-walls-digits/raw/2026-11-21/generation-0.1-0.json',
    'castle-walls-digits/raw/2026-11-21/diffusion-0.1-0.json',
    'relabel-digits/raw/2026-11-29/patch-11.json',
)


def nest(depth):
    value = 0
    for _ in range(depth):
        value = [value]
    return value


NUMBERS = (0, 1, -1, 0.5, 1e308, -1e308, 5e-324, float('nan'), float('inf'), 2**63, 10**400)
TEXTS = ('', 'x', '0.1', '1', '9' * 5000, '\ud800', '\x00', 'é|<b>\n', '../../x', '~nobody/x')
STRANGE = (
    None,
    True,
    False,
    *NUMBERS,
    *TEXTS,
    [],
    [[]],
    [None],
    [0, 0],
    [1, 2, 3],
    {},
    {'': {}},
    {'a': [1]},
    nest(50),
    nest(200),
)


def places(value, path=()):
    """Paths of all values inside a value."""
    yield path
    items = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list)
        else ()
    )
    for key, inner in items:
        yield from places(inner, (*path, key))


def mutate_value(value, rng):
    """A JSON value with a value of it replaced, left out, or put under another name."""
    value = copy.deepcopy(value)
    *path, last = rng.choice([place for place in places(value) if place] or [('',)])
    inner = value
    for key in path:
        inner = inner[key]
    act = rng.randrange(4)
    if act == 0:
        del inner[last]
    elif act == 1 and isinstance(inner, dict):
        inner[rng.choice(['', 'x', 'step', 'ids', last.upper()])] = inner.pop(last)
    elif act == 2 and isinstance(inner, list):
        inner.append(copy.deepcopy(inner[last]))
    else:
        inner[last] = copy.deepcopy(rng.choice(STRANGE))
    return value


def mutate_bytes(data, rng):
    """Bytes cut off, changed, put in, or doubled."""
    at, act = rng.randrange(len(data) + 1), rng.randrange(4)
    noise = (
        b'[' * 100_000
        if rng.random() < 0.1
        else bytes(rng.randrange(256) for _ in range(rng.choice([1, 1, 4, 100])))
    )
    return (
        data[:at],
        data[:at] + noise + data[at + len(noise) :],
        data[:at] + noise + data[at:],
        data[:at] + data,
    )[act]


def damage(path, rng):
    """Writes a damaged copy of the file in its place, or something that is no file, or nothing."""
    data = path.read_bytes()
    act = rng.random()
    if act < 0.03:
        path.unlink()
        if rng.random() < 0.5:
            path.mkdir()
    elif act < 0.25:
        path.write_bytes(mutate_bytes(data, rng))
    elif path.suffix == '.jsonl':
        lines = data.splitlines(keepends=True)
        at = rng.randrange(len(lines))
        lines[at] = json.dumps(mutate_value(json.loads(lines[at]), rng)).encode() + b'\n'
        path.write_bytes(b''.join(lines))
    else:
        value = json.loads(data)
        for _ in range(rng.choice([1, 1, 2, 5])):
            value = mutate_value(value, rng) if isinstance(value, dict | list) and value else value
        path.write_text(json.dumps(value))


@pytest.fixture(scope='module')
def sweep(tmp_path_factory):
    """Finished runs of a sweep, as far as tables look at them."""
    folder = tmp_path_factory.mktemp('sweep')
    for number, kind in enumerate(KINDS):
        run = folder / 'points' / str(number)
        run.mkdir(parents=True)
        shutil.copy(STORED / kind, run / 'results.json')
        (run / 'point.json').write_text(
            json.dumps({'point': {'rate': number / 10, 'words': ['a', 'b']}, 'seed': number})
        )
    return folder


@pytest.fixture(scope='module')
def single(tmp_path_factory):
    """A finished run."""
    folder = tmp_path_factory.mktemp('run')
    running.run(
        quickstart('defense=none', '--config.run.report_images=0', '--config.run.log_every=1'),
        ['words'],
        folder,
        None,
        (),
    )
    return folder


def report(folder):
    """-> what `report` printed, as a terminal that takes UTF-8 would get it."""
    raw = io.BytesIO()
    terminal = io.TextIOWrapper(raw, encoding='utf-8', write_through=True)
    with contextlib.redirect_stdout(terminal):
        reporting.command(Call(argparse.Namespace(workdir=folder, json=False), [], []))
    return raw.getvalue().decode()


def restore(path, data):
    """Puts the file back."""
    if path.is_dir():
        path.rmdir()
    path.write_bytes(data)


@pytest.mark.parametrize('number', [int(ALONE)] if ALONE else range(0, CASES, 50))
def test_damaged_files_are_reported_or_refused(number, sweep, single):
    fates, longest = {'worked': 0, 'refused': 0}, 0
    for case in [number] if ALONE else range(number, min(number + 50, CASES)):
        rng = random.Random(case)
        name = FILES[case % len(FILES)]
        many = name in ('results.json', 'point.json')
        path = (
            sweep / 'points' / str(rng.randrange(len(KINDS))) / name
            if many
            else next(single.glob(name))
        )
        data = path.read_bytes()
        begun = time.process_time()
        try:
            damage(path, rng)
            if path.suffix == '.jsonl':
                read_rows(path)  # the run itself asks first whether the stage's files are whole
            report(sweep if many else single)
            fates['worked'] += 1
        except UserError as error:
            fates['refused'] += 1
            longest = max(longest, len(str(error)))
        except BaseException as error:
            raise AssertionError(
                f'case {case}: {name} damaged gives {type(error).__name__}: {error}'
            ) from error
        finally:
            restore(path, data)
        found = time.process_time() - begun
        assert found < LONGEST_S, f'case {case}: {name} damaged takes too long'
    assert longest < 3000, 'a message that nobody reads'
    assert ALONE or min(fates.values()) > 0  # damage that goes unnoticed, and damage that is


def test_whole_files_are_reported(sweep, single):
    table = report(sweep)
    assert table.count('\n| ') == 1 + len(KINDS)  # below the head
    assert (sweep / 'table.csv').read_text().count('\n') == 1 + len(KINDS)
    report(single)


def test_a_damaged_run_is_named_and_the_others_make_the_table(sweep, capsys):
    path = sweep / 'points' / '1' / 'results.json'
    data = path.read_bytes()
    value = json.loads(data)
    value['attack']['rate'] = '0.1'  # a text where a number should be drew for half a minute
    path.write_text(json.dumps(value))
    try:
        reporting.command(Call(argparse.Namespace(workdir=sweep, json=False), [], []))
    finally:
        path.write_bytes(data)
    captured = capsys.readouterr()
    assert f'left out: {path}: ' in captured.err
    assert '`$.attack.rate`' in captured.err
    assert captured.out.count('\n| ') == len(KINDS)


def test_where_all_are_damaged_there_is_no_table(tmp_path, capsys):
    (tmp_path / 'a').mkdir()
    (tmp_path / 'a' / 'results.json').write_text('{}')
    with pytest.raises(UserError, match='no finished run'):
        reporting.command(Call(argparse.Namespace(workdir=tmp_path, json=False), [], []))
    assert 'a/results.json' in capsys.readouterr().err


def test_a_config_that_was_changed_by_hand_is_not_taken_for_the_one_that_ran(single):
    path = single / 'config.json'
    data = path.read_bytes()
    config = json.loads(data)
    config['seeds']['poison'] += 1
    path.write_text(json.dumps(config))
    try:
        said = r'config\.json: not the config that environment\.json is about.*its own command'
        with pytest.raises(UserError, match=said):
            reporting.command(Call(argparse.Namespace(workdir=single, json=False), [], []))
    finally:
        path.write_bytes(data)


def test_stored_results_of_every_study_have_the_form():
    paths = [path for path in STORED.rglob('*.json') if 'teacher' in json.loads(path.read_text())]
    assert len(paths) > 100
    for path in paths:
        results = Results.read(path)
        lost = list(list_lost(json.loads(path.read_text()), msgspec.to_builtins(results)))
        assert set(lost) <= {'.purified.inception'}  # which older versions wrote
        assert (
            results.facts.target_labels is None
            or results.facts.target_labels == results.findings['target_labels']
        )


def test_curves_are_those_of_the_checked_stages_whatever_became_of_the_copy_in_the_work_folder(
    single,
):
    path = single / 'metrics.jsonl'
    before = (single / 'report' / 'index.html').read_bytes()
    data = path.read_bytes()
    assert b'"loss": ' in data
    path.write_bytes(data.replace(b'"loss": ', b'"loss": 7'))
    try:
        report(single)
    finally:
        path.write_bytes(data)
    assert (single / 'report' / 'index.html').read_bytes() == before
