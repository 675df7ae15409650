"""Learning in latents, on stand-ins that are compiled in no time; beside PyTorch's networks it is
in latent_parity_test.
"""

from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from purify.core.errors import UserError
from purify.diffusion.schedules import make_noise_schedule
from purify.models.files.pipelines import Pipeline, save_pretrained
from purify.models.files.shapes import random_pipeline
from purify.train.objectives import denoise_latents as latent
from purify.train.objectives.denoise_latents import (
    DenoiseLatents,
    caption_table,
    image_size,
    in_colour,
    read_stable_diffusion,
)
from purify.train.state import split_network

SCHEDULE = make_noise_schedule('scaled_linear', 50)
BATCH = {
    'image': np.random.default_rng(0).integers(0, 256, (7, 12, 12, 3), np.uint8),
    'label': np.array([0, 1, 2, 0, 1, 2, 1], np.int32),
}
CAPTIONS = np.random.default_rng(1).normal(size=(4, 5, 6)).astype(np.float32)


class UNet(nnx.Module):
    """Linear in what it sees and hears."""

    def __init__(self, rngs):
        self.mix, self.listen = nnx.Linear(4, 4, rngs=rngs), nnx.Linear(6, 4, rngs=rngs)

    def __call__(self, x, t, context, *, key=None):
        return (
            self.mix(x)
            + (t / 50)[:, None, None, None] * self.listen(context).mean(1)[:, None, None]
        )


class VAE(nnx.Module):
    """Four pixels are a latent."""

    def __init__(self, rngs):
        self.down = nnx.Conv(3, 8, (4, 4), strides=4, rngs=rngs)

    def encode(self, x):
        return jnp.split(self.down(x), 2, axis=-1)


def task(drop=0.0, prediction='epsilon', size_px=12):
    (graph, params, stats) = split_network(UNet(nnx.Rngs(0)))
    (vae_graph, *frozen) = split_network(VAE(nnx.Rngs(1)))
    frozen = {
        'vae': dict(zip(('params', 'stats'), frozen, strict=True)),
        'captions': jnp.asarray(CAPTIONS),
    }
    schedule = make_noise_schedule('scaled_linear', 50, prediction=prediction)
    return (
        DenoiseLatents(graph, vae_graph, schedule, size_px, 0.2, drop, 0.0, frozen),
        params,
        stats,
    )


def call(made, batch=BATCH, seed=0):
    learned, params, stats = made
    return jax.jit(learned)(params, stats, learned.frozen, batch, jax.random.key(seed))


@pytest.mark.long
@pytest.mark.parametrize('prediction', ['epsilon', 'v_prediction', 'sample'])
def test_the_loss_is_the_mean_square_of_what_the_schedule_asks_for(prediction):
    made = learned, params, _ = task(prediction=prediction)
    latents, noise, t, context = (
        np.asarray(x, np.float64)
        for x in learned.draw(learned.frozen, BATCH, jax.random.split(jax.random.key(0))[0])
    )
    mind, errors = jax.tree.map(np.float64, params), []
    for x0, eps, step, heard in zip(latents, noise, t.astype(int), context, strict=True):
        kept = np.prod(1 - SCHEDULE.betas[: step + 1])
        x = np.sqrt(kept) * x0 + np.sqrt(1 - kept) * eps
        voice = (heard @ mind['listen']['kernel'] + mind['listen']['bias']).mean(0)
        said = x @ mind['mix']['kernel'] + mind['mix']['bias'] + step / 50 * voice
        goals = {
            'epsilon': eps,
            'sample': x0,
            'v_prediction': np.sqrt(kept) * eps - np.sqrt(1 - kept) * x0,
        }
        errors.append((said - goals[prediction]) ** 2)
    loss, (_, metrics) = call(made)
    assert metrics == {}
    assert float(loss) == pytest.approx(np.mean(errors), rel=1e-5)
    assert float(call(made, seed=1)[0]) != float(loss)


@pytest.mark.long
def test_latents_are_drawn_about_the_vaes_mean_and_scaled():
    learned, *_ = task()
    latents, noise, t, context = jax.vmap(lambda key: learned.draw(learned.frozen, BATCH, key))(
        jax.random.split(jax.random.key(3), 2000)
    )
    weights = {name: np.float64(x) for name, x in learned.frozen['vae']['params']['down'].items()}
    patches = (BATCH['image'] / 127.5 - 1).reshape(7, 3, 4, 3, 4, 3).transpose(0, 1, 3, 2, 4, 5)
    moments = np.einsum('nhwabc,abcd->nhwd', patches, weights['kernel']) + weights['bias']
    mean, deviation = moments[..., :4], np.exp(moments[..., 4:] / 2)
    drawn = (np.asarray(latents, np.float64) / 0.2 - mean) / deviation
    assert np.abs(drawn.mean(0)).max() < 0.13
    assert np.abs(drawn.std(0) - 1).max() < 0.09
    assert abs(np.corrcoef(drawn.ravel(), np.asarray(noise).ravel())[0, 1]) < 0.01
    assert set(np.unique(t)) == set(range(50))
    np.testing.assert_array_equal(context, np.broadcast_to(CAPTIONS[BATCH['label']], context.shape))


@pytest.mark.long
def test_so_many_captions_give_way_to_the_empty_one():
    learned, *_ = task(drop=0.3)
    keys = jax.random.split(jax.random.key(0), 600)
    context = np.asarray(jax.vmap(lambda key: learned.draw(learned.frozen, BATCH, key)[3])(keys))
    empty, told = ((context == x).all((2, 3)) for x in (CAPTIONS[3], CAPTIONS[BATCH['label']]))
    assert (empty ^ told).all()
    assert empty.mean(0) == pytest.approx(np.full(7, 0.3), abs=0.06)


def test_only_the_unet_is_given_a_gradient():
    learned, params, stats = task()
    loss_of = jax.jit(lambda p: learned(p, stats, learned.frozen, BATCH, jax.random.key(0))[0])
    grads = jax.jit(jax.grad(loss_of))(params)
    assert jax.tree.structure(grads) == jax.tree.structure(params)
    assert loss_of(jax.tree.map(lambda p, g: p - 0.01 * g, params, grads)) < loss_of(params)
    assert all(float(jnp.abs(x).max()) > 0 for x in jax.tree.leaves(grads))


@pytest.mark.long
def test_other_sizes_and_grey_images_are_made_to_fit():
    learned, *_ = task(size_px=8)
    grey = {'image': np.full((2, 12, 12, 1), 200, np.uint8), 'label': np.zeros(2, np.int32)}
    coloured = grey | {'image': np.full((2, 8, 8, 3), 200, np.uint8)}
    made, same = (
        learned.draw(learned.frozen, batch, jax.random.key(0))[0] for batch in (grey, coloured)
    )
    assert made.shape == (2, 2, 2, 4)
    np.testing.assert_allclose(made, same, atol=1e-5)
    assert in_colour(jnp.ones((1, 2, 2, 3))).shape == (1, 2, 2, 3)


@pytest.mark.parametrize('drop', [-0.1, 1.0])
def test_a_chance_that_is_none_is_refused(drop):
    with pytest.raises(UserError, match='drop'):
        task(drop=drop)


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp('tiny')
    save_pretrained(random_pipeline('sd_img2img', 'tiny', seed=0), made)
    return made


@pytest.fixture(scope='module')
def pipeline(folder):
    return read_stable_diffusion(folder, 'bfloat16')


@pytest.mark.long
def test_captions_are_those_of_the_names_written_out(pipeline, monkeypatch):
    monkeypatch.setattr(latent, 'AT_ONCE', 2)  # five captions are three turns
    table = caption_table(pipeline, ['n01440764', 'chain_saw', 'church', '7'], 'A photo of a {}')
    said = ['A photo of a tench', 'A photo of a chain saw', 'A photo of a church', 'A photo of a 7']
    said += ['']
    encoder, tokenizer = pipeline.parts['text_encoder'], pipeline.parts['tokenizer']
    assert table.shape == (5, 16, 32)
    assert table.dtype == np.float32
    alone = nnx.jit(lambda encoder, ids: encoder(ids)[0][0])
    for row, caption in zip(table, said, strict=True):
        np.testing.assert_allclose(row, alone(encoder, tokenizer([caption])), atol=2e-5)
    assert np.abs(table[0] - table[2]).max() > 1e-2


def test_a_folder_without_its_tensors_gives_the_same_shapes(folder, pipeline):
    shapes = read_stable_diffusion(folder, 'bfloat16', weights=False)
    ours, theirs = (caption_table(x, ['a', 'b'], 'a {}') for x in (shapes, pipeline))
    assert isinstance(ours, jax.ShapeDtypeStruct)
    assert (ours.shape, ours.dtype) == (theirs.shape, theirs.dtype)


def test_a_caption_that_tells_no_class_is_refused(pipeline):
    with pytest.raises(UserError, match='A photo'):
        caption_table(pipeline, ['a', 'b'], 'A photo')


def test_a_tokenizer_of_another_model_is_refused(pipeline):
    class Small(nnx.Module):
        config: ClassVar = {'vocab_size': 40}

    with pytest.raises(UserError, match='40'):
        caption_table(Pipeline('', pipeline.parts | {'text_encoder': Small()}), ['a'], 'a {}')


@pytest.mark.parametrize(('given', 'size_px'), [(0, 16), (8, 8), (24, 24)])
def test_sizes_that_can_be_learned(pipeline, given, size_px):
    assert image_size(pipeline, given) == size_px


@pytest.mark.parametrize('size_px', [-4, 2, 18])
def test_sizes_that_cannot(pipeline, size_px):
    with pytest.raises(UserError, match='multiples of 4'):
        image_size(pipeline, size_px)


def test_other_pipelines_are_refused(tmp_path):
    save_pretrained(random_pipeline('sd_variation', 'tiny', seed=0), tmp_path / 'variation')
    with pytest.raises(UserError, match='StableDiffusionImageVariationPipeline'):
        read_stable_diffusion(tmp_path / 'variation', 'float32')
    with pytest.raises(UserError, match='StableDiffusionPipeline'):
        read_stable_diffusion(tmp_path, 'float32')
