import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from golden.weights import OTHER
from support.networks import draw_parameters

from purify.core.errors import UserError
from purify.models.diffusers.transformer2d import GEGLU, Transformer2DModel
from purify.models.diffusers.unet2d_condition import UNet2DConditionModel
from purify.models.files.folders import read_folder
from purify.models.files.weights import export_tensors, load_model

GOLDEN = OTHER / 'unet2d_condition'
TINY = {
    'block_out_channels': [8, 16],
    'down_block_types': ['CrossAttnDownBlock2D', 'DownBlock2D'],
    'up_block_types': ['UpBlock2D', 'CrossAttnUpBlock2D'],
    'layers_per_block': 1,
    'norm_num_groups': 4,
    'attention_head_dim': 2,
    'cross_attention_dim': 6,
}
SINGLE = TINY | {
    'block_out_channels': [8],
    'down_block_types': ['CrossAttnDownBlock2D'],
    'up_block_types': ['CrossAttnUpBlock2D'],
}
T = jnp.array([3, 700])


def abstract(**config):
    return nnx.eval_shape(lambda: UNet2DConditionModel.from_config(config, rngs=nnx.Rngs(0)))


def shapes(network):
    """Shapes of the parameters under our names, of an abstract network too."""
    return {
        '.'.join(map(str, path)): value.shape
        for path, value in nnx.to_flat_state(nnx.state(network, nnx.Param))
    }


def make(base=SINGLE, dtype=None, **changes):
    """A network whose every parameter is random: fresh ones answer 0."""
    network = nnx.eval_shape(
        lambda: UNet2DConditionModel(**(base | changes), rngs=nnx.Rngs(0), dtype=dtype)
    )
    return draw_parameters(network)


@pytest.fixture(scope='module')
def golden():
    if not GOLDEN.is_dir():
        pytest.skip(f'{GOLDEN}: golden files not present')
    with np.load(GOLDEN / 'io.npz') as arrays:
        sample, out = (arrays[name].transpose(0, 2, 3, 1) for name in ('sample', 'out'))
        return sample, arrays['timestep'], arrays['encoder_hidden_states'], out


@pytest.fixture(scope='module')
def latents():
    return jax.random.normal(jax.random.key(1), (2, 4, 4, 4))


@pytest.fixture(scope='module')
def context():
    return jax.random.normal(jax.random.key(2), (2, 3, 6))


@pytest.fixture(scope='module')
def network():
    return make()


@pytest.fixture(scope='module')
def usual(network, latents, context):
    return call(network, latents, T, context)


def call(network, *args, **kwargs):
    # op by op: many small networks share the compiled pieces
    return np.asarray(network(*args, **kwargs))


def compiled(network, *args):
    """For networks that share no piece with others; compiled fast rather than well."""
    graph, state = nnx.split(network)
    options = {'xla_backend_optimization_level': 0}
    return np.asarray(
        jax.jit(lambda state, *args: nnx.merge(graph, state)(*args), compiler_options=options)(
            state, *args
        )
    )


def test_output_of_diffusers(golden):
    *inputs, expected = golden
    found = compiled(load_model(UNet2DConditionModel, GOLDEN), *inputs)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)


def test_bfloat16_stays_near_float32_and_keeps_float32_weights(golden):
    *inputs, expected = golden
    network = load_model(UNet2DConditionModel, GOLDEN, dtype=jnp.bfloat16)
    out = compiled(network, *inputs)
    wanted = {jnp.dtype('float32')}
    assert {p.dtype for p in jax.tree.leaves(nnx.state(network, nnx.Param))} == wanted
    assert out.dtype == np.float32
    error = np.abs(out - expected).max()
    assert 1e-5 < error < 0.05 * np.abs(expected).max()  # it did compute in bfloat16, and well


def test_config_of_diffusers_comes_back(golden):
    theirs, tensors = read_folder(GOLDEN)
    network = load_model(UNet2DConditionModel, GOLDEN)
    assert network.config.items() <= theirs.items()
    assert export_tensors(network).keys() == tensors.keys()


@pytest.mark.long
def test_config_makes_the_same_network():
    network = abstract(**TINY)
    again = abstract(**network.config)
    assert again.config == network.config
    assert nnx.graphdef(again) == nnx.graphdef(network)


@pytest.mark.long
def test_fresh_transformers_are_the_identity():
    x, context = jnp.ones((1, 2, 2, 8)), jnp.ones((1, 3, 5))
    fresh = Transformer2DModel(
        8,
        heads=2,
        layers=1,
        context_width=5,
        only_cross_attention=False,
        linear_projection=True,
        groups=4,
        rngs=nnx.Rngs(0),
    )
    np.testing.assert_array_equal(fresh(x, context), x)
    assert np.std(fresh.transformer_blocks[0].attn2.to_k.kernel) > 0.1


def test_geglu_uses_the_exact_gelu():
    layer = GEGLU(1, 1, rngs=nnx.Rngs(0))
    layer.proj.kernel[...] = jnp.array([[1.0, 2.0]])
    # x * (2x Phi(2x)) at x = 1, Phi(2) = 0.977249868
    np.testing.assert_allclose(layer(jnp.ones((1, 1))), [[2 * 0.977249868]], rtol=1e-6)


@pytest.mark.long
def test_context_and_time_change_the_answer_of_their_own_image_only(
    network, usual, latents, context
):
    for after in (
        call(network, latents, T, context.at[1, 2, 3].add(1)),
        call(network, latents, T.at[1].set(10), context),
    ):
        np.testing.assert_allclose(usual[0], after[0], atol=1e-5)
        assert np.abs(usual[1] - after[1]).max() > 1e-3


@pytest.mark.long
def test_one_timestep_serves_all(network, latents, context):
    both = call(network, latents, jnp.array([7, 7]), context)
    np.testing.assert_array_equal(call(network, latents, jnp.array(7), context), both)


@pytest.mark.long
def test_the_order_of_the_context_is_nothing(network, usual, latents, context):
    np.testing.assert_allclose(call(network, latents, T, context[:, ::-1]), usual, atol=1e-4)


@pytest.mark.long
def test_class_labels_change_the_answer(network, latents, context):
    labelled = make(num_class_embeds=5)
    first, second = (call(labelled, latents, T, context, jnp.array([1, label])) for label in (2, 3))
    np.testing.assert_allclose(first[0], second[0], atol=1e-5)
    assert np.abs(first[1] - second[1]).max() > 1e-3
    with pytest.raises(UserError, match='needs class_labels'):
        labelled(latents, T, context)
    with pytest.raises(UserError, match='takes no class_labels'):
        network(latents, T, context, jnp.array([1, 2]))


@pytest.mark.long
def test_dropout_needs_a_key(usual, latents, context):
    network = make(dropout=0.5)
    np.testing.assert_array_equal(call(network, latents, T, context), usual)
    dropped = call(network, latents, T, context, key=jax.random.key(0))
    assert np.abs(dropped - usual).max() > 1e-2
    assert np.abs(call(network, latents, T, context, key=jax.random.key(1)) - dropped).max() > 1e-2


@pytest.mark.long
@pytest.mark.parametrize(
    'changes',
    [
        {'resnet_time_scale_shift': 'scale_shift'},
        {'mid_block_scale_factor': 2.0},
        {'flip_sin_to_cos': False},
        {'freq_shift': 1},
        {'center_input_sample': True},
        {'attention_head_dim': 4},
        {'norm_eps': 0.1},
        {'only_cross_attention': True},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_every_field_does_something(usual, latents, context, changes):
    network = make(**changes)
    assert np.abs(call(network, latents, T, context) - usual).max() > 1e-4
    assert network.config | changes == network.config


@pytest.mark.long
def test_fields_that_shape_the_network():
    changes = {'time_embedding_dim': 12, 'conv_in_kernel': 1, 'conv_out_kernel': 1}
    changes |= {'norm_num_groups': 2, 'mid_block_type': None}
    network = abstract(**(TINY | changes))
    found = shapes(network)
    assert found['time_embedding.linear_2.kernel'] == (12, 12)
    assert found['conv_in.kernel'] == (1, 1, 4, 8)
    assert found['conv_out.kernel'] == (1, 1, 8, 4)
    assert (
        network.down_blocks[0].attentions[0].norm.num_groups
        == network.conv_norm_out.num_groups
        == 2
    )
    assert not [name for name in found if name.startswith('mid_block')]
    out = nnx.eval_shape(lambda n: n(jnp.zeros((2, 6, 10, 4)), T, jnp.zeros((2, 3, 6))), network)
    assert out.shape == (2, 6, 10, 4)


@pytest.mark.long
def test_linear_projections_are_the_convolutions_in_another_layout(
    network, usual, latents, context
):
    linear = make(use_linear_projection=True)
    assert export_tensors(linear)['mid_block.attentions.0.proj_in.weight'].shape == (8, 8)
    assert export_tensors(network)['mid_block.attentions.0.proj_in.weight'].shape == (8, 8, 1, 1)
    np.testing.assert_allclose(call(linear, latents, T, context), usual, atol=1e-4)


@pytest.mark.long
def test_fields_that_hold_one_value_for_each_level():
    changes = {
        'down_block_types': ['CrossAttnDownBlock2D'] * 2,
        'up_block_types': ['CrossAttnUpBlock2D'] * 2,
        'transformer_layers_per_block': [1, 2],
        'only_cross_attention': [True, False],
        'layers_per_block': [1, 2],
    }
    network = abstract(**(TINY | changes))
    both = shapes(network)
    key = '{}.attentions.0.transformer_blocks.{}.attn1.to_k.kernel'
    assert both[key.format('down_blocks.0', 0)] == both[key.format('up_blocks.1', 0)] == (6, 8)
    assert key.format('down_blocks.0', 1) not in both
    for block in ('down_blocks.1', 'mid_block', 'up_blocks.0'):
        assert both[key.format(block, 1)] == (16, 16)
    wanted = [1, 2, 3, 2]
    assert [len(block.resnets) for block in [*network.down_blocks, *network.up_blocks]] == wanted


@pytest.mark.long
def test_heads_of_each_level():
    both = {
        'down_block_types': ['CrossAttnDownBlock2D'] * 2,
        'up_block_types': ['CrossAttnUpBlock2D'] * 2,
    }
    network = abstract(**(TINY | both | {'attention_head_dim': [2, 4]}))
    blocks = [*network.down_blocks, network.mid_block, *network.up_blocks]
    wanted = [2, 4, 4, 4, 2]
    assert [block.attentions[0].transformer_blocks[0].attn1.heads for block in blocks] == wanted


@pytest.mark.parametrize(
    ('changes', 'named'),
    [
        ({'down_block_types': ['DownBlock2D', 'SimpleCrossAttnDownBlock2D']}, 'down_block_types'),
        ({'up_block_types': ['UpBlock2D']}, 'up_block_types'),
        ({'mid_block_type': 'UNetMidBlock2DSimpleCrossAttn'}, 'mid_block_type'),
        ({'act_fn': 'gelu'}, 'act_fn'),
        ({'time_embedding_type': 'fourier'}, 'time_embedding_type'),
        ({'class_embed_type': 'projection'}, 'class_embed_type'),
        ({'num_attention_heads': 8}, 'num_attention_heads'),
        ({'attention_type': 'gated'}, 'attention_type'),
        ({'addition_embed_type': 'text_time'}, 'addition_embed_type'),
        ({'encoder_hid_dim': 64}, 'encoder_hid_dim'),
        ({'dual_cross_attention': True}, 'dual_cross_attention'),
        ({'resnet_out_scale_factor': 2.0}, 'resnet_out_scale_factor'),
        ({'conv_in_kernel': 5}, 'conv_in_kernel'),
        ({'layers_per_block': [1]}, 'layers_per_block'),
        ({'layers_per_block': [1, 0]}, 'layers_per_block'),
        ({'only_cross_attention': [True]}, 'only_cross_attention'),
        ({'only_cross_attention': 1}, 'only_cross_attention'),
        ({'transformer_layers_per_block': [[1], [1, 1]]}, 'transformer_layers_per_block'),
        ({'cross_attention_dim': [6, 7]}, 'cross_attention_dim'),
        ({'attention_head_dim': 3}, 'attention_head_dim'),
        ({'attention_head_dim': None}, 'attention_head_dim'),
        ({'norm_num_groups': None}, 'norm_num_groups'),
        ({'dropout': 1.0}, 'dropout'),
        (
            {
                'mid_block_type': None,
                'down_block_types': ['DownBlock2D'] * 2,
                'up_block_types': ['UpBlock2D'] * 2,
            },
            'at least one',
        ),
    ],
)
def test_unsupported_fields_are_named(changes, named):
    with pytest.raises(UserError, match=named):
        abstract(**(TINY | changes))


def test_contexts_and_sizes_that_do_not_fit_are_refused(latents, context):
    network = abstract(**TINY)
    for wrong in (jnp.zeros((2, 3, 7)), jnp.zeros((2, 6)), context[:1], jnp.zeros((2, 0, 6))):
        with pytest.raises(UserError, match=r'\[b s 6\] \(cross_attention_dim\)'):
            network(latents, T, wrong)
    with pytest.raises(UserError, match='multiples of 2'):
        network(latents[:, :3], T, context)
    with pytest.raises(UserError, match=r'\[b h w 4\]'):
        network(latents[..., :3], T, context)
