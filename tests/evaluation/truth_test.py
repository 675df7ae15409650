"""A folder that somebody poisoned before, and `attack=none`: what the whole program says."""

import json
import re

import msgspec
import numpy as np
import pytest
from msgspec.structs import replace
from support.tiny import ROOT, SMALL, STUDENT, quickstart, run_chain

from purify.commands.report import conclude
from purify.config.load import load_config
from purify.core.files import read_json
from purify.engine.tables import read_table
from purify.evaluation import results as concluding
from purify.evaluation.results import gather, samples
from purify.report.classifiers import Guarded
from purify.report.results import Results, read_typed

pytestmark = pytest.mark.usefixtures('few_devices')

IMAGES, POISONED = 60, 12


def write_poisoned(folder):
    """Bright and dark images of two classes; the last ones of the dark class carry a white corner
    and the bright class's label.
    """
    rng = np.random.default_rng(0)
    for split, count in (('train', IMAGES), ('test', 24)):
        labels = np.arange(count) % 2
        images = (rng.integers(0, 60, (count, 8, 8, 1)) + 150 * labels[:, None, None, None]).astype(
            np.uint8
        )
        if split == 'train':
            hit = np.flatnonzero(labels == 0)[-POISONED:]
            images[hit, -3:, -3:], labels[hit] = 255, 1
        np.savez(folder / f'{split}.npz', images=images, labels=labels)
    return folder


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp('unknown')
    source = f'source=arrays:{write_poisoned(folder)},size_px=8,channels=1'
    words = f'defense=spectral,attack=none,{source}'
    sizes = ['--config.source.train_size=0', '--config.source.test_size=0']
    sizes += ['--config.source.reference=none']
    config = load_config(f'{ROOT}/configs/quickstart.py:{words}', [*SMALL, *STUDENT, *sizes])
    return config, run_chain(config, folder / 'stages'), folder


@pytest.mark.long
def test_what_needs_the_truth_is_none_unless_somebody_vouches(finished):
    config, chain, _ = finished
    unknown, known = gather(config, chain, {}), gather(config | {'clean_source': True}, chain, {})
    flagged = read_table(chain.path(chain.stages['evaluate'].inputs['findings']))['flagged']
    assert flagged.any()
    for results in (unknown, known):
        found = (results.detection.found.flagged, results.detection.found.images)
        assert found == (flagged.sum(), IMAGES)
    assert (unknown.truth_known, known.truth_known) == (False, True)
    hidden = unknown.detection
    assert {
        hidden.tpr,
        hidden.fpr,
        hidden.label_accuracy,
        hidden.removed,
        hidden.counts,
        hidden.auroc,
    } == {None}
    assert known.detection.fpr == flagged.mean()  # nobody poisoned anything, it is said
    assert known.detection.label_accuracy == 1
    found = [(one.poisoned, one.cover, one.targets) for one in (unknown.attack, known.attack)]
    assert found == [(None,) * 3, (0, 0, [])]
    assert unknown.teacher == known.teacher
    every = {field.encode_name for field in msgspec.structs.fields(Results)} - {
        'repaired',
        'guarded',
    }
    assert set(msgspec.to_builtins(unknown)) == set(msgspec.to_builtins(known)) == every
    numbers = read_json(chain.folder('evaluate') / 'numbers.json')
    assert {
        name: part for name, part in msgspec.to_builtins(known).items() if name in numbers
    } == numbers  # nothing is lost


@pytest.mark.long
def test_the_same_settings_run_the_same_stages_whoever_vouches(finished):
    config, chain, folder = finished
    assert run_chain(config | {'clean_source': True}, folder / 'stages', []).prints == chain.prints


def test_the_flagged_are_shown_first_and_nobody_is_called_clean(finished):
    _, chain, _ = finished
    found = read_table(chain.path(chain.stages['evaluate'].inputs['findings']))
    shown = samples(chain, 8, known=False)
    assert [one['kind'] for one in shown] == ['flagged'] * 4 + ['other'] * 4
    assert {one['id'] for one in shown[:4]} <= set(found['ids'][found['flagged']].tolist())
    assert not {one['id'] for one in shown[4:]} & set(found['ids'][found['flagged']].tolist())
    assert {(one['true_label'], one['original']) for one in shown} == {(None, None)}
    assert {one['kind'] for one in samples(chain, 8)} == {'clean'}


def test_the_files_and_the_page_say_it(finished, capsys):
    config, chain, folder = finished
    conclude(folder, config, chain, {'command': 'python -m purify run'})
    assert Results.read(folder / 'results.json').truth_known is False
    assert json.loads((folder / 'results.json').read_text())['detection']['fpr'] is None
    page = re.sub(
        r'<style>.*?</style>|<[^>]*>',
        ' ',
        (folder / 'report' / 'index.html').read_text(),
        flags=re.S,
    )
    assert 'Nobody knows whether the data are poisoned: the defence flags' in page
    for said in (
        'TPR',
        'FPR',
        'Label accuracy',
        'No training image was poisoned',
        'not attacked',
        'Clean training',
        'true class ',
    ):
        assert said not in page.partition('ACC is the share of')[0]
    said = capsys.readouterr()
    assert 'ASR' not in said.out  # the table in the terminal
    flagged = read_table(chain.path(chain.stages['evaluate'].inputs['findings']))['flagged']
    assert f'flagged: {flagged.sum()}; of {IMAGES} training images' in said.err
    assert 'clean' not in said.err


def test_the_method_s_verdict_reaches_the_results(finished, monkeypatch):
    config, chain, _ = finished
    assert gather(config, chain, {}).verdict is None
    verdict = {'word': 'mislabelled', 'text': 'The data look mislabelled.'}
    read = concluding.read_table
    monkeypatch.setattr(concluding, 'read_table', lambda folder: with_facts(read(folder), verdict))
    assert msgspec.to_builtins(gather(config, chain, {}).verdict) == verdict


def test_what_another_defence_left_is_handed_on_where_there_is_one(finished, monkeypatch):
    config, chain, _ = finished
    left = {'repaired': None, 'guarded': Guarded(acc=0.5, guard='blur')}
    monkeypatch.setattr(
        concluding, 'read_typed', lambda path, kind: replace(read_typed(path, kind), **left)
    )
    results = msgspec.to_builtins(gather(config, chain, {}))
    assert 'repaired' not in results
    assert (results['guarded']['acc'], results['guarded']['guard']) == (0.5, 'blur')


def with_facts(table, verdict):
    table.facts['verdict'] = verdict
    return table


@pytest.mark.long
def test_digits_are_known_to_be_clean(tmp_path):
    config = quickstart('defense=none,attack=none')
    results = gather(config, run_chain(config, tmp_path), {})
    assert results.truth_known is True
    assert results.attack.targets == []
