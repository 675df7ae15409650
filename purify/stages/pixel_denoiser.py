"""Diffusion models on pixels: how settings describe them, and their folders on disk."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx

from purify.core.errors import UserError
from purify.core.files import write_json
from purify.core.types import Facts, Settings, Tree
from purify.diffusion.scheduler_config import schedule_to_diffusers
from purify.generative.open_prior import load_variation_model
from purify.generative.pixel_generator import make_preconditioning, read_schedule
from purify.generative.pixel_prior import PixelPrior
from purify.models.diffusers.unet2d import UNet2DModel
from purify.models.files.weights import abstract, write_folder
from purify.stages.diffusion_settings import Timesteps
from purify.train.objectives.consistency import Consistency
from purify.train.objectives.denoise import Denoise, DenoisePreconditioned
from purify.train.objectives.tasks import Task
from purify.train.state import Build


def prior_builder(settings: Settings, channels: int, classes: int = 0) -> tuple[Facts, Build]:
    """Makes diffusers' config of the UNet of `settings`, and a function from rngs to that UNet.

    A network that is told one of `classes` has a row for each, and a last one for none.
    """
    widths, attention = settings['block_out_channels'], settings['attention_levels']
    levels = len(widths)
    down = ['AttnDownBlock2D' if levels - k <= attention else 'DownBlock2D' for k in range(levels)]
    up = ['AttnUpBlock2D' if k < attention else 'UpBlock2D' for k in range(levels)]
    config = {
        '_class_name': 'UNet2DModel',
        'sample_size': settings['sample_size'],
        'in_channels': channels,
        'out_channels': channels,
        'block_out_channels': list(widths),
        'layers_per_block': settings['layers_per_block'],
        'down_block_types': down,
        'up_block_types': up,
        'add_attention': attention > 0,
        'attention_head_dim': None,
        'norm_num_groups': settings['norm_num_groups'],
        'dropout': settings['dropout'],
    }
    config |= {'num_class_embeds': classes + 1} if classes else {}
    return config, lambda rngs: UNet2DModel.from_config(config, rngs=rngs, dtype=settings['dtype'])


def make_denoiser(settings: Settings, graph: Any, classes: int = 0) -> tuple[Task, Facts]:
    """Makes the task of a prior or generator, and the scheduler_config.json that goes with it.

    A prior has no `objective` and is told no classes: it learns to denoise on its `schedule`.
    """
    objective, size_px = settings.get('objective'), settings['network']['sample_size']
    if objective is None:
        often = asdict(Timesteps(**settings['timesteps']))
        drawn = {'schedule': settings['schedule'], **often}
        objective = {'name': 'ddpm', 'drop': 0.0, **drawn}
    rest = (size_px, settings['ema_decay'], classes, objective['drop'])
    if objective['name'] == 'ddpm':
        schedule = read_schedule(objective['schedule'])
        often = {name: objective[name] for name in ('below', 'share') if name in objective}
        return Denoise(graph, schedule, *rest, **often), schedule_to_diffusers(schedule)
    if objective['name'] == 'edm':
        edm = make_preconditioning(objective)
        return DenoisePreconditioned(graph, edm, *rest), edm.to_diffusers()
    raise UserError(
        f"generator.objective.name={objective['name']!r}: choose 'ddpm', 'edm' or 'latent'."
    )


def read_start(folder: Path, like: Tree, settings: Settings, *, weights: bool = True) -> Tree:
    """Reads the weights {'params', 'stats'} of a finished denoiser, for another to start from.

    The other may be told classes that the finished one is not: its table of them begins at zero,
    so at first it says of every class what the finished one says.

    Args:
      folder: of a prior or generator on pixels, in diffusers' format.
      like: the weights of the other, as shapes.
      settings: of the other's training.
      weights: False gives shapes in their place.

    Raises:
      UserError: where the two differ in their layers, their noise, or in what they predict.
    """
    start = load_variation_model(folder, weights=weights)
    if not isinstance(start, PixelPrior) or start.distilled:
        raise UserError(f'init_from={folder}: not a prior on pixels that takes many calls.')
    objective = settings.get('objective') or {'name': 'ddpm', 'schedule': settings['schedule']}
    wanted = read_schedule(objective['schedule']) if objective['name'] == 'ddpm' else None
    noise = lambda schedule: (schedule.prediction, *np.round(schedule.alphas_cumprod, 6))
    if wanted is None or noise(wanted) != noise(start.schedule):
        tell = lambda noise: (
            f'predicts {noise.prediction!r} on {noise.steps} steps whose last keeps'
            f' {noise.alphas_cumprod[-1]:.3g} of the image'
        )
        asked = 'is of edm' if wanted is None else tell(wanted)
        raise UserError(
            f'init_from={folder}: that model {tell(start.schedule)}; this training {asked}. Set the'
            ' schedule and the prediction here to those of the model, or start from none.'
        )
    params, ours = dict(start.weights['params']), like['params']
    if 'class_embedding' in ours and 'class_embedding' not in params:
        blank = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), ours['class_embedding'])
        params['class_embedding'] = blank if weights else ours['class_embedding']
    shapes = lambda tree: {
        jax.tree_util.keystr(path): tuple(x.shape)
        for path, x in jax.tree_util.tree_leaves_with_path(tree)
    }
    theirs, asked = shapes(params), shapes(ours)
    if odd := sorted(name for name in theirs | asked if theirs.get(name) != asked.get(name)):
        raise UserError(
            f'init_from={folder}: its network is another than this one: of {odd[0]} it has'
            f' {theirs.get(odd[0])}, here is {asked.get(odd[0])}. Give both the same `network`.'
        )
    _check_same(folder, start, settings)
    return {'params': params, 'stats': start.weights['stats']}


def _check_same(folder: Path, start: PixelPrior, settings: Settings) -> None:
    """Refuses a start whose network does something else with the same weights."""
    weights = start.weights
    theirs = nnx.merge(start.graph, weights['params'], weights['stats']).config
    ours: Any = abstract(prior_builder(settings['network'], start.channels)[1])
    free = ('sample_size', 'dropout', 'num_class_embeds', 'num_train_timesteps')
    plain = lambda value: list(value) if isinstance(value, tuple) else value
    for name in sorted({*ours.config} - {*free}):
        if plain(ours.config[name]) != plain(theirs.get(name)) and not name.startswith('_'):
            raise UserError(
                f'init_from={folder}: its network has {name}={theirs.get(name)}, and here is'
                f' {ours.config[name]}. Give both the same `network`.'
            )


def make_consistency(
    settings: Settings, finished: Any, channels: int
) -> tuple[Consistency, Build, Facts]:
    """Makes the task that distils a prior, the function that builds its network, and its config.

    Raises `UserError` for a prior that is not on pixels, was distilled before, makes images of
    other `channels` than the data, or learned its variance.
    """
    if not isinstance(finished, PixelPrior) or finished.distilled:
        kind = 'distilled' if isinstance(finished, PixelPrior) else repr(finished.model)
        raise UserError(
            f'prior.distill: a {kind} prior cannot be distilled; choose one on pixels that takes'
            ' many calls.'
        )
    if finished.channels != channels:
        raise UserError(
            f'prior.distill: that prior makes images of {finished.channels} channels, the data have'
            f' {channels}. Choose another, or set source.channels.'
        )
    weights = finished.weights
    config = nnx.merge(finished.graph, weights['params'], weights['stats']).config
    if config['out_channels'] != config['in_channels']:
        raise UserError(
            'prior.distill: this prior learned its variance too, which cannot be distilled; choose'
            ' another.'
        )
    sizes = finished.size_px, settings['ema_decay'], settings['stride']
    task = Consistency(finished.graph, finished.schedule, *sizes, frozen=weights)
    build = lambda rngs: UNet2DModel.from_config(config, rngs=rngs, dtype=settings['dtype'])
    return task, build, dict(config)


def write_denoiser(
    folder: Path, config: Settings, scheduler: Facts, graph: Any, weights: Tree, dtype: str
) -> None:
    """Writes a folder that diffusers opens, `weights` stored as `dtype`.

    All of it is a DDPMPipeline where no class is told; else its parts can be opened.
    """
    weights = jax.device_get(weights)
    network = nnx.merge(graph, weights['params'], weights['stats'])
    write_folder(network, config, folder / 'unet', dtype=dtype)
    write_json(folder / 'scheduler' / 'scheduler_config.json', scheduler)
    kinds = {'scheduler': scheduler['_class_name'], 'unet': 'UNet2DModel'}
    parts = {part: ['diffusers', kind] for part, kind in kinds.items()}
    write_json(folder / 'model_index.json', {'_class_name': 'DDPMPipeline'} | parts)
