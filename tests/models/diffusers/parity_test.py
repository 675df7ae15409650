"""Ours beside PyTorch's in one process: settings drawn at random, files of each read by the other.

Needs the `parity` extra.
"""

import jax.numpy as jnp
import numpy as np
import PIL.Image
import pytest
from flax import nnx
from golden.chains import chains, error, ours, theirs
from golden.weights import fill

from purify.generative.open_prior import load_variation_model
from purify.models.files.pipelines import from_pretrained, save_pretrained
from purify.models.files.shapes import random_pipeline

pytestmark = pytest.mark.long

LIBRARIES = ('torch', 'diffusers', 'transformers')
NEEDED = 'the parity extra (torch, diffusers, transformers) is not installed'
torch, diffusers, transformers = (pytest.importorskip(name, reason=NEEDED) for name in LIBRARIES)

call = nnx.jit(lambda network, *inputs: network(*inputs))
encode = nnx.jit(lambda vae, images: vae.encode(images))
decode = nnx.jit(lambda vae, latents: vae.decode(latents))


def draw_unet(rng):
    levels = int(rng.integers(1, 4))
    attends = rng.random(levels) < 0.7
    heads = [int(n) for n in rng.choice([1, 2, 4], levels)]
    return diffusers.UNet2DConditionModel(
        sample_size=8,
        in_channels=int(rng.choice([3, 4])),
        out_channels=int(rng.choice([3, 4])),
        block_out_channels=[int(n) for n in rng.choice([8, 16, 24], levels)],
        down_block_types=[
            'CrossAttnDownBlock2D' if attend else 'DownBlock2D' for attend in attends
        ],
        up_block_types=[
            'CrossAttnUpBlock2D' if attend else 'UpBlock2D' for attend in attends[::-1]
        ],
        layers_per_block=int(rng.integers(1, 3)),
        transformer_layers_per_block=int(rng.integers(1, 3)),
        attention_head_dim=heads if rng.random() < 0.5 else heads[0],
        use_linear_projection=bool(rng.random() < 0.5),
        cross_attention_dim=int(rng.choice([6, 20])),
        norm_num_groups=int(rng.choice([2, 4])),
        flip_sin_to_cos=bool(rng.random() < 0.5),
        freq_shift=int(rng.integers(0, 2)),
    )


def draw_vae(rng):
    levels = int(rng.integers(1, 4))
    return diffusers.AutoencoderKL(
        block_out_channels=[int(n) for n in rng.choice([8, 16, 24], levels)],
        down_block_types=['DownEncoderBlock2D'] * levels,
        up_block_types=['UpDecoderBlock2D'] * levels,
        layers_per_block=int(rng.integers(1, 3)),
        latent_channels=int(rng.choice([3, 4])),
        norm_num_groups=int(rng.choice([2, 4])),
        use_quant_conv=bool(rng.random() < 0.5),
        use_post_quant_conv=bool(rng.random() < 0.5),
        mid_block_add_attention=bool(rng.random() < 0.5),
    )


def draw_clip(rng):
    heads = int(rng.choice([1, 2, 4]))
    return {
        'hidden_size': heads * int(rng.choice([4, 8])),
        'intermediate_size': int(rng.choice([12, 40])),
        'num_hidden_layers': int(rng.integers(1, 4)),
        'num_attention_heads': heads,
        'hidden_act': str(rng.choice(['gelu', 'quick_gelu'])),
    }


def draw_vision(rng):
    patch = int(rng.choice([2, 4]))
    config = transformers.CLIPVisionConfig(
        **draw_clip(rng),
        projection_dim=int(rng.choice([6, 20])),
        patch_size=patch,
        image_size=patch * int(rng.integers(1, 5)),
    )
    return transformers.CLIPVisionModelWithProjection(config)


def draw_text(rng):
    config = {'vocab_size': 40, 'max_position_embeddings': 9, 'bos_token_id': 38}
    config |= {'eos_token_id': int(rng.choice([2, 30]))}
    return transformers.CLIPTextModel(transformers.CLIPTextConfig(**draw_clip(rng), **config))


def answers(rng, theirs, ours):
    """(PyTorch's, ours) of the same random inputs, each a list of NCHW arrays."""
    kind = type(theirs).__name__
    if kind == 'UNet2DConditionModel':
        c, side = theirs.config, 2 ** len(theirs.config.block_out_channels)
        x = rng.normal(size=(2, c.in_channels, 2 * side, side)).astype(np.float32)
        t = rng.integers(0, 1000, 2)
        states = rng.normal(size=(2, 5, c.cross_attention_dim)).astype(np.float32)
        expected = [theirs(*map(torch.from_numpy, (x, t, states))).sample]
        made = [call(ours, nhwc(x), t, states)]
    elif kind == 'AutoencoderKL':
        side = 2 ** len(theirs.config.block_out_channels)
        x = rng.uniform(-1, 1, (2, 3, side, 2 * side)).astype(np.float32)
        posterior = theirs.encode(torch.from_numpy(x)).latent_dist
        expected = [posterior.mean, posterior.logvar, theirs.decode(posterior.mean).sample]
        made = [*encode(ours, nhwc(x)), decode(ours, nhwc(posterior.mean.numpy()))]
    elif kind == 'CLIPTextModel':
        ids = rng.integers(0, 40, (3, 9))
        ids[:, 5] = theirs.config.eos_token_id
        out = theirs(torch.from_numpy(ids))
        expected, made = [out.last_hidden_state, out.pooler_output], call(ours, jnp.asarray(ids))
    else:
        side = theirs.config.image_size
        x = rng.normal(size=(2, 3, side, side)).astype(np.float32)
        out = theirs(torch.from_numpy(x))
        expected, made = [out.image_embeds, out.last_hidden_state], call(ours, nhwc(x))
    made = [np.moveaxis(np.asarray(x), -1, 1) if x.ndim == 4 else x for x in made]
    return [x.numpy() for x in expected], made


def nhwc(x):
    return jnp.asarray(x.transpose(0, 2, 3, 1))


def agree(seed, theirs, ours, atol=1e-4):
    with torch.no_grad():
        expected, made = answers(np.random.default_rng(seed), theirs.eval(), ours)
    for one, other in zip(expected, made, strict=True):
        assert one.std() > 1e-3
        np.testing.assert_allclose(other, one, rtol=0, atol=atol)


def filled(network):
    """The network with every parameter random, norms and biases too."""
    network.load_state_dict(
        {
            name: torch.from_numpy(fill(name, tuple(x.shape)))
            for name, x in network.state_dict().items()
        }
    )
    return network


DRAWS = {'unet': draw_unet, 'vae': draw_vae, 'vision': draw_vision, 'text': draw_text}
WAYS = {  # what is stored: PyTorch's arguments for it, and ours
    'whole': ({}, {}),
    'sharded': ({'max_shard_size': '8KB'}, {'max_shard_bytes': 8000}),
    'half': ({}, {'dtype': 'float16'}),
}


@pytest.mark.parametrize('way', WAYS)
@pytest.mark.parametrize('kind', DRAWS)
def test_each_reads_what_the_other_wrote(kind, way, tmp_path):
    seed = [*WAYS].index(way)
    theirs = filled(DRAWS[kind](np.random.default_rng(seed)))
    (theirs.half() if way == 'half' else theirs).save_pretrained(
        tmp_path / 'theirs', **WAYS[way][0]
    )
    assert way != 'sharded' or len([*(tmp_path / 'theirs').glob('*.safetensors')]) > 1

    ours = from_pretrained(tmp_path / 'theirs')
    agree(seed, theirs.float(), ours)

    save_pretrained(ours, tmp_path / 'ours', **WAYS[way][1])
    assert way != 'sharded' or len([*(tmp_path / 'ours').glob('*.safetensors')]) > 1
    reopened, report = type(theirs).from_pretrained(tmp_path / 'ours', output_loading_info=True)
    assert not any(report[name] for name in ('missing_keys', 'unexpected_keys', 'mismatched_keys'))
    agree(seed + 1, reopened.float(), ours)
    before, after = settings(theirs), settings(reopened)
    assert {
        name: (value, after.get(name)) for name, value in before.items() if after.get(name) != value
    } == {}


def settings(network):
    """The config as JSON has it, without where it came from and what it is stored in."""
    config = (
        network.config.to_dict() if hasattr(network.config, 'to_dict') else dict(network.config)
    )
    kept = {name: value for name, value in config.items() if name[0] != '_' and name != 'dtype'}
    return {
        name: list(value) if isinstance(value, tuple) else value for name, value in kept.items()
    }


def test_a_folder_in_bfloat16_opens_there_as_here(tmp_path):
    theirs = filled(draw_vae(np.random.default_rng(3))).bfloat16()
    theirs.save_pretrained(tmp_path)
    agree(3, theirs.float(), from_pretrained(tmp_path))


@pytest.mark.parametrize('kind', ['sd_variation', 'versatile', 'sd_img2img'])
def test_a_pipeline_written_here_makes_the_same_images_there(kind, tmp_path):
    save_pretrained(random_pipeline(kind, 'tiny', seed=1), tmp_path)
    theirs = diffusers.DiffusionPipeline.from_pretrained(tmp_path)
    theirs.set_progress_bar_config(disable=True)
    ours = load_variation_model(tmp_path)
    rng = np.random.default_rng(2)
    pictures = rng.integers(0, 256, (2, 16, 16, 3), np.uint8)
    noise = rng.normal(size=(2, 4, 8, 8)).astype(np.float32)
    images = jnp.asarray(pictures / 255, jnp.float32)
    chain = {'num_inference_steps': 4, 'guidance_scale': 3.0, 'output_type': 'np'}
    if kind == 'sd_img2img':
        theirs = diffusers.StableDiffusionImg2ImgPipeline(
            **theirs.components, requires_safety_checker=False
        )
        theirs.set_progress_bar_config(disable=True)
        captions = ['A photo of a dog', 'a very long caption that has to be cut']
        seed = torch.Generator().manual_seed(3)
        expected = theirs(captions, nchw(images), strength=0.8, generator=seed, **chain).images
        drawn, noise = torch.randn(
            2, 2, 4, 8, 8, generator=torch.Generator().manual_seed(3)
        ).numpy()
        ids = {'input_ids': ours.tokens(captions), 'negative_input_ids': ours.tokens([''])}
        options = ids | {'encode_noise': nhwc(drawn), 'strength': 0.8}
        made = ours.generate(images, nhwc(noise), steps=4, guidance=3.0, **options)
    else:
        pils = [PIL.Image.fromarray(picture) for picture in pictures]
        expected = theirs(
            pils, height=16, width=16, latents=torch.from_numpy(noise), **chain
        ).images
        made = ours.generate(ours.preprocess(images), nhwc(noise), steps=4, guidance=3.0)
    assert expected.std() > 0.05
    np.testing.assert_allclose(made, expected, rtol=0, atol=2e-3)


def nchw(x):
    return torch.from_numpy(np.asarray(x).transpose(0, 3, 1, 2).copy())


@pytest.mark.parametrize('steps', [1, 10, 20, 50])
def test_chains_of_every_scheduler_end_where_theirs_do(steps):
    strengths = (1.0, 0.9, 0.35) if steps > 1 else (1.0,)
    drawn = np.random.default_rng(steps).permutation(np.array(chains(steps, strengths), object))[
        : 600 // steps
    ]
    errors = {chain.name: error(ours(chain), theirs(chain)) for chain in drawn}
    assert {name: difference for name, difference in errors.items() if not difference < 1e-4} == {}
