import json

import numpy as np
import pytest
from pipelines.tiny import ROOT

from purify.config.load import load_config
from purify.core.files import write_json
from purify.defenses.variation_models import load_variation_model
from purify.pipelines.artifacts import EMBEDDED
from purify.pipelines.chain import Chain
from purify.pipelines.plan import make_stages
from purify.pipelines.provenance import KINDS, PROVENANCE_FILE, describe, note_published, note_training, read_note

SEEDS = {'model': 0, 'data': 0}
SETTINGS = {'data': 'reference', 'source': 'digits', 'seeds': SEEDS}


def told(folder, part, kind):
    """The description's text, its kind and shape checked."""
    found = describe(folder, {'prior': part})
    assert set(found) == {'kind', 'text', 'warning'}
    assert found['kind'] == kind
    assert found['kind'] in KINDS
    assert bool(found['warning']) == (kind not in ('embedded', 'trained_on_reference'))
    return found['text']


def from_folder(folder):
    return {'load': str(folder), 'revision': ''}


def test_the_embedded_prior_needs_no_warning():
    assert 'digits' in told(EMBEDDED['digits'], {'load': 'digits', 'revision': ''}, 'embedded')


def test_priors_trained_here_say_on_what(tmp_path):
    note_training(tmp_path, SETTINGS, 700, None)
    text = told(tmp_path, {'data': 'reference'}, 'trained_on_reference')
    assert '700 reference images of digits' in text
    note_training(tmp_path, SETTINGS | {'data': 'poisoned'}, 800, None)
    assert '800 training images of digits' in told(tmp_path, {'data': 'poisoned'}, 'trained_on_poisoned')
    assert 'table 4' in describe(tmp_path, {'prior': {'data': 'poisoned'}})['warning']


def test_a_prior_handed_to_another_run_takes_its_note_along(tmp_path):
    note_training(tmp_path, SETTINGS | {'data': 'poisoned'}, 800, None)
    assert str(tmp_path) in told(tmp_path, from_folder(tmp_path), 'trained_on_poisoned')


@pytest.mark.parametrize(
    ('first', 'kind'), [('reference', 'trained_on_reference'), ('poisoned', 'trained_on_poisoned'), (None, 'unknown')]
)
def test_what_a_training_started_from_counts(tmp_path, first, kind):
    start, folder = tmp_path / 'start', tmp_path / 'prior'
    start.mkdir()
    if first:
        note_training(start, SETTINGS | {'data': first}, 10, None)
    note_training(folder, SETTINGS, 20, start)
    text = told(folder, {'data': 'reference'}, kind)
    assert '20 reference images' in text
    assert ('10' in text) == bool(first)


def test_published_and_unknown_priors_are_warned_of(tmp_path):
    assert 'google/x' in told(tmp_path, {'load': 'google/x', 'revision': ''}, 'published')
    assert 'abc123' in told(tmp_path, {'load': 'google/x', 'revision': 'abc123'}, 'published')
    assert str(tmp_path) in told(tmp_path, from_folder(tmp_path), 'unknown')
    note_published(tmp_path, 'Improved DDPM', 'ema.pt', 'ab' * 32)
    assert 'ema.pt (SHA-256 abababababab)' in told(tmp_path, from_folder(tmp_path), 'published')


@pytest.mark.parametrize('note', ['text', [], {}, {'kind': 'trusted'}, {'kind': ['published']}])
def test_notes_that_are_none_of_ours_are_not_believed(tmp_path, note):
    write_json(tmp_path / PROVENANCE_FILE, note)
    assert read_note(tmp_path) == {'kind': 'unknown'}


@pytest.mark.parametrize(('words', 'images', 'kind'), [('', 32, 'reference'), ('data=poisoned,attack=patch', 64, 'poisoned')])
def test_the_prior_of_a_run_is_noted_and_told_from_the_attack(tmp_path, words, images, kind):
    tiny = ['prior.network.block_out_channels=(8,)', 'prior.steps=1', 'prior.batch=8']
    few = ['source.train_size=64', 'source.test_size=96', 'source.reference_size=32']
    config = load_config(f'{ROOT}/configs/prior.py:{words}', [f'--config.{change}' for change in (*tiny, *few)])
    chain = Chain(make_stages(config), tmp_path)
    chain.run(['prepare', 'prior'], config['run'])
    folder = chain.folder('prior')
    note = json.loads((folder / PROVENANCE_FILE).read_text())
    assert note == {'kind': f'trained_on_{kind}', 'source': 'digits', 'images': images, 'seeds': SEEDS, 'started_from': None}
    assert 'patch' not in (folder / PROVENANCE_FILE).read_text()
    told(folder, config['prior'], f'trained_on_{kind}')
    assert load_variation_model(folder).size_px == 16
    assert np.isfinite(load_variation_model(folder).schedule.betas).all()
