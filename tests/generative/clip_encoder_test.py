"""CLIP as an encoder, against PyTorch's answers; the settings of the step that trains one."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden.weights import GOLDEN, fill, materialise
from PIL import Image
from safetensors.numpy import load_file, save_file

from purify.core.errors import UserError
from purify.defenses.registry import DEFENSES
from purify.defenses.steps import encoder_step, simclr
from purify.generative.clip_encoder import ClipEncoder
from purify.models.classifiers.registry import NETWORKS
from purify.models.clip.clip_pixels import CLIP_MEAN, CLIP_STD
from purify.stages.train_classifier import classifier
from purify.train.optim import OPTIMIZERS
from purify.train.views import Views

CASES = ('clip_vision_gelu', 'clip_vision_quick_gelu')
RNG = np.random.default_rng(0)


def answers(case):
    """(images whose pixel values are those that PyTorch was given, its image embeddings)."""
    with np.load(GOLDEN / case / 'io.npz') as io:
        pixels = io['pixel_values'].transpose(0, 2, 3, 1)
        return pixels * np.float32(CLIP_STD) + np.float32(CLIP_MEAN), io['image_embeds']


def embed(encoder, images):
    return np.asarray(jax.jit(encoder.embed)(encoder.weights, jnp.asarray(images, jnp.float32)))


@pytest.mark.long
@pytest.mark.parametrize('case', CASES)
def test_embeddings_are_pytorchs(case, tmp_path):
    images, expected = answers(case)
    encoder = ClipEncoder.from_folder(materialise(GOLDEN / case, tmp_path / case))
    np.testing.assert_allclose(embed(encoder, images), expected, rtol=0, atol=1e-4)


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    return materialise(GOLDEN / CASES[1], tmp_path_factory.mktemp('clip') / 'vision')


def test_of_a_whole_clip_the_image_encoder_is_read(folder, tmp_path):
    vision = json.loads((folder / 'config.json').read_text())
    whole = {'architectures': ['CLIPModel'], 'model_type': 'clip', 'projection_dim': 12}
    whole |= {'vision_config': vision}
    (tmp_path / 'config.json').write_text(json.dumps(whole | {'text_config': {}}))
    tensors = load_file(folder / 'model.safetensors')
    words = {
        'text_model.embeddings.token_embedding.weight': fill('words', (5, 4)),
        'logit_scale': np.full((1,), 4.6, np.float32),
    }
    save_file(tensors | words, tmp_path / 'model.safetensors')
    images, expected = answers(CASES[1])
    found = embed(ClipEncoder.from_folder(tmp_path), images)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)


@pytest.mark.long
def test_images_of_other_sizes_are_seen_as_pillow_resizes_them(folder):
    # of 16 px, with no preprocessor_config.json beside it
    encoder = ClipEncoder.from_folder(folder)
    images = RNG.integers(0, 256, (3, 8, 12, 3), np.uint8)
    wide = [
        Image.fromarray(image).resize((24, 16), Image.Resampling.BICUBIC).crop((4, 0, 20, 16))
        for image in images
    ]
    expected = embed(encoder, np.stack([np.asarray(image) for image in wide]) / 255)
    # Pillow rounds elsewhere
    np.testing.assert_allclose(embed(encoder, images / 255), expected, atol=0.02)
    assert np.abs(expected).max() > 0.5


def test_a_processor_beside_the_weights_is_obeyed(folder, tmp_path):
    settings = {'size': {'shortest_edge': 20}, 'crop_size': 16, 'image_mean': [0.5] * 3}
    settings |= {'image_std': [0.25] * 3}
    for file in folder.iterdir():
        (tmp_path / file.name).symlink_to(file)
    (tmp_path / 'preprocessor_config.json').write_text(json.dumps(settings))
    images = RNG.random((2, 20, 20, 3))
    pixels = (images[:, 2:18, 2:18] - 0.5) / 0.25
    expected = embed(
        ClipEncoder.from_folder(folder), pixels * np.array(CLIP_STD) + np.array(CLIP_MEAN)
    )
    found = embed(ClipEncoder.from_folder(tmp_path), images)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_grey_images_are_seen_in_three_channels_and_others_are_refused(folder):
    encoder, grey = ClipEncoder.from_folder(folder), RNG.random((2, 16, 16, 1))
    np.testing.assert_array_equal(embed(encoder, grey), embed(encoder, np.repeat(grey, 3, -1)))
    with pytest.raises(UserError, match='have 4'):
        embed(encoder, RNG.random((2, 16, 16, 4)))


def test_shapes_stand_for_weights_that_are_not_read(folder):
    encoder = ClipEncoder.from_folder(folder, weights=False)
    assert all(isinstance(x, jax.ShapeDtypeStruct) for x in jax.tree.leaves(encoder.weights))
    seen = jax.eval_shape(
        encoder.embed, encoder.weights, jax.ShapeDtypeStruct((2, 9, 9, 1), jnp.float32)
    )
    assert (seen.shape, seen.dtype) == ((2, 12), jnp.float32)


@pytest.mark.parametrize(
    'config',
    [
        {'model_type': 'vit'},
        {'architectures': ['CLIPTextModel'], 'model_type': 'clip_text_model'},
        {},
    ],
)
def test_other_models_are_refused_by_name(config, tmp_path):
    (tmp_path / 'config.json').write_text(json.dumps(config))
    with pytest.raises(UserError, match='no encoder of images'):
        ClipEncoder.from_folder(tmp_path)


def test_dbd_trains_its_encoder_by_the_same_step():
    network = NETWORKS.part('resnet18')
    student = classifier(network, OPTIMIZERS.part('adam', lr=1e-3), epochs=1, batch=8)
    settings = DEFENSES.part(
        'dbd', encoder={'epochs': 3.0, 'batch': 32, 'lr': 0.2}, views={'flip': 0.0}
    )
    first, *_ = DEFENSES.make(settings.pop('name'), **settings).method(student).steps
    optim = OPTIMIZERS.part('sgd', lr=0.2, weight_decay=1e-4)
    assert first == encoder_step(
        simclr(network, epochs=3, batch=32, views=Views(flip=0.0)) | {'optim': optim}
    )
