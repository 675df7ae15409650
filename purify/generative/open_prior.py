"""Opens the diffusion model in a folder as a prior, of the kind that the folder names."""

from pathlib import Path
from typing import Any

from purify.core.errors import UserError
from purify.core.registry import EMPTY, Registry, changed, defaults
from purify.core.types import Facts
from purify.diffusion.scheduler_config import schedule_from_diffusers
from purify.generative.image_to_image import ImageToImage
from purify.generative.image_variation import ImageVariation, Versatile
from purify.generative.pixel_prior import DISTILLED, PixelPrior, Prior
from purify.models.diffusers.unet2d import UNet2DModel
from purify.models.files.dtypes import check_dtype
from purify.models.files.folders import read_object
from purify.models.files.hub import INDEX, read_index, resolve
from purify.models.files.pipelines import check_class_name, from_pretrained
from purify.models.files.weights import load_model
from purify.train.state import split_network

VARIATION_MODELS: Registry[type[Prior]] = Registry(
    'variation model',
    pixel=PixelPrior,
    sd_variation=ImageVariation,
    versatile=Versatile,
    sd_img2img=ImageToImage,
)


def variation(model: str, **changes: Any) -> Facts:
    """Makes the part `vary` of a config: which model makes variations, and how.

    `model` is of `VARIATION_MODELS`; `changes` are the settings of its `vary`.

    A pixel model noises to `start` and goes back in `steps`, by DDIM that draws as much noise as
    DDPM unless told otherwise; the others have the steps and the guidance of Struppek 2023. Raises
    ValueError for unknown models and settings.
    """
    if model not in VARIATION_MODELS:
        raise ValueError(f'model={model!r}: choose from {", ".join(sorted(VARIATION_MODELS))}.')
    known = defaults(VARIATION_MODELS[model].vary)
    known = {name: value for name, value in known.items() if name not in ('self', 'class_names')}
    usual = {name: value for name, value in known.items() if value not in (None, EMPTY)}
    usual |= {'sampler': 'ddim', 'eta': 1.0} if model == 'pixel' else {}
    return {'model': model} | changed(usual, changes, f'vary.model={model}', {*known, *usual})


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
    path_or_hub_id: str | Path,
    *,
    revision: str | None = None,
    dtype: str = 'float32',
    vae_slice: int = 0,
    weights: bool = True,
) -> Prior:
    """Opens the prior in a folder in diffusers' format, or of a hub id, of whichever kind it is.

    Args:
      path_or_hub_id: see `purify.models.files.hub.resolve`.
      revision: of a hub id.
      dtype: what the networks compute in: 'float32', 'bfloat16' or 'float16'.
      vae_slice: images a latent prior's VAE takes at once on one device, 0 for all.
      weights: False puts shapes (`jax.ShapeDtypeStruct`) in place of the weights: that the files
        fit is seen from their headers, and no tensor is read. Such a prior can be traced, not run.

    Raises:
      UserError: for folders that hold no such pipeline, naming the classes that can be read; for
        broken files.
    """
    check_dtype(dtype)
    if not isinstance(vae_slice, int) or vae_slice < 0:
        raise UserError(f'vae_slice={vae_slice!r} must be a number of images, or 0 for all.')
    folder = resolve(path_or_hub_id, revision)
    if (folder / 'unet').is_dir() or not (folder / 'config.json').is_file():
        if not (folder / INDEX).is_file():
            raise UserError(
                f"{folder}: holds no {INDEX}. Give a folder in diffusers' pipeline format."
            )
        kind = read_index(folder)['_class_name']
    else:
        kind = 'DDPMPipeline'  # an old layout: the network on top, its scheduler beside it
    if kind not in _PIPELINES:
        raise UserError(
            f'{folder}: a {kind} makes no variations. Choose a folder with one of'
            f' {", ".join(_PIPELINES)}.'
        )
    model = _PIPELINES[kind]
    if model == 'pixel':
        return _pixel(folder, dtype, weights)
    pipeline = from_pretrained(folder, dtype=dtype, weights=weights)
    return VARIATION_MODELS.bare(model).from_pipeline(pipeline, dtype=dtype, vae_slice=vae_slice)


def _pixel(folder: Path, dtype: str, with_weights: bool) -> PixelPrior:
    sub = 'unet' if (folder / 'unet').is_dir() else ''
    config = folder / sub / 'config.json'
    noise = (folder / 'scheduler' if sub else folder) / 'scheduler_config.json'
    for name, file in (('unet', config), ('scheduler', noise)):
        check_class_name(folder, name, file)
    kind = read_object(config).get('_class_name')
    if kind != 'UNet2DModel':
        raise UserError(f'{folder}: {kind} is no pixel prior; choose a folder with a UNet2DModel.')
    network = load_model(UNet2DModel, folder, subfolder=sub, dtype=dtype, weights=with_weights)
    size = network.config['sample_size']
    height, width = size if isinstance(size, list) else (size, size)
    if height is None or height != width:
        raise UserError(
            f'{config}: sample_size = {size!r} must be one number of pixels, for square images.'
        )
    graph, params, stats = split_network(network)
    chain = read_object(noise)
    schedule = schedule_from_diffusers(chain)
    rows = network.config['num_train_timesteps']
    if network.config['time_embedding_type'] == 'learned' and rows != schedule.steps:
        raise UserError(
            f'{config}: num_train_timesteps = {rows}, but that of {noise} is {schedule.steps}, and'
            ' the network has a row for each timestep. Download both again.'
        )
    weights, channels = {'params': params, 'stats': stats}, network.config['in_channels']
    return PixelPrior(graph, weights, schedule, height, channels, chain.get(DISTILLED) is True)
