"""The stages that train diffusion models on pixels: priors, which know no classes, and generators, which do."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import jax
from flax import nnx

from purify.core import devices
from purify.core.errors import UserError
from purify.core.files import write_json
from purify.core.types import Facts, Settings, Tree
from purify.data.loader import Split
from purify.defenses.method import Step
from purify.diffusion.preconditioning import Preconditioning
from purify.diffusion.scheduler_config import schedule_to_diffusers
from purify.engine.chain import Work
from purify.generative.pixel_generator import (
    NOTE,
    make_pixel_generator,
    make_preconditioning,
    read_schedule,
)
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
from purify.train.optim import OPTIMIZERS
from purify.train.state import Build, abstract_network


@dataclass(frozen=True)
class PixelNetwork:
    """The `network` of a prior or a generator on pixels: a UNet of diffusers' kind.

    Attributes:
      sample_size: side of its images; others are brought to it.
      block_out_channels: of its levels, the first at full size, each next at half.
      layers_per_block: of each level.
      attention_levels: how many of the coarsest levels have attention.
      norm_num_groups: of its norms.
      dropout: share.
      dtype: what it computes in.
    """

    sample_size: int
    block_out_channels: tuple[int, ...]
    layers_per_block: int = 2
    attention_levels: int = 0
    norm_num_groups: int = 32
    dropout: float = 0.0
    dtype: str = 'float32'


@dataclass(frozen=True)
class NoiseSchedule:
    """The `schedule` of a prior or of a generator's objective: its `name`, how many steps, what the network predicts."""

    name: str = 'linear'
    steps: int = 1000
    prediction: str = 'epsilon'


@dataclass(frozen=True)
class Denoising:
    """How a diffusion model on pixels is trained.

    Attributes:
      network: see `PixelNetwork`.
      optim: see `purify.train.optim.make_optimizer`.
      steps: updates.
      batch: images of an update.
      epochs: passes over the images, instead of steps.
      accumulate: pieces that a batch is worked through in.
      ema_decay: of the average of the parameters, which is what is kept.
      stored_dtype: of the weights on disk.
      augment: of the images, by name of the augmentation.
      init_from: a finished model to start from.
    """

    network: PixelNetwork
    optim: Settings
    steps: int
    batch: int
    epochs: float = 0.0
    accumulate: int = 1
    ema_decay: float = 0.995
    stored_dtype: str = 'float32'
    augment: Settings = field(default_factory=dict)
    init_from: str = ''


@dataclass(frozen=True, kw_only=True)
class TrainedPrior(Denoising):
    """The part `prior` of a config whose run trains it: on `data`, the 'reference' or the 'poisoned' images."""

    data: str = 'reference'
    schedule: NoiseSchedule = NoiseSchedule()


def pixel_prior(
    network: PixelNetwork, *, lr: float, steps: int, batch: int, **changes: Any
) -> Facts:
    """A pixel DDPM trained in the same run, see `TrainedPrior`."""
    return asdict(TrainedPrior(network, OPTIMIZERS.part('adam', lr=lr), steps, batch, **changes))


def wide_prior(
    *, size_px: int, channels: tuple[int, ...], attention_levels: int, **run: Any
) -> Facts:
    """A `pixel_prior` with the settings of Ho et al.

    2020 for photographs: two blocks a level, dropout, EMA .9999, flips.
    """
    network = PixelNetwork(
        size_px, channels, attention_levels=attention_levels, dropout=0.1, dtype='bfloat16'
    )
    return pixel_prior(network, ema_decay=0.9999, augment={'flip': {'p': 0.5}}, **run)


def pixel_generator(
    network: PixelNetwork,
    optim: Settings,
    *,
    objective: str = 'ddpm',
    drop: float = 0.1,
    **run: Any,
) -> Facts:
    """A class-conditional diffusion model on pixels, trained from scratch on the poisoned images; `run` is of `Denoising`.

    `objective` is 'ddpm' (the noise, on a linear schedule of 1,000 steps) or 'edm' (Karras et al.
    2022). A class is not told with chance `drop`, for guidance.
    """
    own = asdict(Preconditioning()) if objective == 'edm' else {'schedule': asdict(NoiseSchedule())}
    return {'objective': {'name': objective, 'drop': drop} | own} | asdict(
        Denoising(network, optim, **run)
    )


def latent_generator(
    *, epochs: float = 50.0, batch: int = 16, lr: float = 1e-4, dtype: str = 'float32'
) -> Facts:
    """Stable Diffusion, the config's `prior`, whose UNet is trained on under the captions 'A photo of a <class>' (Pan 2024).

    Numbers are those of the paper and its code: AdamW at a constant 1e-4, 50 epochs, 16 images,
    every caption told (`drop` 0). `size_px` 0 is the model's own size; `dtype` what its networks
    compute in, 'float32' or 'bfloat16'.
    """
    optim = OPTIMIZERS.part('adamw', lr=lr, schedule='constant', weight_decay=0.01)
    run = {
        'epochs': epochs,
        'steps': 0,
        'batch': batch,
        'accumulate': 1,
        'ema_decay': 0.0,
        'stored_dtype': 'float32',
    }
    objective = {
        'name': 'latent',
        'caption': 'A photo of a {}',
        'drop': 0.0,
        'size_px': 0,
        'dtype': dtype,
    }
    return {'objective': objective, 'optim': optim, 'augment': {}} | run


def prior_builder(settings: Settings, channels: int, classes: int = 0) -> tuple[Facts, Build]:
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


def make_denoiser(settings: Settings, graph: Any, classes: int) -> tuple[Task, Facts]:
    """The settings of a generator on pixels -> its task, and the scheduler_config.json that goes with it."""
    objective, size_px = settings['objective'], settings['network']['sample_size']
    told = {'classes': classes, 'drop': objective['drop']}
    if objective['name'] == 'ddpm':
        schedule = read_schedule(objective['schedule'])
        return Denoise(
            graph, schedule, size_px, settings['ema_decay'], **told
        ), schedule_to_diffusers(schedule)
    if objective['name'] == 'edm':
        edm = make_preconditioning(objective)
        return (
            DenoisePreconditioned(graph, edm, size_px, settings['ema_decay'], **told),
            edm.to_diffusers(),
        )
    raise UserError(
        f"generator.objective.name={objective['name']!r}: choose 'ddpm', 'edm' or 'latent'."
    )


def train_prior(work: Work) -> None:
    """Trains a pixel DDPM on the dataset `data` and writes its average as a diffusers pipeline folder and an orbax checkpoint."""
    settings = work.settings
    split = Split(work.inputs['data'], 'train')
    config, build = prior_builder(settings['network'], split.shape[-1])
    graph, like = abstract_network(build)
    schedule = read_schedule(settings['schedule'])
    task = Denoise(graph, schedule, settings['network']['sample_size'], settings['ema_decay'])
    state = fit_network(work, task, build, like, split, make_augmentations(settings['augment']))
    write_network(work.folder, config, state.weights())
    if devices.is_lead():
        write_denoiser(
            work.folder,
            config,
            schedule_to_diffusers(schedule),
            graph,
            state.weights(),
            settings['stored_dtype'],
        )
        note_training(work.folder, settings, len(split), work.inputs.get('init'))


def run(work: Work) -> None:
    """Trains a class-conditional diffusion model on the dataset `data`; leaves its average as `train_prior` does, with a note.

    The note, generator.json, says what `purify.generative.pixel_generator.open_generator` has to
    know. One in latents is trained on from the input `prior`
    (`purify.stages.finetune_latent.train_latent`).
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
        write_denoiser(
            work.folder, config, scheduler, graph, state.weights(), settings['stored_dtype']
        )
        write_json(
            work.folder / NOTE,
            {'objective': settings['objective'], 'class_names': split.class_names},
        )


def write_denoiser(
    folder: Path, config: Settings, scheduler: Facts, graph: Any, weights: Tree, dtype: str
) -> None:
    """A folder whose parts diffusers opens, all of it as a DDPMPipeline where no class is told; `weights` are stored as `dtype`."""
    weights = jax.device_get(weights)
    write_folder(
        nnx.merge(graph, weights['params'], weights['stats']), config, folder / 'unet', dtype=dtype
    )
    write_json(folder / 'scheduler' / 'scheduler_config.json', scheduler)
    parts = {
        'scheduler': ['diffusers', scheduler['_class_name']],
        'unet': ['diffusers', 'UNet2DModel'],
    }
    write_json(folder / 'model_index.json', {'_class_name': 'DDPMPipeline'} | parts)


def shape_prior(known: Known, part: Settings) -> PixelPrior:
    """Traces the training of a prior -> the prior, with shapes for weights."""
    size, data = part['network']['sample_size'], known.data
    _, build = prior_builder(part['network'], data.channels)
    graph, weights = abstract_network(build)
    schedule = read_schedule(part['schedule'])
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
        generator = make_pixel_generator(
            graph, weights, part['objective'], size_px, data.channels, data.names
        )
    shape_training(known, step.name, part, augment, task, build, start)
    known.found.notes.append(
        f'{step.name}: {kind}, {count_numbers(weights["params"]):,} parameters'
    )
    known.generators[step.name] = generator


KIND = Kind(run, shape, ('seeds',))
