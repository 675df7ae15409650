from pathlib import Path

import pytest

from purify.config.load import load_config
from purify.core.files import read_json
from purify.models.files.hub import EMBEDDED as EMBEDDED_FOLDERS
from purify.stages.pixel_denoiser import prior_builder

PRIOR = Path(__file__).parents[2] / 'configs' / 'prior.py'
EMBEDDED = {  # what the weights in purify/models/pretrained/digits_ddpm were trained with
    'accumulate': 1,
    'augment': {'pad_crop': {'pad_px': 1}},
    'batch': 64,
    'data': 'reference',
    'ema_decay': 0.995,
    'epochs': 0.0,
    'init_from': '',
    'revision': '',
    'network': {
        'attention_levels': 0,
        'block_out_channels': [24, 48, 64],
        'dropout': 0.0,
        'dtype': 'float32',
        'layers_per_block': 1,
        'norm_num_groups': 8,
        'sample_size': 16,
    },
    'optim': {
        'b1': 0.9,
        'b2': 0.999,
        'clip': 0.0,
        'lr': 0.002,
        'name': 'adam',
        'schedule': 'cosine',
        'warmup': 0.0,
    },
    'schedule': {'name': 'linear', 'prediction': 'epsilon', 'steps': 1000},
    'timesteps': {'below': 0, 'share': 0.0},
    'steps': 2500,
    'stored_dtype': 'float16',
}


def load(words=''):
    return load_config(f'{PRIOR}:{words}')


def test_without_words_it_is_the_embedded_priors_recipe():
    config = load()
    assert config['prior'] == EMBEDDED
    assert config['source'] == {
        'channels': 1,
        'classes': '',
        'name': 'digits',
        'reference': 'own',
        'reference_size': 0,
        'resample': 'nearest',
        'skip': 0,
        'size_px': 16,
        'split_seed': 0,
        'test_size': 0,
        'train_size': 0,
    }
    assert config['attack']['rate'] == 0
    assert config['seeds'] == {'data': 0, 'model': 0, 'poison': 0}


def test_words_change_what_they_name():
    config = load('steps=7,seed=3,data=poisoned,attack=patch,rate=0.02')
    assert config['prior'] == EMBEDDED | {'steps': 7, 'data': 'poisoned'}
    assert config['seeds'] == {'data': 3, 'model': 3, 'poison': 3}
    assert (config['attack']['name'], config['attack']['rate']) == ('patch', 0.02)
    assert 'teacher' not in config
    assert 'trigger' in load('data=poisoned,attack=lira')


@pytest.mark.parametrize(
    ('size_px', 'levels'), [(32, 4), (28, 3), (64, 4), (20, 3), (17, 1), (4, 1)]
)
def test_other_sources_get_a_network_that_can_halve_their_images(size_px, levels):
    config = load(f'source=arrays:x,size_px={size_px},channels=1,held_out=50')
    network = config['prior']['network']
    assert len(network['block_out_channels']) == levels
    assert size_px % 2 ** (levels - 1) == 0
    assert 1 <= network['attention_levels'] <= levels
    assert network['sample_size'] == config['source']['size_px'] == size_px
    assert (config['source']['reference'], config['source']['reference_size']) == ('held_out', 50)


def test_photos32_is_the_embedded_prior_s_recipe():
    """Of the first 30,000 images, its network that of the folder."""
    config = load('photos32,source=arrays:x')
    source, prior = config['source'], config['prior']
    assert (source['reference'], source['reference_size'], source['size_px']) == (
        'first',
        30_000,
        32,
    )
    folder = EMBEDDED_FOLDERS['photos32']
    built, _ = prior_builder(prior['network'], 3)
    assert read_json(folder / 'unet' / 'config.json') == built
    noise = read_json(folder / 'scheduler' / 'scheduler_config.json')
    assert noise['prediction_type'] == prior['schedule']['prediction'] == 'v_prediction'
    assert prior['timesteps'] == {'below': 400, 'share': 0.9}
    wrong = ('size_px=64', 'channels=1', 'distill=photos32')
    for words in ('photos32', *(f'photos32,source=arrays:x,{word}' for word in wrong)):
        with pytest.raises(ValueError, match='photos32'):
            load(words)


def test_a_prior_of_data_as_they_come_keeps_none_of_them_apart():
    assert load('source=arrays:x,data=poisoned')['source']['reference'] == 'none'


@pytest.mark.parametrize(
    ('words', 'word'),
    [('data=truth', 'data='), ('attack=patch', 'data=poisoned'), ('attack=x', 'attack=')],
)
def test_words_that_make_no_sense_are_refused(words, word):
    with pytest.raises(ValueError, match=word):
        load(words)
