"""A whole run with both trackers, offline: the curves are those of metrics.jsonl, the results those
of results.json.
"""

import json
from types import SimpleNamespace

import pytest
from support.tiny import ROOT, SMALL, STUDENT
from support.tracked import OFFLINE, read_tensorboard, read_wandb

from purify.commands import run as running
from purify.config.load import load_config
from purify.core.errors import Preempted
from purify.core.writers import WRITERS, read_rows

pytestmark = pytest.mark.usefixtures('few_devices')

WRITING = ('--config.run.writers=("tensorboard","wandb")', '--config.run.log_every=2')
MEASURES = ('acc', 'asr', 'ra')


def start(folder, *flags):
    config = load_config(
        f'{ROOT}/configs/quickstart.py:defense=spectral', [*SMALL, *STUDENT, *flags]
    )
    running.run(config, ['words'], folder / 'tracked', folder / 'stages', ())


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
    """The work folder of a run that was started twice."""
    folder = tmp_path_factory.mktemp('tracking')
    with pytest.MonkeyPatch.context() as patch:
        for name, value in OFFLINE.items():
            patch.setenv(name, value)
        start(folder, *WRITING)
        start(folder, *WRITING)
    return folder / 'tracked'


def expected(folder):
    """(curves: tag -> (step, value), results by name) from the record, by hand."""
    curves = {}
    for row in read_rows(folder / 'metrics.jsonl'):
        for name in set(row) - {'stage', 'step'}:
            curves.setdefault(f'{row["stage"]}/{name}', []).append((row['step'], row[name]))
    results = json.loads((folder / 'results.json').read_text())
    numbers = {
        f'{side}_{name}': results[side][name]
        for side in ('teacher', 'student')
        for name in MEASURES
    }
    numbers |= {name: results['detection'][name] for name in ('tpr', 'fpr', 'label_accuracy')}
    numbers |= {
        f'cost/{name}': stage['seconds'] for name, stage in results['cost']['stages'].items()
    }
    return curves, numbers | {'seconds': results['cost']['seconds']}, results


@pytest.mark.long
def test_tensorboard_holds_what_the_record_holds(finished):
    curves, numbers, _ = expected(finished)
    assert {tag.partition('/')[0] for tag in curves} == {'teacher', 'student'}
    for stage in ('teacher', 'student'):
        scalars, _ = read_tensorboard(finished / 'tensorboard' / 'tracked' / stage)
        assert set(scalars) == {tag for tag in curves if tag.startswith(f'{stage}/')}
        for tag, rows in scalars.items():
            assert rows == [(step, pytest.approx(value, rel=1e-6)) for step, value in curves[tag]]
    scalars, texts = read_tensorboard(finished / 'tensorboard' / 'tracked' / 'results')
    for name, value in numbers.items():
        assert scalars[f'results/{name}'] == [(0, pytest.approx(value, rel=1e-6))], name
    wanted = {f'results/{name}/text_summary' for name in ('before_after', 'detection', 'cost')}
    assert set(texts) == wanted


@pytest.mark.long
def test_wandb_holds_what_the_record_holds(finished):
    curves, numbers, results = expected(finished)
    first, second = read_wandb(finished)
    assert first['id'] == second['id']
    assert first['config']['attack'] == json.loads((finished / 'config.json').read_text())['attack']
    # nothing ran again, nothing is told again
    assert not [row for row in second['rows'] if 'teacher/step' in row]
    assert first['axes'] == {'teacher/*': 'teacher/step', 'student/*': 'student/step'}
    for tag, rows in curves.items():
        step = f'{tag.partition("/")[0]}/step'
        assert [(row[step], row[tag]) for row in first['rows'] if tag in row] == rows
    for run in (first, second):
        assert {name: run['summary'][f'results/{name}'] for name in numbers} == numbers
    table = second['tables']['results/before_after']
    assert table['columns'] == [
        'measure',
        'before',
        'before, from',
        'before, to',
        'after',
        'after, from',
        'after, to',
    ]
    for row, name in zip(table['data'], MEASURES, strict=True):
        sides = [results[side] for side in ('teacher', 'student')]
        wanted = [number for side in sides for number in (side[name], *side['intervals'][name])]
        assert row == [name.upper(), *wanted]
    cost = {row[0]: row[1] for row in second['tables']['results/cost']['data']}
    assert cost == {name: stage['seconds'] for name, stage in results['cost']['stages'].items()}
    found = dict(second['tables']['results/detection']['data'])
    assert (found['tpr'], found['fpr'], found['flagged']) == (
        results['detection']['tpr'],
        results['detection']['fpr'],
        results['detection']['found']['flagged'],
    )


def test_other_settings_are_another_run_of_wandb_and_how_to_run_is_not(tmp_path, monkeypatch):
    class Marking:
        def __init__(self, folder, run, config):
            if not (folder / 'wandb_id').exists():
                (folder / 'wandb_id').write_text(str(config['seeds']['poison']))
            marks.append((folder / 'wandb_id').read_text())

        def close(self):
            marks.append('closed')

    marks = []
    monkeypatch.setitem(WRITERS, 'wandb', Marking)
    monkeypatch.setattr(running.Chain, 'run', stop)
    unchecked = SimpleNamespace(problems=[])
    monkeypatch.setattr(running, 'check', lambda *args, **options: unchecked)
    writing = '--config.run.writers=("wandb",)'
    for flags in (
        ['--config.seeds.poison=5'],
        ['--config.seeds.poison=5', '--config.run.workers=1'],
        ['--config.seeds.poison=6'],
    ):
        with pytest.raises(Preempted):
            start(tmp_path, *flags, writing)
    # closed, though the run was stopped
    assert marks == ['5', 'closed', '5', 'closed', '6', 'closed']


def stop(*args, **options):
    raise Preempted
