"""The stages that train diffusion models: priors, without classes, and generators, with them."""

from dataclasses import asdict, dataclass, field
from typing import Any

from purify.core import devices
from purify.core.files import write_json
from purify.core.types import Facts, Settings
from purify.data.loader import Split
from purify.data.training_set import TrainingSet
from purify.defenses.method import Step
from purify.diffusion.preconditioning import Preconditioning
from purify.engine.stage import Work
from purify.generative.pixel_generator import NOTE, make_pixel_generator, read_schedule
from purify.generative.pixel_prior import PixelPrior
from purify.stages.finetune_latent import shape_latent, train_latent
from purify.stages.fit_network import fit_network
from purify.stages.kind import Kind
from purify.stages.known import Known, count_numbers, shape_training
from purify.stages.networks_on_disk import write_network
from purify.stages.pixel_denoiser import make_denoiser, prior_builder, write_denoiser
from purify.stages.provenance import note_training
from purify.train.optim import OPTIMIZERS
from purify.train.state import abstract_network


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
    """The `schedule` of a prior or of a generator's objective: how much noise each step has.

    Attributes:
      name: one of `purify.diffusion.schedules.SCHEDULES`.
      steps: its length T.
      prediction: what the network predicts: 'epsilon', 'sample' or 'v_prediction'.
    """

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
    """The part `prior` of a config that trains it on `data`: 'reference' or 'poisoned' images."""

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
    """A `pixel_prior` for photographs, as Ho et al. 2020: two blocks a level, dropout, flips."""
    usual = {'dropout': 0.1, 'dtype': 'bfloat16'}
    network = PixelNetwork(size_px, channels, attention_levels=attention_levels, **usual)
    return pixel_prior(network, ema_decay=0.9999, augment={'flip': {'p': 0.5}}, **run)


def pixel_generator(
    unet: PixelNetwork, optim: Settings, *, objective: str = 'ddpm', drop: float = 0.1, **run: Any
) -> Facts:
    """A class-conditional diffusion model on pixels, trained from scratch on the poisoned images.

    The objective 'ddpm' learns the noise on a linear schedule of 1,000 steps, 'edm' is that of
    Karras et al. 2022. `run` is of `Denoising`.

    Args:
      unet: the network.
      optim: see `purify.train.optim.make_optimizer`.
      objective: 'ddpm' or 'edm'.
      name: the same, as a config has it.
      drop: chance that a training image's class is not told, for guidance.
      **run: see `Denoising`.
    """
    own = asdict(Preconditioning()) if objective == 'edm' else {'schedule': asdict(NoiseSchedule())}
    told = {'objective': {'name': objective, 'drop': drop} | own}
    return told | asdict(Denoising(unet, optim, **run))


def latent_generator(
    *, epochs: float = 50.0, batch: int = 16, lr: float = 1e-4, dtype: str = 'float32'
) -> Facts:
    """Stable Diffusion, the config's `prior`, fine-tuned on captions of the classes (Pan 2024).

    Numbers are those of the paper and its code: AdamW at a constant 1e-4, 50 epochs, 16 images,
    every caption told (`drop` 0).

    Args:
      epochs: passes over the images.
      batch: images of an update.
      lr: learning rate.
      dtype: what its networks compute in, 'float32' or 'bfloat16'.
      name: 'latent'.
      caption: what an image is called; {} is the name of its class.
      drop: chance that a training image's caption is not told.
      size_px: side of the images; 0 is the model's own size.
    """
    optim = OPTIMIZERS.part('adamw', lr=lr, schedule='constant', weight_decay=0.01)
    objective = {'name': 'latent', 'caption': 'A photo of a {}', 'drop': 0.0, 'size_px': 0}
    objective |= {'dtype': dtype}
    run = {'epochs': epochs, 'steps': 0, 'batch': batch, 'accumulate': 1, 'ema_decay': 0.0}
    run |= {'stored_dtype': 'float32'}
    return {'objective': objective, 'optim': optim, 'augment': {}} | run


def train_prior(work: Work) -> None:
    """Trains a pixel DDPM on the dataset `data`; leaves its average as `_train_pixels` does."""
    images = len(_train_pixels(work, conditional=False))
    if devices.is_lead():
        note_training(work.folder, work.settings, images, work.inputs.get('init'))


def run(work: Work) -> None:
    """Trains a class-conditional diffusion model on the dataset `data`, on pixels or in latents.

    Leaves its average as `_train_pixels` does, and generator.json, which says what
    `purify.generative.pixel_generator.open_generator` has to know. One in latents is trained on
    from the input `prior` (`purify.stages.finetune_latent.train_latent`).
    """
    objective = work.settings['objective']
    if objective['name'] == 'latent':
        train_latent(work)
        return
    names = _train_pixels(work, conditional=True).class_names
    if devices.is_lead():
        write_json(work.folder / NOTE, {'objective': objective, 'class_names': names})


def _train_pixels(work: Work, *, conditional: bool) -> Split:
    """Trains on the dataset `data`, which is returned, with or without its classes.

    Writes the averaged weights as an orbax checkpoint and as a pipeline folder of diffusers.
    """
    settings, split = work.settings, Split(work.inputs['data'], 'train')
    classes = len(split.class_names) if conditional else 0
    config, build = prior_builder(settings['network'], split.shape[-1], classes)
    graph, like = abstract_network(build)
    task, scheduler = make_denoiser(settings, graph, classes)
    state = fit_network(work, task, build, like, TrainingSet(split))
    weights = state.weights()
    write_network(work.folder, config, weights)
    if devices.is_lead():
        write_denoiser(work.folder, config, scheduler, graph, weights, settings['stored_dtype'])
    return split


def shape_prior(known: Known, part: Settings) -> PixelPrior:
    """Traces the training of a prior; returns the prior with shapes for weights."""
    size, data = part['network']['sample_size'], known.data
    _, build = prior_builder(part['network'], data.channels)
    graph, weights = abstract_network(build)
    task, _ = make_denoiser(part, graph)
    shape_training(known, 'prior', part, task, build)
    known.found.notes.append(f'prior: UNet2DModel, {count_numbers(weights["params"]):,} parameters')
    return PixelPrior(graph, weights, read_schedule(part['schedule']), size, data.channels)


def shape(known: Known, step: Step) -> None:
    """Traces the training of a generator, which is known from then on."""
    part, data = step.settings, known.data
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
        start, kind = None, 'UNet2DModel'
        images = part['network']['sample_size'], data.channels, data.names
        generator = make_pixel_generator(graph, weights, part['objective'], *images)
    shape_training(known, step.name, part, task, build, start)
    count = count_numbers(weights['params'])
    known.found.notes.append(f'{step.name}: {kind}, {count:,} parameters')
    known.generators[step.name] = generator


KIND = Kind(run, shape, ('seeds',))
