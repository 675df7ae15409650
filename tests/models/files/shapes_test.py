import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from purify.core.errors import UserError
from purify.models.files.hub import COMPONENTS
from purify.models.files.pipelines import MODELS, from_pretrained, save_pretrained, told_class
from purify.models.files.shapes import (
    PIPELINES,
    SHAPES,
    byte_tokenizer,
    draw_weights,
    random_pipeline,
)
from purify.models.files.weights import abstract_model


def arrays(network):
    return {
        path: variable.get_value()
        for path, variable in nnx.to_flat_state(nnx.state(network, nnx.Param))
    }


@pytest.mark.long
@pytest.mark.parametrize(
    ('shapes', 'part', 'class_name', 'expected'),
    [  # as PyTorch's libraries count them
        ('sd1', 'unet', 'UNet2DConditionModel', 859_520_964),
        ('sd2', 'unet', 'UNet2DConditionModel', 865_910_724),
        ('sd1', 'vae', 'AutoencoderKL', 83_653_863),
        ('sd1', 'image_encoder', 'CLIPVisionModelWithProjection', 303_966_208),
        ('sd1', 'text_encoder', 'CLIPTextModel', 123_060_480),
        ('sd2', 'text_encoder', 'CLIPTextModel', 340_387_840),
        ('tiny', 'unet', 'UNet2DConditionModel', 203_204),
        ('tiny', 'vae', 'AutoencoderKL', 104_031),
        ('tiny', 'image_encoder', 'CLIPVisionModelWithProjection', 24_960),
        ('tiny', 'text_encoder', 'CLIPTextModel', 34_112),
    ],
)
def test_networks_have_as_many_parameters_as_the_published_ones(shapes, part, class_name, expected):
    network = abstract_model(MODELS[class_name], SHAPES[shapes][part])
    assert sum(array.size for array in arrays(network).values()) == expected


def test_versatile_diffusion_has_the_networks_of_stable_diffusion_1():
    assert all(
        SHAPES['versatile'][name] == SHAPES['sd1'][name]
        for name in ('unet', 'vae', 'image_encoder')
    )


@pytest.mark.parametrize('shapes', SHAPES)
def test_what_conditions_fits_what_is_conditioned(shapes):
    parts = SHAPES[shapes]
    width = parts['unet']['cross_attention_dim']
    assert parts.get('image_encoder', {}).get('projection_dim', width) == width
    assert parts.get('text_encoder', {}).get('hidden_size', width) == width
    assert parts['unet']['in_channels'] == parts['vae']['latent_channels']
    if 'image_encoder' in parts:
        wanted = parts['image_encoder']['image_size']
        assert parts['feature_extractor']['crop_size']['height'] == wanted


@pytest.mark.long
@pytest.mark.parametrize('kind', PIPELINES)
def test_a_random_pipeline_is_whole_and_can_be_written_and_read(kind, tmp_path):
    pipeline = random_pipeline(kind, 'tiny', seed=1)
    save_pretrained(pipeline, tmp_path)
    back = from_pretrained(tmp_path)
    assert back.class_name == pipeline.class_name == PIPELINES[kind]
    assert set(back.parts) == set(pipeline.parts) == set(COMPONENTS[PIPELINES[kind]])
    for name, part in pipeline.parts.items():
        if isinstance(part, nnx.Module):
            expected = arrays(part)
            assert all(
                np.array_equal(value, expected[path])
                for path, value in arrays(back.parts[name]).items()
            )


def random_network(config, *, seed, stream, dtype='float32'):
    network = abstract_model(MODELS[told_class(config)], config, dtype=dtype)
    draw_weights(network, seed=seed, stream=stream, dtype=dtype)
    return network


@pytest.mark.long
def test_weights_are_a_function_of_seed_and_name_and_never_zero():
    config = SHAPES['tiny']['vae']
    first, again = (arrays(random_network(config, seed=3, stream='vae')) for _ in range(2))
    other_seed = arrays(random_network(config, seed=4, stream='vae'))
    other_name = arrays(random_network(config, seed=3, stream='unet'))
    for path, value in first.items():
        assert isinstance(value, np.ndarray)
        np.testing.assert_array_equal(value, again[path])
        assert (value != 0).all()
        for other in (other_seed, other_name):
            assert not np.array_equal(value, other[path])
    drawn = [value.ravel()[:9].tolist() for value in first.values() if value.size > 8]
    assert len({tuple(values) for values in drawn}) == len(drawn)  # no two arrays are alike


def test_half_precision_leaves_norms_alone_and_is_the_rounded_weight():
    config = SHAPES['tiny']['text_encoder']
    whole, half = (
        arrays(random_network(config, seed=0, stream='x', dtype=dtype))
        for dtype in ('float32', 'bfloat16')
    )
    for path, value in half.items():
        assert value.dtype == (np.float32 if 'norm' in str(path[-2]) else jnp.bfloat16)
        np.testing.assert_array_equal(value, whole[path].astype(value.dtype))


@pytest.mark.long
def test_what_flows_through_keeps_its_size():
    graph, state = nnx.split(random_pipeline('sd_variation', 'tiny', seed=0).parts['unet'])
    latents = jax.random.normal(jax.random.key(0), (2, 8, 8, 4))
    call = jax.jit(
        lambda state, x: nnx.merge(graph, state)(x, jnp.float32(500), jnp.ones((2, 3, 32)))
    )
    quick: dict[str, str | bool] = {'xla_backend_optimization_level': '0'}
    out = call.lower(state, latents).compile(quick)(state, latents)
    assert 0.1 < float(jnp.std(out)) < 10


def test_the_tokenizer_spells_any_text_within_the_vocabulary():
    for shapes in ('tiny', 'sd1'):
        config = SHAPES[shapes]['text_encoder']
        ids = byte_tokenizer(config)(['a b', 'Ünïcode \x00 €', ''])
        assert ids.shape == (3, config['max_position_embeddings'])
        assert ids.min() >= 0
        assert ids.max() < config['vocab_size']
        start, end = config['bos_token_id'], config['eos_token_id']
        # 'a' and 'b' end words; GPT-2's alphabet has them at their own bytes
        assert ids[0, :5].tolist() == [start, 256 + ord('a'), 256 + ord('b'), end, end]
        assert ids[2].tolist() == [start] + [end] * (len(ids[2]) - 1)


@pytest.mark.parametrize(
    ('kind', 'shapes', 'fragments'),
    [
        ('sd_variations', 'sd1', ["'sd_variations'", 'sd_variation, versatile, sd_img2img']),
        ('sd_variation', 'sd2', ["'sd2'", 'sd_variation', 'sd1, versatile, small, tiny']),
        ('sd_img2img', 'huge', ["'huge'", 'sd1, sd2, small, tiny']),
    ],
)
def test_what_there_is_not(kind, shapes, fragments):
    with pytest.raises(UserError) as error:
        random_pipeline(kind, shapes, seed=0)
    assert all(fragment in str(error.value) for fragment in fragments)
