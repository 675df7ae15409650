"""Stable Diffusion trained on labels, tiny: its stage, what it leaves, and images of it."""

import json

import jax
import numpy as np
import pytest
from flax import nnx
from support.small_dataset import IMAGES, LABELS, bytes_of, work, write_poisoned
from support.tiny import ROOT, run_chain, write_pictures

from purify.commands.check import check
from purify.commands.published_shapes import published_prior
from purify.config.load import load_config
from purify.core import preemption
from purify.core.errors import Preempted, UserError
from purify.core.randomness import id_keys
from purify.data.loader import Split
from purify.defenses.castle_walls.generation import Generate
from purify.generative.pixel_generator import open_generator
from purify.models.files.pipelines import from_pretrained, save_pretrained
from purify.models.files.shapes import random_pipeline
from purify.models.files.weights import export_tensors
from purify.stages import generate_images, train_diffusion
from purify.stages.finetune_latent import shape_latent

pytestmark = pytest.mark.long

OBJECTIVE = {'name': 'latent', 'caption': 'A photo of a {}', 'drop': 0.2, 'size_px': 8}
OBJECTIVE |= {'dtype': 'float32'}
OPTIM = {'name': 'adam', 'lr': 1e-2, 'schedule': 'constant', 'warmup': 0.0, 'clip': 0.0, 'b1': 0.9}
OPTIM |= {'b2': 0.999}
TRAINING = {
    'objective': OBJECTIVE,
    'optim': OPTIM,
    'epochs': 0,
    'steps': 4,
    'batch': 8,
    'accumulate': 1,
    'augment': {},
    'ema_decay': 0.0,
    'stored_dtype': 'float32',
    'seeds': {'model': 0, 'data': 0},
}
SAMPLING = Generate(
    {'name': 'ddim', 'eta': 0.0}, steps=2, guidance=2.0, dtype='float32', stream='made'
)
RUN = {
    'save_every': 100,
    'log_every': 1,
    'threads': 1,
    'workers': 0,
    'resident_mb': 1,
    'steps_together': 0,
}


@pytest.fixture(scope='module')
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp('finetuning')
    write_poisoned(folder / 'poisoned')
    save_pretrained(random_pipeline('sd_img2img', 'tiny', seed=0), folder / 'prior')
    return folder


def train(place, name, asked=None, **changes):
    """The stage, which is told to stop at the `asked`th time that it looks."""
    stage = work(
        place / name, {'data': place / 'poisoned', 'prior': place / 'prior'}, **TRAINING | changes
    )
    stage.run.update(RUN)
    looks = iter(range(10**6))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(preemption, 'asked', lambda: asked is not None and next(looks) >= asked)
        train_diffusion.run(stage)
    return place / name


@pytest.fixture(scope='module')
def trained(place):
    return train(place, 'trained')


def weights(folder, part):
    return export_tensors(from_pretrained(folder, subfolder=part))


def test_the_unet_alone_has_learned(place, trained):
    for part in ('unet', 'vae', 'text_encoder'):
        before, after = weights(place / 'prior', part), weights(trained, part)
        moved = [np.abs(after[name] - old).max() for name, old in before.items()]
        assert set(before) == set(after)
        assert (min(moved) > 1e-3) == (part == 'unet')
        assert (max(moved) == 0) == (part != 'unet')
    rows = [json.loads(line) for line in (trained / 'metrics.jsonl').read_text().splitlines()]
    assert [row['step'] for row in rows] == [1, 2, 3, 4]
    assert all(0.1 < row['loss'] < 10 for row in rows)


def test_what_it_leaves_is_a_pipeline_of_the_same_parts(place, trained):
    before, after = from_pretrained(place / 'prior'), from_pretrained(trained)
    assert after.class_name == before.class_name == 'StableDiffusionPipeline'
    assert after.parts['scheduler'] == before.parts['scheduler']
    wanted = {'unet', 'vae', 'text_encoder'}
    assert {name for name, part in after.parts.items() if isinstance(part, nnx.Module)} == wanted
    assert np.array_equal(after.parts['tokenizer'](['a cat']), before.parts['tokenizer'](['a cat']))
    wanted = {'objective': OBJECTIVE, 'class_names': ['a', 'b', 'c']}
    assert json.loads((trained / 'generator.json').read_text()) == wanted


def test_an_interrupted_training_ends_with_the_same_bytes(place, trained):
    with pytest.raises(Preempted):
        train(place, 'cut', asked=1)
    assert [path.name for path in (place / 'cut' / 'checkpoints').glob('step_*')] == ['step_2']
    assert not (place / 'cut' / 'generator.json').exists()
    train(place, 'cut')
    for part in ('unet', 'vae', 'text_encoder', 'tokenizer', 'scheduler'):
        assert bytes_of(place / 'cut' / part) == bytes_of(trained / part)


def make(place, trained, name, **settings):
    stage = work(place / name, {'poisoned': place / 'poisoned', 'generator': trained}, **settings)
    generate_images.run(stage, SAMPLING)
    return stage


def test_it_is_sampled_resumed_and_ends_with_the_same_bytes(place, trained, monkeypatch):
    settings = {'images': 11, 'labels': (), 'seed': 0, 'shard_size': 4}
    make(place, trained, 'made', **settings)
    split = Split(place / 'made', 'train')
    assert (len(split), split.shape) == (11, (6, 6, 3))
    assert [split[row]['label'] for row in range(11)] == [row % 3 for row in range(11)]
    with monkeypatch.context() as patch:
        patch.setattr(preemption, 'asked', lambda: True)
        with pytest.raises(Preempted):
            make(place, trained, 'stopped', **settings)
    make(place, trained, 'stopped', **settings)
    pixels = [
        np.stack([Split(place / name, 'train')[row]['image'] for row in range(11)])
        for name in ('made', 'stopped')
    ]
    assert np.array_equal(*pixels)
    assert pixels[0].std() > 5


@pytest.fixture(scope='module')
def generator(trained):
    return open_generator(trained)


answer = nnx.jit(lambda network, *given: network(*given))


def ask(generator, labels, scale, x, t):
    return jax.jit(lambda weights: generator.predictor(weights, labels, scale)(x, t))(
        generator.weights
    )


def test_a_generator_is_told_captions_and_guided_from_the_empty_one(trained, generator):
    assert generator.state_shape == (4, 4, 4)
    assert (generator.channels, generator.class_names) == (3, ['a', 'b', 'c'])
    parts = from_pretrained(trained).parts
    x, t = np.random.default_rng(0).normal(size=(2, 4, 4, 4)).astype(np.float32), np.array([3, 900])
    said = [
        answer(parts['text_encoder'], parts['tokenizer'](words))[0]
        for words in (['A photo of a c', 'A photo of a a'], ['', ''])
    ]
    told, untold = (np.asarray(answer(parts['unet'], x, t, context)) for context in said)
    assert np.abs(told - untold).max() > 1e-3
    for scale in (1.0, 3.0):
        made = ask(generator, np.array([2, 0]), scale, x, t)
        np.testing.assert_allclose(made, untold + scale * (told - untold), atol=1e-4)


def test_states_are_scaled_latents_each_by_its_own_key(trained, generator):
    vae = from_pretrained(trained).parts['vae']
    images = np.float32(IMAGES[:3]) / 127.5 - 1
    keys = id_keys(jax.random.key(0), np.arange(3))
    encode, decode = (jax.jit(way) for way in (generator.encode, generator.decode))
    states = encode(generator.weights, images, keys)
    found = encode(generator.weights, images[2:], keys[2:])[0]
    np.testing.assert_allclose(found, states[2], atol=1e-5)
    large = jax.image.resize(images, (3, 8, 8, 3), 'cubic')
    mean, logvar = nnx.jit(lambda vae, x: vae.encode(x))(vae, large)
    drawn = (states / vae.scaling_factor - mean) / np.exp(logvar / 2)
    assert abs(float(drawn.std()) - 1) < 0.2
    theirs = nnx.jit(lambda vae, x: vae.decode(x))(vae, states / vae.scaling_factor)
    np.testing.assert_allclose(decode(generator.weights, states), np.clip(theirs, -1, 1), atol=1e-4)
    grey = encode(generator.weights, images[..., :1], keys)
    wanted = encode(generator.weights, np.repeat(images[..., :1], 3, -1), keys)
    np.testing.assert_allclose(grey, wanted, atol=1e-5)


def test_a_generator_in_half_precision_stays_near(trained, generator):
    half = open_generator(trained, dtype='bfloat16', vae_slice=2)
    x, t, labels = np.ones((2, 4, 4, 4), np.float32), np.array([3, 900]), LABELS[:2]
    out, exact = (ask(g, labels, 2.0, x, t) for g in (half, generator))
    assert out.dtype == np.float32
    assert 0 < np.abs(out - exact).max() < 0.3
    assert jax.tree.map(np.shape, half.weights) == jax.tree.map(np.shape, generator.weights)


def test_shapes_are_those_of_the_real_thing(trained, generator):
    shapes = open_generator(trained, weights=False)
    prior = published_prior('sd_img2img', dtype='float32', vae_slice=0)
    assert jax.tree.map(np.shape, shapes.weights) == jax.tree.map(np.shape, generator.weights)
    task, _, start, whole = shape_latent(
        prior, TRAINING | {'objective': OBJECTIVE | {'size_px': 0}}, ['a', 'b']
    )
    assert whole.state_shape == (64, 64, 4)
    assert task.frozen['captions'].shape == (3, 77, 768)
    assert sum(x.size for x in jax.tree.leaves(start)) == 859_520_964


def test_what_cannot_learn_is_refused(place):
    with pytest.raises(UserError, match='float16'):
        train(place, 'half', objective=OBJECTIVE | {'dtype': 'float16'})
    with pytest.raises(UserError, match="'pixel'"):
        shape_latent(published_prior('pixel', dtype='float32', vae_slice=0), TRAINING, ['a'])


def test_a_config_of_it_passes_check_and_runs_through_the_chain(place, tmp_path):
    write_pictures(tmp_path, 48, 24, size_px=16, classes=15)
    config = load_config(
        f'{ROOT}/configs/castle_walls.py:setting=caltech15,source=arrays:{tmp_path},prior={place}/prior,weights=none'
    )
    small = {'name': 'resnet', 'stages': [1], 'block': 'preact', 'width': 4, 'norm': 'group'}
    small |= {'stem': 'small', 'dtype': 'float32'}
    config.pop('dissection')
    for part in (config['teacher'], config['student']):
        part |= {'network': small, 'batch': 8}
    config['source'] |= {'size_px': 16}
    config['shard_size'] = 32
    config['run'] |= {'inference_batch': 32, 'batch_per_device': 1, 'vae_slice': 1}
    config['defense'] |= {'images': 8, 'probe': {'labels': [], 'images': 0}, 'scores': {}}
    config['defense']['generator'] |= {'epochs': 0, 'steps': 1, 'batch': 8}
    config['defense']['generator']['objective'] |= {'size_px': 8}
    config['defense']['sampling'] |= {'steps': 2}
    found = check(config)
    assert not found.problems
    assert any('203,204 parameters' in note for note in found.notes)
    chain = run_chain(config, tmp_path / 'stages', ['prepare', 'generator', 'generated'])
    assert len(Split(chain.folder('generated'), 'train')) == 8
    assert from_pretrained(chain.folder('generator')).class_name == 'StableDiffusionPipeline'
