import json
import re

import pytest
from flax import nnx

from purify.core.errors import UserError
from purify.models.clip.clip import CLIPTextModel, CLIPVisionModelWithProjection
from purify.models.diffusers.autoencoder_kl import AutoencoderKL
from purify.models.diffusers.unet2d import UNet2DConfig
from purify.models.diffusers.unet2d_condition import UNet2DConditionModel
from purify.models.files.pipelines import from_pretrained
from purify.models.files.weights import abstract_model

UNET = {
    'block_out_channels': [8, 16],
    'down_block_types': ['CrossAttnDownBlock2D', 'DownBlock2D'],
    'up_block_types': ['UpBlock2D', 'CrossAttnUpBlock2D'],
    'norm_num_groups': 4,
    'attention_head_dim': 2,
    'layers_per_block': 1,
    'cross_attention_dim': 6,
}


@pytest.mark.parametrize(
    ('field', 'value', 'shown'),
    [
        ('block_out_channels', 320, '320'),
        ('block_out_channels', 'ab', "'ab'"),
        ('block_out_channels', [16.0, 32.0], '(16.0, 32.0)'),
        ('block_out_channels', [0, 0], '(0, 0)'),
        ('block_out_channels', [], '()'),
        ('down_block_types', None, 'None'),
        ('up_block_types', [['UpBlock2D'], 'UpBlock2D'], "(['UpBlock2D'], 'UpBlock2D')"),
        ('dropout', 'x', "'x'"),
        ('norm_eps', 'x', "'x'"),
        ('norm_eps', float('nan'), 'nan'),
        ('norm_eps', 10**400, str(10**400)),  # beyond all floats
        ('layers_per_block', 10**9, '1000000000'),
        ('block_out_channels', [8] * 17, str((8,) * 17)),
        ('freq_shift', 'x', "'x'"),
        # half the first level's channels: the sinusoid would divide by zero
        ('freq_shift', 4, '4'),
        ('mid_block_scale_factor', 0, '0'),
        ('sample_size', '8', "'8'"),
        ('sample_size', [8, 8, 8], '(8, 8, 8)'),
        ('conv_in_kernel', 3.0, '3.0'),
        ('downsample_padding', 1.0, '1.0'),
        ('use_linear_projection', 'false', "'false'"),
    ],
)
def test_values_of_unets(field, value, shown):
    with pytest.raises(UserError, match=re.escape(f'UNet2DConditionModel: {field} = {shown} must')):
        UNet2DConditionModel.from_config(UNET | {field: value}, rngs=nnx.Rngs(0))


@pytest.mark.parametrize(
    ('field', 'value'),
    [
        ('scaling_factor', float('inf')),
        ('scaling_factor', 10**400),
        ('layers_per_block', 10**9),
        ('scaling_factor', 'x'),
        ('scaling_factor', True),
        ('block_out_channels', [16.0, 32.0]),
        ('block_out_channels', 'ab'),
        ('down_block_types', None),
        ('sample_size', '8'),
        ('force_upcast', 'no'),
    ],
)
def test_values_of_autoencoders(field, value):
    with pytest.raises(UserError, match=re.escape(f'AutoencoderKL: {field} = ')):
        AutoencoderKL.from_config({field: value}, rngs=nnx.Rngs(0))


def test_lists_are_frozen_and_switches_may_be_null():
    config = abstract_model(
        UNet2DConditionModel, UNET | {'upcast_attention': None, 'sample_size': [8, 12]}
    ).config
    assert config['sample_size'] == [8, 12]
    assert config['upcast_attention'] is None
    plain = {
        'block_out_channels': [8],
        'down_block_types': ['DownBlock2D'],
        'up_block_types': ['UpBlock2D'],
    }
    assert UNet2DConfig(**plain).block_out_channels == (8,)  # pyright: ignore[reportArgumentType]
    with pytest.raises(UserError, match="UNet2DModel: add_attention = 'yes' must be true or false"):
        UNet2DConfig(**plain, add_attention='yes')  # pyright: ignore[reportArgumentType]


def test_dropout_of_attention_in_training_is_passed_over():
    """transformers applies it in training alone."""
    sizes = {'hidden_size': 8, 'intermediate_size': 8, 'num_hidden_layers': 1}
    sizes |= {'num_attention_heads': 2}
    for cls in (CLIPTextModel, CLIPVisionModelWithProjection):
        usual, dropping = (
            abstract_model(cls, sizes | change).config
            for change in ({}, {'attention_dropout': 0.1})
        )
        assert usual == dropping


@pytest.mark.parametrize('architectures', ['CLIPTextModel', 3, []])
def test_odd_architectures_are_refused(tmp_path, architectures):
    (tmp_path / 'config.json').write_text(
        json.dumps({'architectures': architectures, 'model_type': ['x']})
    )
    with pytest.raises(UserError, match=r'config.json: describes .no class'):
        from_pretrained(tmp_path)
