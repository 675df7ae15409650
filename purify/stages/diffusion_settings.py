"""The settings of trainings of diffusion models: priors, without classes, and generators."""

from dataclasses import asdict, dataclass, field
from typing import Any

from purify.core.limits import Limited, Natural, ShareOrZero
from purify.core.types import Facts, Settings
from purify.diffusion.preconditioning import Preconditioning
from purify.train.optim import OPTIMIZERS


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


PHOTOS32 = PixelNetwork(
    32, (32, 64, 96, 128), layers_per_block=1, attention_levels=2, norm_num_groups=8
)  # of the prior of that name


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


@dataclass(frozen=True, kw_only=True)
class PixelTraining:
    """How a diffusion model on pixels is trained, whatever it is to learn.

    Attributes:
      optim: see `purify.train.optim.make_optimizer`.
      steps: updates.
      batch: images of an update.
      epochs: passes over the images, instead of steps.
      accumulate: pieces that a batch is worked through in.
      ema_decay: of the average of the parameters, which is what is kept.
      stored_dtype: of the weights on disk.
      augment: of the images, by name of the augmentation.
    """

    optim: Settings
    steps: int
    batch: int
    epochs: float = 0.0
    accumulate: int = 1
    ema_decay: float = 0.995
    stored_dtype: str = 'float32'
    augment: Settings = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Denoising(PixelTraining):
    """A diffusion model on pixels that learns to denoise.

    Attributes:
      network: see `PixelNetwork`.
      init_from: a finished model to start from, of the same network and noise: 'digits',
        'photos32', a folder in diffusers' format, or a hub id.
      revision: of that hub id.
    """

    network: PixelNetwork
    init_from: str = ''
    revision: str = ''


@dataclass(frozen=True, kw_only=True)
class DistilledPrior(PixelTraining):
    """The part `prior` of a config that distils a finished one, to need one to four calls.

    Attributes:
      distill: the finished prior: 'digits' or 'photos32', a folder in diffusers' format, or a hub
        id.
      revision: of a hub id.
      stride: timesteps between the two states in which the same clean image is to be seen
        (`purify.train.objectives.consistency.Consistency`).
      dtype: what the networks compute in.
      data: 'reference' or 'poisoned' images.
    """

    distill: str
    revision: str = ''
    stride: int = 20
    dtype: str = 'float32'
    data: str = 'reference'


@dataclass(frozen=True)
class Timesteps(Limited, place='prior.timesteps.'):
    """The `timesteps` of a prior's training: which of its schedule are drawn more often.

    A prior that varies images is asked about early timesteps only, so these count most. It stays a
    prior for all timesteps.

    Attributes:
      below: timesteps under this one ...
      share: ... have this share of all draws, at most just under 1; 0 for both: all are alike.
    """

    below: Natural = 0
    share: ShareOrZero = 0.0


@dataclass(frozen=True, kw_only=True)
class TrainedPrior(Denoising):
    """The part `prior` of a config that trains it on `data`: 'reference' or 'poisoned' images."""

    data: str = 'reference'
    schedule: NoiseSchedule = NoiseSchedule()
    timesteps: Timesteps = Timesteps()


def pixel_prior(
    network: PixelNetwork, *, lr: float, steps: int, batch: int, **changes: Any
) -> Facts:
    """A pixel DDPM trained in the same run, see `TrainedPrior`."""
    how = {'optim': OPTIMIZERS.part('adam', lr=lr), 'steps': steps, 'batch': batch}
    return asdict(TrainedPrior(network=network, **how, **changes))


def wide_prior(
    *, size_px: int, channels: tuple[int, ...], attention_levels: int, **run: Any
) -> Facts:
    """A `pixel_prior` for photographs, as Ho et al. 2020: two blocks a level, dropout, flips."""
    usual = {'dropout': 0.1, 'dtype': 'bfloat16'}
    network = PixelNetwork(size_px, channels, attention_levels=attention_levels, **usual)
    return pixel_prior(network, ema_decay=0.9999, augment={'flip': {'p': 0.5}}, **run)


def pixel_generator(
    unet: PixelNetwork,
    optim: Settings,
    *,
    objective: str = 'ddpm',
    prediction: str = 'epsilon',
    drop: float = 0.1,
    **run: Any,
) -> Facts:
    """A class-conditional diffusion model on pixels, trained on the poisoned images.

    The objective 'ddpm' has a linear schedule of 1,000 steps, of whose states it learns the
    `prediction`; 'edm' is that of
    Karras et al. 2022. `run` is of `Denoising`.

    Args:
      unet: the network.
      optim: see `purify.train.optim.make_optimizer`.
      objective: 'ddpm' or 'edm'.
      name: the same, as a config has it.
      prediction: of 'ddpm': what the network predicts, see `NoiseSchedule`.
      drop: chance that a training image's class is not told, for guidance.
      **run: see `Denoising`.
    """
    if objective == 'edm' and prediction != 'epsilon':
        raise ValueError(f'prediction={prediction!r} is of objective=ddpm; edm has its own.')
    noise = {'schedule': asdict(NoiseSchedule(prediction=prediction))}
    own = asdict(Preconditioning()) if objective == 'edm' else noise
    told = {'objective': {'name': objective, 'drop': drop} | own}
    return told | asdict(Denoising(network=unet, optim=optim, **run))


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
