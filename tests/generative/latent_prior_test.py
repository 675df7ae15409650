"""What latent priors promise: rows alone, programs once, no words between devices."""

import dataclasses
import re
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from PIL import Image

from purify.core import devices
from purify.core.errors import UserError
from purify.core.randomness import id_keys
from purify.data.loader import Record
from purify.defenses.method import Context
from purify.defenses.registry import DEFENSES
from purify.generative.open_prior import VARIATION_MODELS
from purify.models.clip.clip_pixels import CLIP_MEAN, CLIP_STD
from purify.models.files.pipelines import Pipeline
from purify.train import inference
from purify.train.cost import Cost

KINDS = ('sd_variation', 'versatile', 'sd_img2img')
NAMES = ['tench', 'cassette_player', 'church']
OWN = {'sd_img2img': {'strength': 0.7, 'caption': 'A photo of a {}'}}
IMAGES = np.random.default_rng(0).integers(0, 256, (5, 24, 24, 3), np.uint8)
COLLECTIVES = re.compile(
    r'all-reduce|all-gather|all-to-all|collective-permute|reduce-scatter|collective-broadcast'
)
SCHEDULER = {'_class_name': 'DDIMScheduler', 'beta_schedule': 'scaled_linear'}
SCHEDULER |= {'beta_start': 0.00085, 'beta_end': 0.012}
SCHEDULER |= {'clip_sample': False, 'set_alpha_to_one': False, 'steps_offset': 1}


class Networks:
    """Stand-ins that are compiled in no time: the real ones are compared with PyTorch elsewhere."""

    class UNet(nnx.Module):
        config: ClassVar = {'sample_size': 6, 'block_out_channels': [4, 4]}

        def __init__(self, rngs, dtype):
            self.mix = nnx.Linear(4, 4, dtype=dtype, rngs=rngs)
            self.listen = nnx.Linear(8, 4, dtype=dtype, rngs=rngs)

        def __call__(self, x, t, context):
            heard = jnp.tanh(self.listen(context)).mean(1)[:, None, None]
            return (self.mix(x) + heard * (1 + t[:, None, None, None] / 1000)).astype(jnp.float32)

    class VAE(nnx.Module):
        config: ClassVar = {'latent_channels': 4}
        factor, scaling_factor = 4, 0.18215

        def __init__(self, rngs, dtype):
            self.down = nnx.Conv(3, 4, (4, 4), strides=4, dtype=dtype, rngs=rngs)
            self.up = nnx.ConvTranspose(4, 3, (4, 4), strides=4, dtype=dtype, rngs=rngs)

        def encode(self, x):
            mean = self.down(x).astype(jnp.float32)
            return mean, jnp.zeros_like(mean) - 4

        def decode(self, z):
            return jnp.tanh(self.up(z)).astype(jnp.float32)

    class Eye(nnx.Module):
        config: ClassVar = {}

        def __init__(self, rngs, dtype):
            self.patch = nnx.Conv(3, 8, (8, 8), strides=8, dtype=dtype, rngs=rngs)
            self.projection = nnx.Linear(8, 8, dtype=dtype, rngs=rngs)

        def __call__(self, pixels):
            tokens = self.patch(pixels).reshape(len(pixels), -1, 8)
            return self.project(tokens)[:, 0].astype(jnp.float32), tokens.astype(jnp.float32)

        def project(self, tokens):
            return self.projection(tokens).astype(jnp.float32)

    class Ear(nnx.Module):
        config: ClassVar = {'vocab_size': 64}

        def __init__(self, rngs, dtype):
            self.embed = nnx.Embed(64, 8, dtype=dtype, rngs=rngs)

        def __call__(self, ids):
            state = self.embed(ids).astype(jnp.float32)
            return state, state[:, -1]


class Tokenizer:
    size = 64

    def __call__(self, captions):
        return np.array(
            [[len(word) % 64 for word in (caption.split() + [''] * 6)[:6]] for caption in captions],
            np.int32,
        )


def make_pipeline(kind, dtype='float32'):
    rngs = nnx.Rngs(0)
    parts = {'vae': Networks.VAE(rngs, dtype), 'scheduler': SCHEDULER}
    if kind == 'sd_img2img':
        parts |= {'unet': Networks.UNet(rngs, dtype), 'text_encoder': Networks.Ear(rngs, dtype)}
        parts |= {'tokenizer': Tokenizer()}
    else:
        unet = 'image_unet' if kind == 'versatile' else 'unet'
        parts |= {unet: Networks.UNet(rngs, dtype), 'image_encoder': Networks.Eye(rngs, dtype)}
        parts |= {
            'feature_extractor': {
                'size': {'shortest_edge': 32},
                'crop_size': {'height': 32, 'width': 32},
            }
        }
    return Pipeline(kind, parts)


def open_prior(kind, dtype='float32', **options):
    return VARIATION_MODELS[kind].from_pipeline(make_pipeline(kind, dtype), dtype=dtype, **options)


@pytest.fixture(scope='module', params=KINDS)
def prior(request):
    return open_prior(request.param)


def settings(prior, **changes):
    return {'steps': 2, 'guidance': 3.0, 'size_px': 16} | OWN.get(prior.model, {}) | changes


def vary(prior, images=IMAGES, ids=None, labels=None, **changes):
    ids = np.arange(len(images)) if ids is None else np.asarray(ids)
    labels = ids % 3 if labels is None else np.asarray(labels)
    run = jax.jit(prior.vary(NAMES, **settings(prior, **changes)))
    out = run(
        prior.weights,
        jnp.asarray(images / 127.5 - 1, jnp.float32),
        labels,
        id_keys(jax.random.key(0), ids),
    )
    return np.asarray(out)


@pytest.mark.long
def test_a_row_is_a_function_of_its_image_label_and_key(prior):
    whole = vary(prior)
    assert whole.shape == (5, 16, 16, 3)
    assert np.abs(whole).max() <= 1
    np.testing.assert_allclose(vary(prior, IMAGES[[3, 1]], [3, 1]), whole[[3, 1]], atol=2e-5)
    assert np.abs(vary(prior, IMAGES[[3, 1]], [4, 1])[0] - whole[3]).max() > 1e-2
    other = vary(prior, 255 - IMAGES)
    assert (np.abs(other - whole).max((1, 2, 3)) > 1e-4).all()


@pytest.mark.long
def test_the_label_speaks_through_the_caption_alone(prior):
    apart = np.abs(vary(prior, labels=[0, 0, 0, 0, 0]) - vary(prior, labels=[0, 0, 1, 0, 0])).max(
        (1, 2, 3)
    )
    speaks = prior.model == 'sd_img2img'
    assert (apart[[0, 1, 3, 4]] < 2e-5).all()
    assert (apart[2] > 1e-4) == speaks


def test_vae_slices_change_nothing():
    prior = open_prior('sd_img2img')  # which encodes, too
    sliced = open_prior('sd_img2img', vae_slice=2)  # five rows: the last slice is filled up
    np.testing.assert_allclose(vary(sliced), vary(prior), atol=2e-5)


@pytest.mark.long
def test_guidance_one_is_the_condition_alone_and_more_goes_beyond():
    prior = open_prior('sd_variation')
    outs = [vary(prior, guidance=scale) for scale in (1, 1.0001, 3.0)]
    np.testing.assert_allclose(outs[0], outs[1], atol=1e-3)
    assert np.abs(outs[2] - outs[0]).max() > 1e-3


@pytest.mark.long
def test_bfloat16_stays_near():
    prior, half = (open_prior('sd_variation', dtype) for dtype in ('float32', 'bfloat16'))
    kernels = half.weights[prior.unet]['params']['mix']
    assert {leaf.dtype for leaf in jax.tree.leaves(kernels)} == {jnp.dtype('bfloat16')}
    error = np.abs(vary(half) - vary(prior))
    assert error.max() > 1e-4
    assert error.mean() < 0.05


def test_a_vae_that_overflows_in_float16_keeps_its_float32_weights(monkeypatch):
    for force, dtype in ((True, 'float32'), (False, 'float16')):
        monkeypatch.setitem(Networks.VAE.config, 'force_upcast', force)
        weights = open_prior('sd_variation', 'float16').weights
        assert weights['vae']['params']['up']['kernel'].dtype == dtype
        assert weights['unet']['params']['mix']['kernel'].dtype == 'float16'


def rule(prior):
    vary = settings(prior, model=prior.model)
    defense = DEFENSES.make(
        'variations', copies=1, vary=vary, colour_transfer=True, epsilon=1e-6, dtype='float32'
    )
    return defense.rule({'prior': prior}, Context((24, 24, 3), 0, NAMES))


def fetch(i) -> Record:
    return {
        'image': IMAGES[i % 5],
        'id': np.int32(i),
        'label': np.int32(i % 3),
        'variation': np.int32(0),
    }


@pytest.mark.long
def test_one_program_without_collectives_for_a_ragged_dataset_on_eight_devices(prior, monkeypatch):
    compiled, mesh = [], devices.local_mesh()

    def compile_rows(*args):
        compiled.append(inference_compile(*args))
        return compiled[-1]

    inference_compile = inference.compile_rows
    monkeypatch.setattr(inference, 'compile_rows', compile_rows)
    constants = devices.put_copy({'prior': prior.weights}, mesh)
    batches = inference.map_images(
        rule(prior), constants, fetch, range(19), batch=8, mesh=mesh, cost=Cost()
    )
    out = np.concatenate([made['image'] for _, made in batches])
    assert out.shape == (19, 24, 24, 3)
    assert out.dtype == np.uint8
    assert len(compiled) == 1
    program, flops = compiled[0]
    assert not COLLECTIVES.findall(program.as_text())
    assert flops > 0
    alone = devices.put_copy(
        {'prior': prior.weights}, one := jax.make_mesh((1,), ('data',), devices=jax.devices()[:1])
    )
    few = [2, 17]
    (_, same), *_ = inference.map_images(
        rule(prior), alone, fetch, few, batch=2, mesh=one, cost=Cost()
    )
    assert np.abs(same['image'].astype(int) - out[few]).max() <= 1


def test_the_search_for_collectives_can_find_one():
    mesh = devices.local_mesh()
    total = jax.jit(lambda x: x.sum(), in_shardings=devices.batched(mesh))
    assert COLLECTIVES.search(total.lower(jnp.ones(8)).compile().as_text())


@pytest.mark.long
@pytest.mark.parametrize('size', [(40, 40), (24, 24), (32, 32)])
def test_clips_view_is_pillows(size):
    prior = open_prior('sd_variation')
    images = np.random.default_rng(1).integers(0, 256, (2, *size, 3), np.uint8)
    ours = prior.preprocess(jnp.asarray(images / 255, jnp.float32))
    theirs = np.stack(
        [
            np.asarray(Image.fromarray(image).resize((32, 32), Image.Resampling.BICUBIC))
            for image in images
        ]
    )
    mean, std = np.asarray(CLIP_MEAN), np.asarray(CLIP_STD)
    assert np.abs(np.asarray(ours) * std + mean - theirs / 255).max() < 1.01 / 255


def test_generate_is_vary_from_given_noise():
    prior = open_prior('sd_variation')
    noise = np.random.default_rng(0).normal(size=(2, 6, 6, 4)).astype(np.float32)
    pixels = prior.preprocess(jnp.asarray(IMAGES[:2] / 255, jnp.float32))
    out = prior.generate(pixels, noise, steps=2, guidance=3.0)
    assert out.shape == (2, 24, 24, 3)
    assert np.array_equal(out, prior.generate(pixels, noise, steps=2, guidance=3.0))
    assert len(prior.programs) == 2  # the weights on the device, and one program
    with pytest.raises(UserError, match='keys'):
        prior.generate(pixels, noise, steps=2, sampler='ddim', eta=1.0)


@pytest.mark.parametrize(
    ('kind', 'changes', 'words'),
    [
        ('sd_variation', {'size_px': 15}, 'size_px=15'),
        ('sd_variation', {'size_px': 20}, 'multiple of 8'),  # five latents cannot be halved
        ('sd_variation', {'sampler': 'heun'}, 'ddim, ddpm'),
        ('sd_variation', {'steps': 0}, 'steps'),
        ('sd_img2img', {'strength': 0.0}, 'strength'),
        ('sd_img2img', {'caption': ''}, 'caption'),
        ('versatile', {'guidance': float('nan')}, 'guidance'),
    ],
)
def test_settings_that_cannot_be(kind, changes, words):
    with pytest.raises(UserError, match=words):
        vary(open_prior(kind), **changes)


def test_a_pipeline_without_a_part_is_refused():
    pipeline = make_pipeline('sd_variation')
    with pytest.raises(UserError, match='text_encoder'):
        VARIATION_MODELS['sd_img2img'].from_pipeline(pipeline)
    other = make_pipeline('sd_img2img')
    other.parts['tokenizer'].size = 65
    with pytest.raises(UserError, match='65 tokens'):
        VARIATION_MODELS['sd_img2img'].from_pipeline(other)


def test_clips_view_of_an_oblong_is_its_middle():
    prior = open_prior('sd_variation')
    image = np.zeros((1, 32, 64, 3), np.float32)
    image[:, :, 16:48] = 1
    assert np.ptp(np.asarray(prior.preprocess(jnp.asarray(image))), axis=(1, 2)).max() == 0


@pytest.mark.parametrize(
    'change',
    [
        {'resample': 2},
        {'rescale_factor': 1.0},
        {'size': {'height': 32, 'width': 16}},
        {'crop_size': 40},
        {'image_std': [0, 0, 0]},
        {'image_mean': [0.5]},
        {'do_resize': False},
    ],
)
def test_other_preprocessing_is_refused_by_name(change):
    prior = open_prior('sd_variation')
    other = dataclasses.replace(prior, processor=prior.processor | change)
    with pytest.raises(UserError, match=next(iter(change))):
        other.preprocess(jnp.zeros((1, 32, 32, 3)))
