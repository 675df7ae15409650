"""The pieces configs are made of. Each function returns one part as a ConfigDict; its arguments are the defaults to change.

What the leaves mean is documented where they are read: `purify.data.sources.open_source.open_source`, `purify.attacks`,
`purify.train.optim`, `purify.data.augment`, `purify.models`, `purify.defenses`.
"""

from typing import Any

from ml_collections import ConfigDict

from purify.config.attack_parts import attack, given, set_attack
from purify.config.defense_parts import (
    abl,
    activation_clustering,
    asd,
    augmentations,
    cognitive_distillation,
    dataelixir,
    dbd,
    evaluation,
    fct,
    nad,
    paper_valley,
    random_views,
    relabel,
    scores,
    simclr,
    spectral,
    strip,
    trusted,
    variations,
    vary_latents,
    vary_pixels,
)
from purify.config.generation_parts import diffusion_classifier, generation, generator_latents, generator_pixels, sampling
from purify.config.training_parts import (
    CIFAR_SCALE,
    IMAGENET_SCALE,
    adversarial,
    classifier,
    classify,
    distill,
    network,
    optim,
    small_classifier,
)

__all__ = [
    'CIFAR_SCALE', 'IMAGENET_SCALE',
    'abl', 'activation_clustering', 'adversarial', 'asd', 'attack', 'augmentations', 'classifier', 'classify',
    'cognitive_distillation', 'dataelixir', 'dbd', 'diffusion_classifier', 'distill', 'evaluation', 'fct', 'generation',
    'generator_latents', 'generator_pixels', 'given', 'nad', 'network', 'optim', 'paper_valley', 'random_views', 'relabel',
    'sampling', 'scores', 'set_attack', 'simclr', 'small_classifier', 'spectral', 'strip', 'trusted', 'variations',
    'vary_latents', 'vary_pixels',
]  # fmt: skip

STRONG_AUGMENTATIONS = {  # Struppek 2023, ablation 'augmentations'
    'flip': {'p': 0.5},
    'colour_jitter': {'brightness': 0.4, 'contrast': 0.4, 'saturation': 0.4, 'hue': 0.1},
    'rotation': {'degrees': 20.0},
    'affine': {'translate': 0.1, 'scale': (0.9, 1.1)},
}


def seeds(seed: int) -> ConfigDict:
    """Who is poisoned, how networks start and are drawn, in which order data comes: three seeds, equal unless changed."""
    return ConfigDict({'poison': seed, 'model': seed, 'data': seed})


def source(name: str, *, size_px: int, channels: int = 3, **changes: Any) -> ConfigDict:
    """A clean dataset. `name` is 'digits', 'tfds:<dataset>', or 'arrays:<path>' and 'imagefolder:<path>'."""
    kind, _, rest = name.partition(':')
    where = {'path': rest} if kind in ('arrays', 'imagefolder') else {}
    own = {'tfds': {'data_dir': ''}, 'imagefolder': {'train': '', 'test': '', 'test_share': 0.2}}
    return ConfigDict(
        {
            'name': kind if where else name,
            **where,
            'size_px': size_px,
            'channels': channels,
            'resample': 'bicubic',
            'classes': '',
            'train_size': 0,
            'test_size': 0,
            'reference': 'none',
            'reference_size': 0,
            'split_seed': 0,
            **own.get(kind, {}),
        }
        | changes
    )


def loaded_prior(load: str, revision: str = '') -> ConfigDict:
    """A finished prior: 'digits' (embedded), a folder in diffusers format, a finished stage, or a hub id."""
    return ConfigDict({'load': load, 'revision': revision})


def loaded_encoder(load: str, revision: str = '') -> ConfigDict:
    """A finished encoder: CLIP (a folder, 'openai/clip-vit-base-patch32'), SSCD's file, an encoder's or a classifier's folder."""
    return ConfigDict({'load': load, 'revision': revision})


def trained_prior(
    *,
    channels: tuple[int, ...],
    steps: int,
    batch: int,
    lr: float,
    size_px: int,
    network: dict[str, Any] | None = None,
    **changes: Any,
) -> ConfigDict:
    """A pixel DDPM trained in the same run, on 'reference' or 'poisoned' images; `channels` of the UNet's levels."""
    return ConfigDict(
        {
            'data': 'reference',
            'network': {
                'sample_size': size_px,
                'block_out_channels': channels,
                'layers_per_block': 1,
                'attention_levels': 0,
                'norm_num_groups': 8,
                'dropout': 0.0,
                'dtype': 'float32',
            }
            | (network or {}),
            'schedule': {'name': 'linear', 'steps': 1000, 'prediction': 'epsilon'},
            'optim': optim('adam', lr=lr),
            'epochs': 0.0,
            'steps': steps,
            'batch': batch,
            'accumulate': 1,
            'ema_decay': 0.995,
            'stored_dtype': 'float32',
            'augment': {'pad_crop': {'pad_px': 1}},
            'init_from': '',
        }
        | changes
    )


def wide_prior(*, channels: tuple[int, ...], steps: int, batch: int, lr: float, size_px: int, attention_levels: int) -> ConfigDict:
    """A `trained_prior` with the settings of Ho et al. 2020 for photographs: two blocks a level, dropout, EMA .9999, flips."""
    network = {
        'attention_levels': attention_levels,
        'layers_per_block': 2,
        'norm_num_groups': 32,
        'dropout': 0.1,
        'dtype': 'bfloat16',
    }
    changes = {'network': network, 'ema_decay': 0.9999, 'augment': {'flip': {'p': 0.5}}}
    return trained_prior(channels=channels, steps=steps, batch=batch, lr=lr, size_px=size_px, **changes)


def run(
    *, inference_batch: int = 128, batch_per_device: int = 128, vae_slice: int = 0, save_every: int = 500, log_every: int = 20
) -> ConfigDict:
    """How, not what: nothing here changes a result.

    A classifier looks at `inference_batch` images at a time on a host, a prior varies `batch_per_device` on a device; of
    those the VAE of a latent prior takes `vae_slice` at once (0: all), which bounds memory.
    """
    return ConfigDict(
        {
            'inference_batch': inference_batch,
            'batch_per_device': batch_per_device,
            'vae_slice': vae_slice,
            'save_every': save_every,
            'log_every': log_every,
            'threads': 4,
            'workers': 0,
            'writers': (),
            'report_images': 16,
        }
    )


def run_config(name: str, seed: int, *, shard_size: int = 1000, **run_changes: int) -> ConfigDict:
    """A config with nothing in it yet but its name, its seeds, how to run, and how many images a dataset file holds.

    `clean_source` says that the source is known to be clean: then what a defence flags where nothing was poisoned counts as false
    alarms. Without it nobody knows (of the embedded digits this program does).
    """
    own = {'name': name, 'seeds': seeds(seed), 'shard_size': shard_size, 'clean_source': False}
    return ConfigDict(own | {'run': run(**run_changes)})
