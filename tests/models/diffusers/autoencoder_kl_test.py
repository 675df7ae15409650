import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from golden.weights import OTHER
from support.networks import draw_parameters

from purify.core.errors import UserError
from purify.models.diffusers.autoencoder_kl import AutoencoderKL
from purify.models.files.weights import export_tensors, load_model

GOLDEN = OTHER / 'autoencoder_kl'
TINY = {'block_out_channels': [6, 9], 'down_block_types': ['DownEncoderBlock2D'] * 2}
TINY |= {'up_block_types': ['UpDecoderBlock2D'] * 2, 'latent_channels': 2, 'norm_num_groups': 3}
SINGLE = TINY | {
    'block_out_channels': [6],
    'down_block_types': ['DownEncoderBlock2D'],
    'up_block_types': ['UpDecoderBlock2D'],
}
DEEP = TINY | {
    'block_out_channels': [6, 6, 9],
    'down_block_types': ['DownEncoderBlock2D'] * 3,
    'up_block_types': ['UpDecoderBlock2D'] * 3,
}


def make(base=TINY, dtype=None, **changes):
    """A network whose every parameter is random: fresh blocks are the identity."""
    network = nnx.eval_shape(
        lambda: AutoencoderKL.from_config(base | changes, rngs=nnx.Rngs(0), dtype=dtype)
    )
    return draw_parameters(network)


def shapes_of(network, size=8):
    moments = nnx.eval_shape(
        lambda n: n.encode(jnp.zeros((1, size, size, n.config['in_channels']))), network
    )
    image = nnx.eval_shape(
        lambda n: n.decode(jnp.zeros((1, size, size, n.config['latent_channels']))), network
    )
    return moments[0].shape, moments[1].shape, image.shape


@pytest.fixture(scope='module')
def golden():
    if not GOLDEN.is_dir():
        pytest.skip(f'golden files not present: {GOLDEN}')
    with np.load(GOLDEN / 'io.npz') as arrays:
        return {
            name: arrays[name].transpose(0, 2, 3, 1)
            for name in ('image', 'mean', 'logvar', 'decoded')
        }


@pytest.fixture
def images():
    return jax.random.uniform(jax.random.key(1), (2, 4, 4, 3), minval=-1, maxval=1)


@pytest.fixture
def latents():
    return jax.random.normal(jax.random.key(2), (2, 2, 2, 2))


def errors(network, golden):
    """Largest differences to diffusers: mean, logvar, image decoded from diffusers' mean."""
    out = nnx.jit(lambda n: (*n.encode(golden['image']), n.decode(golden['mean'])))(network)
    assert all(answer.dtype == jnp.float32 for answer in out)
    return [
        np.abs(answer - golden[name]).max()
        for answer, name in zip(out, ('mean', 'logvar', 'decoded'), strict=True)
    ]


def test_outputs_of_diffusers(golden):
    assert max(errors(load_model(AutoencoderKL, GOLDEN), golden)) < 1e-4


def test_bfloat16_stays_near_float32_and_keeps_float32_weights(golden):
    network = load_model(AutoencoderKL, GOLDEN, dtype=jnp.bfloat16)
    found = errors(network, golden)
    wanted = {jnp.dtype('float32')}
    assert {p.dtype for p in jax.tree.leaves(nnx.state(network, nnx.Param))} == wanted
    # it did compute in bfloat16, and well
    for error, name in zip(found, ('mean', 'logvar', 'decoded'), strict=True):
        assert 1e-5 < error < 0.05 * np.abs(golden[name]).max()


@pytest.mark.long
def test_downsampling_pads_one_row_and_column_at_the_end():
    network = make()
    down = network.encoder.down_blocks[0].downsamplers[0]
    kernel = np.asarray(down.conv.kernel)[:, :, 0, 0]
    image = np.random.default_rng(0).normal(size=(4, 4))
    x = jnp.zeros((1, 4, 4, 6)).at[0, :, :, 0].set(image)
    padded = np.pad(image, ((0, 1), (0, 1)))
    expected = [[(padded[i : i + 3, j : j + 3] * kernel).sum() for j in (0, 2)] for i in (0, 2)]
    out = down(x) - down(jnp.zeros_like(x))  # without the bias
    np.testing.assert_allclose(out[0, :, :, 0], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.long
def test_log_variance_is_clipped(images):
    network = make(SINGLE)
    bias = {'quant_conv': {'bias': nnx.Param(jnp.array([500.0, -500, 500, -500]))}}
    nnx.update(network, bias)
    mean, logvar = network.encode(images)
    assert np.abs(mean).min() > 100
    np.testing.assert_array_equal(logvar[..., 0], 20.0)
    np.testing.assert_array_equal(logvar[..., 1], -30.0)


@pytest.mark.long
def test_an_image_is_encoded_and_decoded_alone(images, latents):
    network = make(SINGLE)
    for call, x in (
        (lambda x: network.encode(x)[0], images),
        (lambda x: network.encode(x)[1], images),
        (network.decode, latents),
    ):
        before, after = np.asarray(call(x)), np.asarray(call(x.at[1].multiply(-1)))
        np.testing.assert_allclose(before[0], after[0], atol=1e-5)
        assert np.abs(before[1] - after[1]).max() > 1e-3


@pytest.mark.long
def test_config_makes_the_same_network():
    network = make()
    again = nnx.eval_shape(lambda: AutoencoderKL.from_config(network.config, rngs=nnx.Rngs(1)))
    assert again.config == network.config
    assert nnx.graphdef(again) == nnx.graphdef(network)
    found = network.config.items()
    assert found >= {'_class_name': 'AutoencoderKL', 'block_out_channels': [6, 9]}.items()


@pytest.mark.long
@pytest.mark.parametrize(
    ('changes', 'parameters'),
    [
        (
            {},
            {
                'quant_conv.weight': (4, 4, 1, 1),
                'post_quant_conv.weight': (2, 2, 1, 1),
                'encoder.mid_block.attentions.0.to_q.weight': (6, 6),
            },
        ),
        (
            {'in_channels': 1},
            {'encoder.conv_in.weight': (6, 1, 3, 3), 'decoder.conv_out.weight': (3, 6, 3, 3)},
        ),
        (
            {'out_channels': 1},
            {'encoder.conv_in.weight': (6, 3, 3, 3), 'decoder.conv_out.weight': (1, 6, 3, 3)},
        ),
        (
            {'latent_channels': 5},
            {'encoder.conv_out.weight': (10, 6, 3, 3), 'decoder.conv_in.weight': (6, 5, 3, 3)},
        ),
        (
            {'layers_per_block': 2},
            {
                f'{last}.conv1.weight': (6, 6, 3, 3)
                for last in ('encoder.down_blocks.0.resnets.1', 'decoder.up_blocks.0.resnets.2')
            },
        ),
        (
            {'use_quant_conv': False},
            {'quant_conv.weight': None, 'post_quant_conv.weight': (2, 2, 1, 1)},
        ),
        (
            {'use_post_quant_conv': False},
            {'post_quant_conv.weight': None, 'quant_conv.weight': (4, 4, 1, 1)},
        ),
        (
            {'mid_block_add_attention': False},
            {f'{half}.mid_block.attentions.0.to_q.weight': None for half in ('encoder', 'decoder')},
        ),
    ],
)
def test_fields_shape_the_parameters(changes, parameters):
    network = make(SINGLE, **changes)
    shapes = {name: value.shape for name, value in export_tensors(network).items()}
    for name, shape in parameters.items():
        assert shapes.get(name) == shape
    z, colours = network.config['latent_channels'], network.config['out_channels']
    assert shapes_of(network) == ((1, 8, 8, z), (1, 8, 8, z), (1, 8, 8, colours))


@pytest.mark.long
@pytest.mark.parametrize(
    'changes',
    [
        {'norm_num_groups': 1},
        {'mid_block_add_attention': False},
        {'use_quant_conv': False, 'use_post_quant_conv': False},
    ],
)
def test_fields_change_the_answers(images, latents, changes):
    plain, other = make(SINGLE), make(SINGLE, **changes)
    tensors = dict(nnx.to_flat_state(nnx.state(plain, nnx.Param)))
    state = nnx.state(other, nnx.Param)  # the same numbers where both have them
    nnx.update(
        other, nnx.from_flat_state([(path, tensors[path]) for path, _ in nnx.to_flat_state(state)])
    )
    for call, x in ((lambda n, x: n.encode(x)[0], images), (lambda n, x: n.decode(x), latents)):
        assert np.abs(call(plain, x) - call(other, x)).max() > 1e-3


def test_levels_set_the_factor():
    network = nnx.eval_shape(lambda: AutoencoderKL(**DEEP, rngs=nnx.Rngs(0)))
    assert network.factor == 4
    assert shapes_of(network) == ((1, 2, 2, 2), (1, 2, 2, 2), (1, 32, 32, 3))
    single = nnx.eval_shape(lambda: AutoencoderKL(rngs=nnx.Rngs(0)))
    assert single.factor == 1
    assert single.scaling_factor == 0.18215


def test_scaling_factor_is_handed_out():
    network = nnx.eval_shape(
        lambda: AutoencoderKL(
            **TINY, scaling_factor=0.13025, sample_size=[16, 24], rngs=nnx.Rngs(0)
        )
    )
    assert network.scaling_factor == 0.13025
    assert network.config.items() >= {'scaling_factor': 0.13025, 'sample_size': [16, 24]}.items()


@pytest.mark.parametrize(
    ('force_upcast', 'dtype', 'computes_in'),
    [
        (True, jnp.float16, 'float32'),
        (False, jnp.float16, 'float16'),
        (True, jnp.bfloat16, 'bfloat16'),
    ],
)
def test_force_upcast_replaces_float16_only(force_upcast, dtype, computes_in):
    network = nnx.eval_shape(
        lambda: AutoencoderKL(**SINGLE, force_upcast=force_upcast, dtype=dtype, rngs=nnx.Rngs(0))
    )
    found = nnx.eval_shape(lambda n: n.encoder(jnp.zeros((1, 8, 8, 3))), network).dtype
    assert found == computes_in
    found = nnx.eval_shape(lambda n: n.decoder(jnp.zeros((1, 8, 8, 2))), network).dtype
    assert found == computes_in


@pytest.mark.parametrize(
    ('changes', 'named'),
    [
        ({'act_fn': 'mish'}, "act_fn = 'mish'"),
        ({'shift_factor': 0.1159}, 'shift_factor = 0.1159'),
        ({'latents_mean': [0.0, 1.0]}, 'latents_mean'),
        ({'latents_std': [0.5, 1.0]}, 'latents_std'),
        (
            {'down_block_types': ['DownEncoderBlock2D', 'AttnDownEncoderBlock2D']},
            'down_block_types',
        ),
        ({'up_block_types': ['UpDecoderBlock2D']}, 'up_block_types'),
        ({'block_out_channels': []}, 'block_out_channels'),
        ({'block_out_channels': [6, 0]}, 'block_out_channels'),
        ({'norm_num_groups': 2}, 'norm_num_groups = 2 does not divide 9'),
        ({'layers_per_block': 0}, 'layers_per_block = 0'),
        ({'latent_channels': 2.5}, 'latent_channels = 2.5'),
        ({'in_channels': 0}, 'in_channels = 0'),
        ({'out_channels': 0}, 'out_channels = 0'),
        ({'scaling_factor': 0}, 'scaling_factor = 0'),
        ({'use_tiling': True}, 'use_tiling'),
    ],
)
def test_unsupported_fields_are_named(changes, named):
    with pytest.raises(UserError, match=named):
        nnx.eval_shape(lambda: AutoencoderKL.from_config(TINY | changes, rngs=nnx.Rngs(0)))


def test_unknown_fields_that_are_off_pass():
    config = TINY | {'use_tiling': False, '_diffusers_version': '1'}
    network = nnx.eval_shape(lambda: AutoencoderKL.from_config(config, rngs=nnx.Rngs(0)))
    assert 'use_tiling' not in network.config


def test_images_and_latents_that_do_not_fit_are_refused():
    network = nnx.eval_shape(lambda: AutoencoderKL(**DEEP, rngs=nnx.Rngs(0)))
    with pytest.raises(UserError, match=r'8 x 10 pixels.* multiples of 4'):
        network.encode(jnp.zeros((1, 8, 10, 3)))
    for wrong in ((1, 8, 8, 1), (8, 8, 3)):
        with pytest.raises(UserError, match=r'\[b h w 3\]'):
            network.encode(jnp.zeros(wrong))
    for wrong in ((1, 2, 2, 4), (2, 2, 2)):
        with pytest.raises(UserError, match=r'latents \[b h w 2\]'):
            network.decode(jnp.zeros(wrong))
