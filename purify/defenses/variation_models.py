"""Which prior a folder holds, and opening it."""

from pathlib import Path
from typing import Any

import jax
import numpy as np

from purify.core.errors import UserError
from purify.core.files import read_json
from purify.core.registry import Registry
from purify.defenses.image_to_image import ImageToImage
from purify.defenses.image_variation import ImageVariation, Versatile
from purify.defenses.priors import PixelPrior
from purify.diffusion.scheduler_config import schedule_from_diffusers
from purify.models.hub import resolve
from purify.models.loading import from_pretrained
from purify.models.unet2d import UNet2DModel
from purify.models.weights import load_model
from purify.train.state import split_network

VARIATION_MODELS = Registry(
    'variation model', pixel=PixelPrior, sd_variation=ImageVariation, versatile=Versatile, sd_img2img=ImageToImage
)
_PIPELINES = {  # class in model_index.json: our name
    'DDPMPipeline': 'pixel',
    'DDIMPipeline': 'pixel',
    'StableDiffusionImageVariationPipeline': 'sd_variation',
    'VersatileDiffusionImageVariationPipeline': 'versatile',
    'VersatileDiffusionPipeline': 'versatile',
    'StableDiffusionPipeline': 'sd_img2img',
    'StableDiffusionImg2ImgPipeline': 'sd_img2img',
}


def load_variation_model(
    path_or_hub_id: str | Path, *, revision: str | None = None, dtype: str = 'float32', vae_slice: int = 0
) -> Any:
    """The prior in a folder in diffusers' pipeline format, or of a hub id: the class of its model_index.json says which.

    Args:
      path_or_hub_id: see `purify.models.hub.resolve`.
      revision: of a hub id.
      dtype: what the networks compute in: 'float32', 'bfloat16' or 'float16'.
      vae_slice: images a latent prior's VAE takes at once on one device, 0 for all.

    Raises:
      UserError: for folders that hold no such pipeline, naming the classes that can be read.
    """
    folder = resolve(path_or_hub_id, revision)
    index = folder / 'model_index.json'
    if (folder / 'unet').is_dir() or not (folder / 'config.json').is_file():
        if not index.is_file():
            raise UserError(f"{folder}: holds no model_index.json. Give a folder in diffusers' pipeline format.")
        kind = read_json(index).get('_class_name')
    else:
        kind = 'DDPMPipeline'  # an old layout: the network on top, its scheduler beside it
    if kind not in _PIPELINES:
        raise UserError(f'{folder}: a {kind} makes no variations. Choose a folder with one of {", ".join(_PIPELINES)}.')
    model = _PIPELINES[kind]
    if model == 'pixel':
        return _pixel(folder, dtype)
    return VARIATION_MODELS[model].from_pipeline(from_pretrained(folder, dtype=dtype), dtype=dtype, vae_slice=vae_slice)


def _pixel(folder: Path, dtype: str) -> PixelPrior:
    sub = 'unet' if (folder / 'unet').is_dir() else ''
    kind = read_json(folder / sub / 'config.json').get('_class_name')
    if kind != 'UNet2DModel':
        raise UserError(f'{folder}: {kind} is no pixel prior; choose a folder with a UNet2DModel.')
    network = load_model(UNet2DModel, folder, subfolder=sub, dtype=dtype)
    graph, params, stats = split_network(network)
    schedule = schedule_from_diffusers(read_json((folder / 'scheduler' if sub else folder) / 'scheduler_config.json'))
    weights = jax.tree.map(np.asarray, {'params': params, 'stats': stats})
    return PixelPrior(graph, weights, schedule, int(network.config['sample_size']), int(network.config['in_channels']))
