import json
from pathlib import Path

import numpy as np
import pytest
from support.tiny import ROOT

from purify.commands.plan import make_stages
from purify.config.load import load_config
from purify.core.files import read_json, sha256_of, write_json
from purify.engine.chain import Chain
from purify.generative.open_prior import load_variation_model
from purify.models.files.hub import EMBEDDED
from purify.stages.provenance import (
    KINDS,
    PROVENANCE_FILE,
    describe_prior,
    mark_of,
    note_published,
    note_training,
    read_note,
    warn_of_seen,
)

pytestmark = pytest.mark.usefixtures('few_devices')

SEEDS = {'model': 0, 'data': 0}
SETTINGS = {'data': 'reference', 'source': 'digits', 'seeds': SEEDS, 'reference': 'own'}
AS_THEY_CAME = {'data': 'poisoned', 'source': 'digits', 'seeds': SEEDS}


@pytest.fixture(autouse=True)
def weights(tmp_path):
    """Stands for the weights of a prior: notes are of files alone."""
    return add_weights(tmp_path)


def add_weights(folder, text='weights'):
    file = folder / 'unet' / 'model.safetensors'
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return file


def told(folder, part, kind):
    """The description's text, its kind and shape checked."""
    found = describe_prior(folder, part.get('load', ''), part.get('revision', ''))
    assert set(found) == {'kind', 'text', 'warning'}
    assert found['kind'] == kind
    assert found['kind'] in KINDS
    assert bool(found['warning']) == (kind not in ('embedded', 'trained_on_reference'))
    return found['text']


def from_folder(folder):
    return {'load': str(folder), 'revision': ''}


def test_the_embedded_prior_needs_no_warning():
    assert 'digits' in told(EMBEDDED['digits'], {'load': 'digits', 'revision': ''}, 'embedded')


def test_a_prior_that_started_from_the_embedded_one_needs_no_warning(tmp_path):
    note_training(tmp_path, SETTINGS, 700, EMBEDDED['digits'])
    text = told(tmp_path, from_folder(tmp_path), 'trained_on_reference')
    assert "It started from this: The prior 'digits' that comes with this program" in text


def test_a_note_cannot_say_that_a_prior_came_with_this_program(tmp_path, weights):
    note = {'kind': 'embedded', 'name': 'digits'}
    digests = {'unet/model.safetensors': sha256_of(weights)}
    write_json(tmp_path / PROVENANCE_FILE, note | {'weights': digests})
    assert read_note(tmp_path)['kind'] == 'unknown'


def test_priors_trained_here_say_on_what(tmp_path):
    note_training(tmp_path, SETTINGS, 700, None)
    text = told(tmp_path, {'data': 'reference'}, 'trained_on_reference')
    assert '700 reference images of digits' in text
    note_training(tmp_path, AS_THEY_CAME, 800, None)
    wanted = '800 training images of digits'
    assert wanted in told(tmp_path, {'data': 'poisoned'}, 'trained_on_poisoned')
    assert 'table 4' in describe_prior(tmp_path, '', '')['warning']


def test_a_prior_handed_to_another_run_takes_its_note_along(tmp_path):
    note_training(tmp_path, AS_THEY_CAME, 800, None)
    text = told(tmp_path, from_folder(tmp_path), 'trained_on_poisoned')
    assert str(tmp_path) in text
    assert 'Its note says: A prior trained on 800' in text
    assert 'note says' not in told(tmp_path, {'data': 'poisoned'}, 'trained_on_poisoned')


@pytest.mark.parametrize(
    ('how', 'fragment'),
    [('held_out', 'held out'), ('first', 'the first'), ('other_classes', 'other classes')],
)
def test_images_cut_from_the_source_under_suspicion_are_warned_of(tmp_path, how, fragment):
    note_training(tmp_path, SETTINGS | {'reference': how}, 9, None)
    for part in ({'data': 'reference'}, from_folder(tmp_path)):
        assert fragment in told(tmp_path, part, 'trained_on_held_out')
    assert 'table 4' in describe_prior(tmp_path, '', '')['warning']


@pytest.mark.parametrize(
    ('first', 'kind'),
    [
        (SETTINGS, 'trained_on_reference'),
        (SETTINGS | {'reference': 'held_out'}, 'trained_on_held_out'),
        (AS_THEY_CAME, 'trained_on_poisoned'),
        (None, 'unknown'),
    ],
)
def test_what_a_training_started_from_counts(tmp_path, first, kind):
    start, folder = tmp_path / 'start', tmp_path / 'prior'
    add_weights(start)
    add_weights(folder)
    if first:
        note_training(start, first, 10, None)
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


def test_what_a_published_prior_brings_along_does_not_vouch_for_it(tmp_path):
    note_training(tmp_path, SETTINGS, 700, None)
    assert 'Its note says' in told(tmp_path, {'load': 'google/x', 'revision': ''}, 'published')
    note_training(tmp_path, AS_THEY_CAME, 700, None)
    assert 'google/x' in told(tmp_path, {'load': 'google/x', 'revision': ''}, 'trained_on_poisoned')


PUBLISHED = {'kind': 'published', 'model': 'm', 'file': 'f', 'sha256': 'ab'}


@pytest.mark.parametrize(
    'note',
    ['text', [], {}, {'kind': 'trusted'}, {'kind': ['published']}, PUBLISHED | {'file': None}],
)
def test_notes_that_are_none_of_ours_are_not_believed(tmp_path, note):
    write_json(tmp_path / PROVENANCE_FILE, note)
    assert read_note(tmp_path)['kind'] == 'unknown'
    told(tmp_path, {'data': 'reference'}, 'unknown')


@pytest.mark.parametrize('text', ['', '{"kind": "publ', '[' * 100_000, b'\xff\xfe', None])
def test_notes_that_cannot_be_read_are_not_believed(tmp_path, text):
    file = tmp_path / PROVENANCE_FILE
    if text is None:
        file.mkdir()
    else:
        file.write_bytes(text if isinstance(text, bytes) else text.encode())
    told(tmp_path, from_folder(tmp_path), 'unknown')


@pytest.mark.parametrize(
    'start', [{'kind': 'foo'}, {}, 'text', 7, {'kind': 'trained_on_reference'}, {'kind': {}}]
)
def test_a_start_that_is_not_understood_is_of_unknown_origin(tmp_path, start):
    note_training(tmp_path, SETTINGS, 20, None)
    file = tmp_path / PROVENANCE_FILE
    write_json(file, json.loads(file.read_text()) | {'started_from': start})
    assert '20 reference images' in told(tmp_path, {'data': 'reference'}, 'unknown')


def test_a_note_is_of_its_own_weights_alone(tmp_path, weights):
    note_training(tmp_path, SETTINGS, 20, None)
    weights.write_text('others')
    assert 'not about these weights' in told(tmp_path, from_folder(tmp_path), 'unknown')
    weights.write_text('weights')
    told(tmp_path, from_folder(tmp_path), 'trained_on_reference')
    (tmp_path / 'checkpoints').mkdir()  # of the training: nobody loads these
    (tmp_path / 'checkpoints' / 'x.safetensors').write_text('x')
    told(tmp_path, from_folder(tmp_path), 'trained_on_reference')
    (tmp_path / 'unet' / 'more.safetensors').write_text('more')
    told(tmp_path, from_folder(tmp_path), 'unknown')
    (tmp_path / 'unet' / 'more.safetensors').unlink()
    weights.unlink()
    told(tmp_path, from_folder(tmp_path), 'unknown')


TINY = ['prior.network.block_out_channels=(8,)', 'prior.network.layers_per_block=1']
TINY += ['prior.steps=1', 'prior.batch=8']


def trained(words, folder, *changes):
    """-> (config, the folder of its prior), after the stages up to it."""
    config = load_config(
        f'{ROOT}/configs/prior.py:{words}', [f'--config.{change}' for change in (*TINY, *changes)]
    )
    chain = Chain(make_stages(config), folder)
    chain.run(['prepare', 'prior'], config['run'])
    return config, chain.folder('prior')


@pytest.mark.long
@pytest.mark.parametrize(
    ('words', 'images', 'kind'),
    [('', 32, 'reference'), ('data=poisoned,attack=patch', 64, 'poisoned')],
)
def test_the_prior_of_a_run_is_noted_and_told_from_the_attack(tmp_path, words, images, kind):
    few = ['source.train_size=64', 'source.test_size=96', 'source.reference_size=32']
    config, folder = trained(words, tmp_path / 'run', *few)
    note = json.loads((folder / PROVENANCE_FILE).read_text())
    (weights,) = sorted((folder / 'unet').glob('*.safetensors'))
    assert note.pop('weights') == {f'unet/{weights.name}': sha256_of(weights)}
    how = {
        'reference': 'own' if kind == 'reference' else 'none',
        'seeds': SEEDS,
        'started_from': None,
    }
    assert note == {'kind': f'trained_on_{kind}', 'source': 'digits', 'images': images} | how
    assert 'patch' not in (folder / PROVENANCE_FILE).read_text()
    told(folder, config['prior'], f'trained_on_{kind}')
    assert load_variation_model(folder).size_px == 16
    assert np.isfinite(load_variation_model(folder).schedule.betas).all()


@pytest.mark.long
def test_reference_images_held_out_of_data_that_may_be_poisoned_are_warned_of(tmp_path):
    """A source that its owner poisoned before it came here: attack=none, and nobody knows."""
    rng, data = np.random.default_rng(0), tmp_path / 'data'
    data.mkdir()
    for name, count in (('train', 48), ('test', 8)):
        np.savez(
            data / f'{name}.npz',
            images=rng.integers(0, 256, (count, 8, 8, 1), np.uint8),
            labels=np.arange(count) % 2,
        )
    smaller = ('prior.network.norm_num_groups=4', 'prior.network.attention_levels=0')
    words = f'source=arrays:{data},attack=none,size_px=8,channels=1,held_out=16'
    config, folder = trained(words, tmp_path / 'run', 'source.train_size=32', *smaller)
    text = told(folder, config['prior'], 'trained_on_held_out')
    assert '16 images' in text
    assert 'held out' in text


def test_a_prior_that_has_seen_the_images_is_warned_of(tmp_path, monkeypatch):
    """How many it has seen is told from those whose marks are known: 3 of 8 is 375 of 1,000."""
    images = np.random.default_rng(0).integers(0, 256, (20, 4, 4, 3), np.uint8)
    inside, child, other = (tmp_path / name for name in ('inside', 'child', 'other'))
    for folder in (inside, child, other):
        add_weights(folder)
    write_json(inside / 'seen.json', {'images': 1000, 'marks': list(map(mark_of, images[:8]))})
    monkeypatch.setitem(EMBEDDED, 'photos32', inside)
    note_training(child, SETTINGS, 300, inside)
    note_training(other, SETTINGS, 300, None)
    monkeypatch.chdir(tmp_path)
    for folder in (inside, Path('inside'), child):
        warning = warn_of_seen(folder, lambda: images[5:])
        assert "'photos32'" in warning
        assert 'about 400 by the 3 of 8' in warning
        assert 'source.skip' in warning
        for others in (images[:0], images[8:], images[:8] + 1):
            assert warn_of_seen(folder, lambda others=others: others) == ''
    assert warn_of_seen(other, lambda: images) == ''
    assert warn_of_seen(tmp_path / 'nowhere', lambda: images) == ''
    told(Path('inside'), from_folder('inside'), 'embedded')


def test_photos32_has_64_marks_of_its_30_000_images():
    told = read_json(EMBEDDED['photos32'] / 'seen.json')
    assert told['images'] == 30_000
    assert len(set(told['marks'])) == 64
    text = describe_prior(EMBEDDED['photos32'], 'photos32', '')['text']
    assert '30,000 training images of CIFAR-10' in text
