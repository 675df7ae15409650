"""The published latent diffusion models as config.json's, and pipelines of them with random weights.

What a model costs does not depend on what it has learned, so speed and memory can be measured without its weights, and a
tiny pipeline tests what a real one would take a GPU for.
"""

import math
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx

from purify.core.errors import UserError
from purify.core.randomness import stream_rng
from purify.models.clip.tokenizer import CLIPTokenizer
from purify.models.files.pipelines import NETWORKS, Pipeline
from purify.models.files.weights import abstract_model

Config = dict[str, Any]
SPREAD = 0.02  # deviation of biases and embeddings

_UNET: Config = {
    '_class_name': 'UNet2DConditionModel',
    'act_fn': 'silu',
    'attention_head_dim': 8,
    'block_out_channels': [320, 640, 1280, 1280],
    'center_input_sample': False,
    'cross_attention_dim': 768,
    'down_block_types': ['CrossAttnDownBlock2D'] * 3 + ['DownBlock2D'],
    'downsample_padding': 1,
    'flip_sin_to_cos': True,
    'freq_shift': 0,
    'in_channels': 4,
    'layers_per_block': 2,
    'mid_block_scale_factor': 1,
    'norm_eps': 1e-5,
    'norm_num_groups': 32,
    'out_channels': 4,
    'sample_size': 64,
    'up_block_types': ['UpBlock2D'] + ['CrossAttnUpBlock2D'] * 3,
}
_VAE: Config = {
    '_class_name': 'AutoencoderKL',
    'act_fn': 'silu',
    'block_out_channels': [128, 256, 512, 512],
    'down_block_types': ['DownEncoderBlock2D'] * 4,
    'in_channels': 3,
    'latent_channels': 4,
    'layers_per_block': 2,
    'norm_num_groups': 32,
    'out_channels': 3,
    'sample_size': 512,
    'scaling_factor': 0.18215,
    'up_block_types': ['UpDecoderBlock2D'] * 4,
}
_DDIM: Config = {
    '_class_name': 'DDIMScheduler',
    'beta_end': 0.012,
    'beta_schedule': 'scaled_linear',
    'beta_start': 0.00085,
    'clip_sample': False,
    'num_train_timesteps': 1000,
    'prediction_type': 'epsilon',
    'set_alpha_to_one': False,
    'steps_offset': 1,
    'trained_betas': None,
}
_PNDM: Config = {k: v for k, v in _DDIM.items() if k != 'clip_sample'} | {'_class_name': 'PNDMScheduler', 'skip_prk_steps': True}
_VISION: Config = {  # CLIP ViT-L/14
    'architectures': ['CLIPVisionModelWithProjection'],
    'hidden_act': 'quick_gelu',
    'hidden_size': 1024,
    'image_size': 224,
    'intermediate_size': 4096,
    'layer_norm_eps': 1e-5,
    'model_type': 'clip_vision_model',
    'num_attention_heads': 16,
    'num_channels': 3,
    'num_hidden_layers': 24,
    'patch_size': 14,
    'projection_dim': 768,
}
_TEXT: Config = {  # of the same CLIP
    'architectures': ['CLIPTextModel'],
    'bos_token_id': 49406,
    'eos_token_id': 49407,
    'hidden_act': 'quick_gelu',
    'hidden_size': 768,
    'intermediate_size': 3072,
    'layer_norm_eps': 1e-5,
    'max_position_embeddings': 77,
    'model_type': 'clip_text_model',
    'num_attention_heads': 12,
    'num_hidden_layers': 12,
    'pad_token_id': 49407,
    'projection_dim': 768,
    'vocab_size': 49408,
}
_EXTRACTOR: Config = {
    'image_processor_type': 'CLIPImageProcessor',
    'crop_size': {'height': 224, 'width': 224},
    **dict.fromkeys(('do_center_crop', 'do_convert_rgb', 'do_normalize', 'do_rescale', 'do_resize'), True),
    'image_mean': [0.48145466, 0.4578275, 0.40821073],
    'image_std': [0.26862954, 0.26130258, 0.27577711],
    'resample': 3,
    'rescale_factor': 1 / 255,
    'size': {'shortest_edge': 224},
}
_OPENCLIP: Config = {  # the text half of OpenCLIP ViT-H/14, without its last layer
    'hidden_act': 'gelu',
    'hidden_size': 1024,
    'intermediate_size': 4096,
    'num_attention_heads': 16,
    'num_hidden_layers': 23,
    'projection_dim': 512,
}
_SD2_UNET: Config = {
    'attention_head_dim': [5, 10, 20, 20],
    'cross_attention_dim': 1024,
    'sample_size': 96,
    'upcast_attention': True,
    'use_linear_projection': True,
}
_SMALL_UNET: Config = {
    'block_out_channels': [80, 160, 320, 320],
    'cross_attention_dim': 192,
    'norm_num_groups': 16,
    'sample_size': 16,
}
_SMALL_CLIP: Config = {
    'hidden_size': 256,
    'intermediate_size': 1024,
    'num_attention_heads': 4,
    'num_hidden_layers': 6,
    'projection_dim': 192,
}
_TINY_UNET: Config = {
    'attention_head_dim': 4,
    'block_out_channels': [16, 32],
    'cross_attention_dim': 32,
    'down_block_types': ['CrossAttnDownBlock2D', 'DownBlock2D'],
    'layers_per_block': 1,
    'norm_num_groups': 8,
    'sample_size': 8,
    'up_block_types': ['UpBlock2D', 'CrossAttnUpBlock2D'],
}
_TINY_VAE: Config = {
    'block_out_channels': [16, 24],
    'down_block_types': ['DownEncoderBlock2D'] * 2,
    'layers_per_block': 1,
    'norm_num_groups': 8,
    'sample_size': 16,
    'up_block_types': ['UpDecoderBlock2D'] * 2,
}
_TINY_CLIP: Config = {
    'hidden_size': 32,
    'intermediate_size': 64,
    'num_attention_heads': 4,
    'num_hidden_layers': 2,
    'projection_dim': 32,
}
_BYTES: Config = {'bos_token_id': 512, 'eos_token_id': 513, 'pad_token_id': 513, 'vocab_size': 514}

# Stable Diffusion 1.x with either condition, Stable Diffusion 2.1, Versatile Diffusion's image half; the first at a quarter of
# its width, for measurements on CPUs; and one for tests.
SHAPES: dict[str, dict[str, Config]] = {
    'sd1': {
        'unet': _UNET,
        'vae': _VAE,
        'scheduler': _PNDM,
        'image_encoder': _VISION,
        'feature_extractor': _EXTRACTOR,
        'text_encoder': _TEXT,
    },
    'sd2': {
        'unet': _UNET | _SD2_UNET,
        'vae': _VAE | {'sample_size': 768},
        'scheduler': _DDIM | {'prediction_type': 'v_prediction'},
        'text_encoder': _TEXT | _OPENCLIP,
    },
    'versatile': {'unet': _UNET, 'vae': _VAE, 'scheduler': _DDIM, 'image_encoder': _VISION, 'feature_extractor': _EXTRACTOR},
    'small': {
        'unet': _UNET | _SMALL_UNET,
        'vae': _VAE | {'block_out_channels': [32, 64, 128, 128], 'sample_size': 128},
        'scheduler': _DDIM,
        'image_encoder': _VISION | _SMALL_CLIP,
        'feature_extractor': _EXTRACTOR,
        'text_encoder': _TEXT | _SMALL_CLIP | {'hidden_size': 192} | _BYTES,
    },
    'tiny': {
        'unet': _UNET | _TINY_UNET,
        'vae': _VAE | _TINY_VAE,
        'scheduler': _DDIM,
        'image_encoder': _VISION | _TINY_CLIP | {'image_size': 32, 'patch_size': 8},
        'feature_extractor': _EXTRACTOR | {'size': {'shortest_edge': 32}, 'crop_size': {'height': 32, 'width': 32}},
        'text_encoder': _TEXT | _TINY_CLIP | _BYTES | {'max_position_embeddings': 16},
    },
}
# kind: class in model_index.json, {part's name in the folder: its name above}
PIPELINES: dict[str, tuple[str, dict[str, str]]] = {
    'sd_variation': (
        'StableDiffusionImageVariationPipeline',
        {name: name for name in ('image_encoder', 'unet', 'vae', 'scheduler', 'feature_extractor')},
    ),
    'versatile': (
        'VersatileDiffusionImageVariationPipeline',
        {
            'image_encoder': 'image_encoder',
            'image_unet': 'unet',
            'vae': 'vae',
            'scheduler': 'scheduler',
            'image_feature_extractor': 'feature_extractor',
        },
    ),
    'sd_img2img': ('StableDiffusionPipeline', {name: name for name in ('text_encoder', 'unet', 'vae', 'scheduler')}),
}


def random_pipeline(kind: str, shapes: str, *, seed: int, dtype: str = 'float32') -> Pipeline:
    """A pipeline with random weights, NumPy arrays, each a function of `seed` and its name.

    Args:
      kind: one of `PIPELINES`.
      shapes: one of `SHAPES` that has the parts.
      seed: of the weights.
      dtype: what the networks compute in and their weights are stored in (norms: float32).

    Raises `UserError` for an unknown kind, or shapes that do not have its parts.
    """
    pipeline = abstract_pipeline(kind, shapes, dtype=dtype)
    for name, part in pipeline.parts.items():
        if isinstance(part, nnx.Module):
            _draw_weights(part, seed=seed, stream=name, dtype=dtype)
    return pipeline


def abstract_pipeline(kind: str, shapes: str, *, dtype: str = 'float32') -> Pipeline:
    """The pipeline of `random_pipeline` before its weights are drawn: `jax.ShapeDtypeStruct`s, which cost nothing."""
    if kind not in PIPELINES:
        raise UserError(f'unknown kind {kind!r}. Choose from: {", ".join(PIPELINES)}.')
    class_name, names = PIPELINES[kind]
    able = [name for name, parts in SHAPES.items() if set(names.values()) <= set(parts)]
    if shapes not in able:
        raise UserError(f'shapes {shapes!r} make no {kind} pipeline. Choose from: {", ".join(able)}.')
    configs = {name: SHAPES[shapes][part] for name, part in names.items()}
    networks = {name: NETWORKS[_class_of(config)] for name, config in configs.items() if _class_of(config) in NETWORKS}
    parts: dict[str, Any] = configs | {name: abstract_model(own, configs[name], dtype=dtype) for name, own in networks.items()}
    if 'text_encoder' in parts:
        parts['tokenizer'] = byte_tokenizer(configs['text_encoder'])
    return Pipeline(class_name, parts)


def _class_of(config: Mapping[str, Any]) -> str:
    return config.get('_class_name') or config.get('architectures', [''])[0]


def random_network(config: Mapping[str, Any], *, seed: int, stream: str, dtype: str = 'float32') -> nnx.Module:
    """The network of a config.json with random weights that keep the size of what flows through it; none of them is zero."""
    module = abstract_model(NETWORKS[_class_of(config)], config, dtype=dtype)
    _draw_weights(module, seed=seed, stream=stream, dtype=dtype)
    return module


def _draw_weights(module: nnx.Module, *, seed: int, stream: str, dtype: str) -> None:
    flat = dict(nnx.to_flat_state(nnx.state(module, nnx.Param)))
    norms = {path[:-1] for path in flat if path[-1] == 'scale'}

    def draw(path: tuple[Any, ...]) -> np.ndarray:
        rng = stream_rng(seed, '.'.join(map(str, (stream, *path))))
        shape = flat[path].get_value().shape
        array = rng.standard_normal(shape, np.float32)
        array *= 1 / math.sqrt(math.prod(shape[:-1])) if path[-1] == 'kernel' else SPREAD
        array += path[-1] == 'scale'
        return array.astype(np.float32 if path[:-1] in norms else jnp.dtype(dtype), copy=False)

    with ThreadPoolExecutor() as pool:  # NumPy draws without holding the interpreter
        arrays = list(pool.map(draw, flat))
    filled = [(path, flat[path].replace(array)) for path, array in zip(flat, arrays, strict=True)]
    nnx.update(module, nnx.from_flat_state(filled))


def byte_tokenizer(config: Mapping[str, Any]) -> CLIPTokenizer:
    """A tokenizer that spells: one token for each byte, inside and at the end of a word; `config` is the text encoder's."""
    symbols = [*_byte_symbols()]
    vocabulary = {symbol: number for number, symbol in enumerate([*symbols, *(f'{symbol}</w>' for symbol in symbols)])}
    vocabulary |= {'<|startoftext|>': config['bos_token_id'], '<|endoftext|>': config['eos_token_id']}
    return CLIPTokenizer(vocabulary, [], max_length=config['max_position_embeddings'])


def _byte_symbols() -> Iterator[str]:
    """GPT-2's printable stand-ins of the bytes 0 to 255."""
    spare = 256
    for byte in range(256):
        printable = 33 <= byte <= 126 or 161 <= byte <= 172 or byte >= 174
        yield chr(byte if printable else spare)
        spare += not printable
