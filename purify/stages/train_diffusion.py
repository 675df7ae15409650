"""The stages that train diffusion models on pixels: priors, which know no classes, and generators, which do."""

from pathlib import Path
from typing import Any

import jax
from flax import nnx

from purify.core import devices
from purify.core.errors import UserError
from purify.core.files import write_json
from purify.data.loader import Split
from purify.defenses.method import Step
from purify.diffusion.scheduler_config import schedule_to_diffusers
from purify.engine.chain import Work
from purify.generative.pixel_generator import NOTE, make_noise_schedule, make_pixel_generator, make_preconditioning
from purify.generative.pixel_prior import PixelPrior
from purify.models.diffusers.unet2d import UNet2DModel
from purify.models.files.weights import write_folder
from purify.stages.finetune_latent import shape_latent, train_latent
from purify.stages.fit_network import fit_network, make_augmentations
from purify.stages.kind import Kind
from purify.stages.known import Known, count_numbers, shape_training
from purify.stages.networks_on_disk import write_network
from purify.stages.provenance import note_training
from purify.train.objectives.denoise import Denoise, DenoisePreconditioned
from purify.train.objectives.tasks import Task
from purify.train.state import Build, abstract_network


def prior_builder(settings: dict[str, Any], channels: int, classes: int = 0) -> tuple[dict[str, Any], Build]:
    """The `network` part of a prior or generator -> diffusers' config of the UNet, and a function from rngs to it.

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


def make_denoiser(settings: dict[str, Any], graph: Any, classes: int) -> tuple[Task, dict[str, Any]]:
    """The settings of a generator on pixels -> its task, and the scheduler_config.json that goes with it."""
    objective, size_px = settings['objective'], settings['network']['sample_size']
    told = {'classes': classes, 'drop': objective['drop']}
    if objective['name'] == 'ddpm':
        schedule = make_noise_schedule(objective['schedule'])
        return Denoise(graph, schedule, size_px, settings['ema_decay'], **told), schedule_to_diffusers(schedule)
    if objective['name'] == 'edm':
        edm = make_preconditioning(objective)
        return DenoisePreconditioned(graph, edm, size_px, settings['ema_decay'], **told), edm.to_diffusers()
    raise UserError(f"generator.objective.name={objective['name']!r}: choose 'ddpm', 'edm' or 'latent'.")


def train_prior(work: Work) -> None:
    """Trains a pixel DDPM on the dataset `data` and writes its average as a diffusers pipeline folder and an orbax checkpoint."""
    settings = work.settings
    split = Split(work.inputs['data'], 'train')
    config, build = prior_builder(settings['network'], split.shape[-1])
    graph, like = abstract_network(build)
    schedule = make_noise_schedule(settings['schedule'])
    task = Denoise(graph, schedule, settings['network']['sample_size'], settings['ema_decay'])
    state = fit_network(work, task, build, like, split, make_augmentations(settings['augment']))
    write_network(work.folder, config, state.weights())
    if devices.is_lead():
        write_denoiser(work.folder, config, schedule_to_diffusers(schedule), graph, state.weights(), settings['stored_dtype'])
        note_training(work.folder, settings, len(split), work.inputs.get('init'))


def run(work: Work) -> None:
    """Trains a class-conditional diffusion model on the dataset `data`; leaves its average as `train_prior` does, with a note.

    The note, generator.json, says what `purify.generative.pixel_generator.open_generator` has to know. One in latents is trained on
    from the input `prior` (`purify.stages.finetune_latent.train_latent`).
    """
    settings = work.settings
    if settings['objective']['name'] == 'latent':
        train_latent(work)
        return
    split = Split(work.inputs['data'], 'train')
    config, build = prior_builder(settings['network'], split.shape[-1], len(split.class_names))
    graph, like = abstract_network(build)
    task, scheduler = make_denoiser(settings, graph, len(split.class_names))
    state = fit_network(work, task, build, like, split, make_augmentations(settings['augment']))
    write_network(work.folder, config, state.weights())
    if devices.is_lead():
        write_denoiser(work.folder, config, scheduler, graph, state.weights(), settings['stored_dtype'])
        write_json(work.folder / NOTE, {'objective': settings['objective'], 'class_names': split.class_names})


def write_denoiser(folder: Path, config: dict[str, Any], scheduler: dict[str, Any], graph: Any, weights: Any, dtype: str) -> None:
    """A folder whose parts diffusers opens, all of it as a DDPMPipeline where no class is told; `weights` are stored as `dtype`."""
    weights = jax.device_get(weights)
    write_folder(nnx.merge(graph, weights['params'], weights['stats']), config, folder / 'unet', dtype=dtype)
    write_json(folder / 'scheduler' / 'scheduler_config.json', scheduler)
    parts = {'scheduler': ['diffusers', scheduler['_class_name']], 'unet': ['diffusers', 'UNet2DModel']}
    write_json(folder / 'model_index.json', {'_class_name': 'DDPMPipeline'} | parts)


def shape_prior(known: Known, part: dict[str, Any]) -> PixelPrior:
    """Traces the training of a prior -> the prior, with shapes for weights."""
    size, data = part['network']['sample_size'], known.data
    _, build = prior_builder(part['network'], data.channels)
    graph, weights = abstract_network(build)
    schedule = make_noise_schedule(part['schedule'])
    task = Denoise(graph, schedule, size, part['ema_decay'])
    shape_training(known, 'prior', part, make_augmentations(part['augment']), task, build)
    known.found.notes.append(f'prior: UNet2DModel, {count_numbers(weights["params"]):,} parameters')
    return PixelPrior(graph, weights, schedule, size, data.channels)


def shape(known: Known, step: Step) -> None:
    """Traces the training of a generator, which is known from then on."""
    part, data, augment = step.settings, known.data, make_augmentations(step.settings['augment'])
    known.generators[step.name] = None
    if part['objective']['name'] == 'latent':
        if known.prior is None:  # which the findings say why
            return
        task, build, start, generator = shape_latent(known.prior, part, data.names)
        weights, kind = start, 'UNet2DConditionModel'
    else:
        _, build = prior_builder(part['network'], data.channels, data.classes)
        graph, weights = abstract_network(build)
        task, _ = make_denoiser(part, graph, data.classes)
        size_px, start, kind = part['network']['sample_size'], None, 'UNet2DModel'
        generator = make_pixel_generator(graph, weights, part['objective'], size_px, data.channels, data.names)
    shape_training(known, step.name, part, augment, task, build, start)
    known.found.notes.append(f'{step.name}: {kind}, {count_numbers(weights["params"]):,} parameters')
    known.generators[step.name] = generator


KIND = Kind(run, shape, ('seeds',))
