"""The settings of the golden networks: small, and as unlike each other as published ones."""

STABLE_DIFFUSION = {'beta_start': 0.00085, 'beta_end': 0.012, 'beta_schedule': 'scaled_linear'}
PUBLISHED = {'set_alpha_to_one': False, 'steps_offset': 1}  # of Stable Diffusion's folders

UNET = {
    'sample_size': 8,
    'block_out_channels': (8, 16),
    'down_block_types': ('CrossAttnDownBlock2D', 'DownBlock2D'),
    'up_block_types': ('UpBlock2D', 'CrossAttnUpBlock2D'),
    'layers_per_block': 1,
    'norm_num_groups': 4,
    'cross_attention_dim': 12,
    'attention_head_dim': 2,
}
UNETS = {
    'unet_sd1': UNET,  # projections are convolutions, every level has as many heads
    'unet_sd2': (
        UNET
        | {
            'down_block_types': ('CrossAttnDownBlock2D', 'CrossAttnDownBlock2D'),
            'up_block_types': ('CrossAttnUpBlock2D', 'CrossAttnUpBlock2D'),
            'attention_head_dim': (1, 4),
            'use_linear_projection': True,
            'upcast_attention': True,
        }
    ),
    'unet_three_levels': (
        UNET
        | {
            'block_out_channels': (8, 12, 16),
            'down_block_types': ('CrossAttnDownBlock2D', 'CrossAttnDownBlock2D', 'DownBlock2D'),
            'up_block_types': ('UpBlock2D', 'CrossAttnUpBlock2D', 'CrossAttnUpBlock2D'),
            'layers_per_block': 2,
        }
    ),
    'unet_two_transformers': (
        UNET | {'transformer_layers_per_block': 2, 'attention_head_dim': (2, 4)}
    ),
}
VAE = {
    'sample_size': 16,
    'block_out_channels': (8, 12),
    'down_block_types': ('DownEncoderBlock2D',) * 2,
    'up_block_types': ('UpDecoderBlock2D',) * 2,
    'layers_per_block': 1,
    'norm_num_groups': 4,
    'latent_channels': 4,
}
VAES = {
    'vae_three_levels': (
        VAE
        | {
            'block_out_channels': (8, 12, 16),
            'down_block_types': ('DownEncoderBlock2D',) * 3,
            'up_block_types': ('UpDecoderBlock2D',) * 3,
            'layers_per_block': 2,
        }
    ),
    'vae_plain': (
        VAE
        | {
            'use_quant_conv': False,
            'use_post_quant_conv': False,
            'mid_block_add_attention': False,
            'scaling_factor': 0.13025,
        }
    ),
}
_CLIP = {'hidden_size': 16, 'intermediate_size': 24, 'num_hidden_layers': 2}
_CLIP |= {'num_attention_heads': 2}
_VISION = _CLIP | {'projection_dim': 12, 'image_size': 16, 'patch_size': 4}
VISIONS = {
    'clip_vision_quick_gelu': _VISION | {'hidden_act': 'quick_gelu'},
    'clip_vision_gelu': _VISION | {'hidden_act': 'gelu', 'num_hidden_layers': 3},
}
TEXT = _CLIP | {
    'hidden_size': 12,
    'vocab_size': 60,
    'max_position_embeddings': 9,
    'bos_token_id': 58,
}
TEXTS = {
    'clip_text_first_eos': TEXT | {'hidden_act': 'gelu', 'eos_token_id': 40},
    # old files: the greatest id is the end
    'clip_text_legacy_eos': (TEXT | {'hidden_act': 'quick_gelu', 'eos_token_id': 2}),
}
