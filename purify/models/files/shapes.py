"""Published latent diffusion models as config.json's, and such pipelines with random weights.

What a model costs does not depend on what it has learned, so speed and memory can be measured
without its weights, and a tiny pipeline tests what a real one would take a GPU for.
"""

import json
import math
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx

from purify.core.errors import UserError
from purify.core.randomness import stream_rng
from purify.core.types import Settings
from purify.models.clip.tokenizer import CLIPTokenizer
from purify.models.files.hub import COMPONENTS
from purify.models.files.pipelines import MODELS, Pipeline, told_class
from purify.models.files.weights import abstract_model

SPREAD = 0.02  # deviation of biases and embeddings

# Stable Diffusion 1.x with either condition, Stable Diffusion 2.1, Versatile Diffusion's image
# half; the first at a quarter of its width, for measurements on CPUs; and one for tests. Of each
# the config.json's of its parts.
_FILE = Path(__file__).parent / 'shapes.json'
SHAPES: dict[str, dict[str, Settings]] = json.loads(_FILE.read_text(encoding='utf-8'))
PIPELINES = {  # kind: class in model_index.json
    'sd_variation': 'StableDiffusionImageVariationPipeline',
    'versatile': 'VersatileDiffusionImageVariationPipeline',
    'sd_img2img': 'StableDiffusionPipeline',
}
# Parts whose name above is another.
_SHAPED_AS = {'image_unet': 'unet', 'image_feature_extractor': 'feature_extractor'}


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
            draw_weights(part, seed=seed, stream=name, dtype=dtype)
    return pipeline


def abstract_pipeline(kind: str, shapes: str, *, dtype: str = 'float32') -> Pipeline:
    """The pipeline of `random_pipeline` with shapes (`jax.ShapeDtypeStruct`) for weights."""
    if kind not in PIPELINES:
        raise UserError(f'unknown kind {kind!r}. Choose from: {", ".join(PIPELINES)}.')
    listed = [name for name in COMPONENTS[PIPELINES[kind]] if name != 'tokenizer']
    names = {name: _SHAPED_AS.get(name, name) for name in listed}
    able = [name for name, parts in SHAPES.items() if set(names.values()) <= set(parts)]
    if shapes not in able:
        choices = ', '.join(able)
        raise UserError(f'shapes {shapes!r} make no {kind} pipeline. Choose from: {choices}.')
    configs = {name: SHAPES[shapes][part] for name, part in names.items()}
    parts: Settings = dict(configs)
    for name, config in configs.items():
        if (told := told_class(config)) in MODELS:
            parts[name] = abstract_model(MODELS[told], config, dtype=dtype)
    if 'text_encoder' in parts:
        parts['tokenizer'] = byte_tokenizer(configs['text_encoder'])
    return Pipeline(PIPELINES[kind], parts)


def draw_weights(module: nnx.Module, *, seed: int, stream: str, dtype: str) -> None:
    """Fills an abstract network with random weights that keep the size of activations."""
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
    """A tokenizer that spells texts byte by byte, for the text encoder of `config`."""
    symbols = [*_byte_symbols()]
    words = [*symbols, *(f'{symbol}</w>' for symbol in symbols)]
    vocabulary = {word: number for number, word in enumerate(words)}
    vocabulary['<|startoftext|>'] = config['bos_token_id']
    vocabulary['<|endoftext|>'] = config['eos_token_id']
    return CLIPTokenizer(vocabulary, [], max_length=config['max_position_embeddings'])


def _byte_symbols() -> Iterator[str]:
    """GPT-2's printable stand-ins for the bytes 0 to 255."""
    spare = 256
    for byte in range(256):
        printable = 33 <= byte <= 126 or 161 <= byte <= 172 or byte >= 174
        yield chr(byte if printable else spare)
        spare += not printable
