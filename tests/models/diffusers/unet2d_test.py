import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from golden.weights import OTHER
from support.networks import draw_parameters

from purify.core.errors import UserError
from purify.models.diffusers import blocks
from purify.models.diffusers.unet2d import UNet2DModel
from purify.models.files.weights import export_tensors, load_model

GOLDEN = OTHER / 'unet2d_ddpm'
TINY = {
    'block_out_channels': [8, 16],
    'down_block_types': ['DownBlock2D', 'AttnDownBlock2D'],
    'up_block_types': ['AttnUpBlock2D', 'UpBlock2D'],
    'layers_per_block': 1,
    'norm_num_groups': 4,
    'attention_head_dim': 4,
}
SINGLE = TINY | {
    'block_out_channels': [8],
    'down_block_types': ['AttnDownBlock2D'],
    'up_block_types': ['AttnUpBlock2D'],
}


def make(base=SINGLE, dtype=None, **changes):
    """A network whose every parameter is random: fresh ones answer 0."""
    network = nnx.eval_shape(lambda: UNet2DModel(**(base | changes), rngs=nnx.Rngs(0), dtype=dtype))
    return draw_parameters(network)


@pytest.fixture(scope='module')
def golden():
    if not GOLDEN.is_dir():
        pytest.skip('golden files not present')
    with np.load(GOLDEN / 'io.npz') as arrays:
        sample, out = (arrays[name].transpose(0, 2, 3, 1) for name in ('sample', 'out'))
        return sample, arrays['timestep'], out


@pytest.fixture
def images():
    return jax.random.normal(jax.random.key(1), (2, 8, 8, 3))


def call(network, *args, **kwargs):
    # op by op: many small networks share the compiled pieces
    return np.asarray(network(*args, **kwargs))


T = jnp.array([3, 700])


def test_output_of_diffusers(golden):
    sample, timestep, expected = golden
    out = nnx.jit(lambda n: n(sample, timestep))(load_model(UNet2DModel, GOLDEN))
    np.testing.assert_allclose(out, expected, rtol=0, atol=1e-4)


@pytest.mark.long
def test_bfloat16_stays_near_float32_and_keeps_float32_weights(golden):
    sample, timestep, expected = golden
    network = load_model(UNet2DModel, GOLDEN, dtype=jnp.bfloat16)
    out = nnx.jit(lambda n: n(sample, timestep))(network)
    wanted = {jnp.dtype('float32')}
    assert {p.dtype for p in jax.tree.leaves(nnx.state(network, nnx.Param))} == wanted
    assert out.dtype == np.float32
    error = np.abs(out - expected).max()
    assert 1e-5 < error < 0.05 * np.abs(expected).max()  # it did compute in bfloat16, and well


@pytest.mark.long
def test_fresh_blocks_are_the_identity(images):
    rngs = nnx.Rngs(0)
    resnet = blocks.ResnetBlock2D(3, 3, temb_channels=3, groups=3, eps=1e-5, rngs=rngs)
    attention = blocks.Attention(3, head_dim=1, groups=3, eps=1e-5, rngs=rngs)
    np.testing.assert_array_equal(attention(resnet(images, jnp.ones((2, 3)))), images)
    for kernel in (resnet.conv1.kernel, resnet.time_emb_proj.kernel, attention.to_q.kernel):
        assert np.std(kernel) > 0.1


@pytest.mark.long
def test_config_makes_the_same_network():
    network = make(TINY)
    again = nnx.eval_shape(lambda: UNet2DModel.from_config(network.config, rngs=nnx.Rngs(1)))
    assert again.config == network.config
    assert nnx.graphdef(again) == nnx.graphdef(network)
    assert (
        network.config.items()
        >= {'_class_name': 'UNet2DModel', 'block_out_channels': [8, 16], 'dropout': 0.0}.items()
    )


@pytest.mark.long
def test_time_changes_the_answer_of_its_own_image_only(images):
    network = make()
    before, after = call(network, images, T), call(network, images, T.at[1].set(10))
    np.testing.assert_allclose(before[0], after[0], atol=1e-5)
    assert np.abs(before[1] - after[1]).max() > 1e-3


@pytest.mark.long
def test_class_labels_change_the_answer(images):
    network = make(num_class_embeds=5)
    first = call(network, images, T, jnp.array([1, 2]))
    second = call(network, images, T, jnp.array([1, 3]))
    np.testing.assert_allclose(first[0], second[0], atol=1e-5)
    assert np.abs(first[1] - second[1]).max() > 1e-3
    with pytest.raises(UserError, match='needs class_labels'):
        network(images, T)
    with pytest.raises(UserError, match='takes no class_labels'):
        make()(images, T, jnp.array([1, 2]))


@pytest.mark.long
def test_dropout_needs_a_key(images):
    network, sure = make(dropout=0.5), make(dropout=0.0)
    expected = call(sure, images, T)
    np.testing.assert_array_equal(call(network, images, T), expected)
    dropped = call(network, images, T, key=jax.random.key(0))
    assert np.abs(dropped - expected).max() > 1e-2
    np.testing.assert_array_equal(call(network, images, T, key=jax.random.key(0)), dropped)
    assert np.abs(call(network, images, T, key=jax.random.key(1)) - dropped).max() > 1e-2
    np.testing.assert_array_equal(call(sure, images, T, key=jax.random.key(0)), expected)


@pytest.mark.long
@pytest.mark.parametrize(
    ('changes', 'names'),
    [
        (
            {'resnet_time_scale_shift': 'scale_shift'},
            {'mid_block.attentions.0.group_norm.weight': None},
        ),
        ({'resnet_time_scale_shift': 'scale_shift', 'attn_norm_num_groups': 2}, {}),
        ({'add_attention': False}, {'mid_block.attentions.0.to_q.weight': None}),
        ({'mid_block_scale_factor': 2.0}, {}),
        ({'flip_sin_to_cos': False}, {}),
        ({'freq_shift': 1}, {}),
        ({'center_input_sample': True}, {}),
        ({'attention_head_dim': None}, {}),
        ({'time_embedding_dim': 12}, {'time_embedding.linear_1.weight': (12, 8)}),
        ({'norm_eps': 0.1}, {}),
    ],
)
def test_every_field_does_something(images, changes, names):
    network = make(**changes)
    shapes = {name: value.shape for name, value in export_tensors(network).items()}
    for name, shape in names.items():
        assert shapes.get(name) == shape
    assert np.abs(call(network, images, T) - call(make(), images, T)).max() > 1e-4
    assert network.config | changes == network.config


@pytest.mark.long
def test_downsample_padding_does_something(images):
    answers = [call(make(TINY, downsample_padding=padding), images, T) for padding in (0, 1)]
    assert np.abs(answers[0] - answers[1]).max() > 1e-3


@pytest.mark.long
def test_scale_shift_doubles_the_time_projection():
    shapes = {
        name: value.shape
        for name, value in export_tensors(make(resnet_time_scale_shift='scale_shift')).items()
    }
    assert shapes['down_blocks.0.resnets.0.time_emb_proj.weight'] == (16, 32)
    assert export_tensors(make())['down_blocks.0.resnets.0.time_emb_proj.weight'].shape == (8, 32)


@pytest.mark.parametrize(
    ('changes', 'named'),
    [
        ({'time_embedding_type': 'fourier'}, 'time_embedding_type'),
        ({'down_block_types': ['DownBlock2D', 'SkipDownBlock2D']}, 'down_block_types'),
        ({'up_block_types': ['UpBlock2D']}, 'up_block_types'),
        ({'act_fn': 'mish'}, 'act_fn'),
        ({'class_embed_type': 'timestep'}, 'class_embed_type'),
        ({'downsample_padding': 2}, 'downsample_padding'),
        ({'layers_per_block': 0}, 'layers_per_block'),
        ({'norm_num_groups': 3}, 'norm_num_groups'),
        ({'attention_head_dim': 5}, 'attention_head_dim'),
        ({'dropout': 1.0}, 'dropout'),
        ({'attention_legacy_order': True}, 'attention_legacy_order'),
    ],
)
def test_unsupported_fields_are_named(changes, named):
    with pytest.raises(UserError, match=named):
        nnx.eval_shape(lambda: UNet2DModel.from_config(TINY | changes, rngs=nnx.Rngs(0)))


@pytest.mark.long
def test_unknown_fields_that_are_off_pass():
    config = TINY | {'attention_legacy_order': False, '_diffusers_version': '1'}
    network = nnx.eval_shape(lambda: UNet2DModel.from_config(config, rngs=nnx.Rngs(0)))
    assert 'attention_legacy_order' not in network.config


@pytest.mark.long
def test_sizes_that_cannot_be_halved_are_refused():
    network = make(TINY)
    with pytest.raises(UserError, match='multiples of 2'):
        network(jnp.zeros((1, 9, 8, 3)), jnp.zeros(1))
    with pytest.raises(UserError, match=r'\[b h w 3\]'):
        network(jnp.zeros((1, 8, 8, 1)), jnp.zeros(1))
    out = nnx.eval_shape(lambda n: n(jnp.zeros((1, 6, 10, 3)), jnp.zeros(1)), network)
    assert out.shape == (1, 6, 10, 3)
