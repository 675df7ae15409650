"""The part `defense` of a config: one function per defence. What the leaves mean is documented in `purify.defenses`."""

from typing import Any

from ml_collections import ConfigDict


def vary_pixels(*, start: int, steps: int, sampler: str = 'ddim', eta: float = 1.0) -> dict[str, Any]:
    """Variations by a pixel DDPM: noised to `start` and back in `steps`."""
    return {'model': 'pixel', 'sampler': sampler, 'eta': eta, 'start': start, 'steps': steps}


def vary_latents(model: str, *, steps: int = 50, guidance: float = 7.5, size_px: int = 0, **own: Any) -> dict[str, Any]:
    """Variations by latent diffusion: `model` is 'sd_variation', 'versatile', or 'sd_img2img' with its `strength` and `caption`.

    The folder's own sampler, and the size its UNet was made for where `size_px` is 0; steps and guidance of Struppek 2023.
    """
    return {'model': model, 'sampler': 'own', 'steps': steps, 'guidance': guidance, 'size_px': size_px} | own


def variations(vary: dict[str, Any], **changes: Any) -> ConfigDict:
    """The defence of Struppek 2023: `copies` variations of every image, made as `vary` says."""
    return ConfigDict(
        {'name': 'variations', 'copies': 1, 'vary': vary, 'colour_transfer': True, 'epsilon': 1e-6, 'dtype': 'float32'} | changes
    )


def augmentations() -> ConfigDict:
    """The ablation of Struppek 2023 without a diffusion model: strong augmentations and distillation."""
    return ConfigDict({'name': 'augmentations'})


def dataelixir(*, exact: bool = False, released: bool = False, start: int = 150, window: int = 10, **changes: Any) -> ConfigDict:
    """DataElixir (Zhou 2024).

    `exact` takes every step of the chain from `start`, as published, and keeps all of the last `window`, on the levels of the
    released code; else a tenth of them. `released` reads the paper's open points as the released code does. Numbers are the
    paper's: T = 150, n = 5, m = 10, tau = .1 n m, rank .8; the second stage of the benign model trains for shares of the
    student's epochs and learning rate.
    """
    fast = {'sampler': {'name': 'ddim', 'eta': 1.0}, 'steps': 15, 'kept': 5, 'forward': 'matched', 'levels': 'rounded'}
    every = {'sampler': {'name': 'ddpm', 'variance': 'fixed_large', 'clip_sample': True}, 'steps': start, 'kept': window}
    chain = every | {'forward': 'released', 'levels': 'truncated'} if exact else fast
    readings = {
        'benign': 'given',
        'count_raw': False,
        'choice': 'all',
        'final': 'rest',
        'targets': {'name': 'significant', 'score': 1.0, 'level': 0.05},
    }
    if released:
        published = {'name': 'mad', 'threshold': 2.0, 'score': 'kl', 'two_sided': True}
        readings = {'benign': 'predicted', 'count_raw': True, 'choice': 'agreeing', 'final': 'all', 'targets': published}
    return ConfigDict(
        {'name': 'dataelixir', 'rounds': 5, 'start': start, 'window': window}
        | chain
        | {'state': 'x_t', 'tau': 0.1, 'rank': 0.8, 'labels': 'benign', 'dtype': 'float32'}
        | readings
        | {'finetune': {'epochs_share': 1.0, 'lr_share': 0.2}}
        | changes
    )


def activation_clustering(**changes: Any) -> ConfigDict:
    """Activation clustering (Chen 2019): two clusters of each class's features; a small one is poison."""
    return ConfigDict(
        {'name': 'activation_clustering', 'reduction': 'ica', 'dimensions': 10, 'size': 0.35, 'silhouette': 0.0} | changes
    )


def spectral(**changes: Any) -> ConfigDict:
    """Spectral signatures (Tran 2018): `remove` is 1.5 times an upper bound of the poisoned share of a class, of each class."""
    return ConfigDict({'name': 'spectral', 'remove': 0.15} | changes)


def abl(*, isolate_epochs: float, finetune_epochs: float, unlearn_epochs: float, lr: float = 0.1, **changes: Any) -> ConfigDict:
    """Anti-backdoor learning (Li 2021): isolate the samples learned first, train on the others, unlearn the isolated.

    `lr` is the rate of the first two parts; the paper's .1 is SGD's.
    """
    return ConfigDict(
        {
            'name': 'abl',
            'isolation': {'loss': 'local_ascent', 'gamma': 0.5, 'epochs': float(isolate_epochs), 'lr': lr},
            'share': 0.01,
            'finetune': {'epochs': float(finetune_epochs), 'lr': lr},
            'unlearn': {'epochs': float(unlearn_epochs), 'lr': 5e-4},
        }
        | changes
    )


def dbd(
    *,
    encoder_epochs: float,
    head_epochs: float = 10,
    batch: int = 512,
    lr: float = 0.4,
    views: dict[str, Any] | None = None,
    **changes: Any,
) -> ConfigDict:
    """Decoupling (Huang 2022): features without labels, a head on them, then only the half of the labels it believes.

    `batch` and `lr` are the encoder's. How long the last part trains is said by `student`.
    """
    usual = {'crop': (0.2, 1.0), 'flip': 0.5, 'jitter': 0.8, 'strength': 0.4, 'grey': 0.2}
    return ConfigDict(
        {
            'name': 'dbd',
            'encoder': {'epochs': float(encoder_epochs), 'batch': batch, 'lr': lr, 'temperature': 0.5, 'projection': 128},
            'views': usual | (views or {}),
            'head': {'epochs': float(head_epochs), 'lr': 1e-3, 'alpha': 0.1, 'beta': 1.0},
            'credible': 0.5,
            'mixmatch': {'temperature': 0.5, 'alpha': 0.75, 'weight': 15.0, 'pad_px': 4, 'flip': 0.5},
        }
        | changes
    )


def evaluation(features: str = 'student', residual: bool = False) -> ConfigDict:
    """What is measured besides ACC, ASR and detection.

    `features` of FID and IS: 'student', 'teacher', 'none' for no such numbers, or the folder of a finished classifier;
    `residual` also measures the ASR of triggered test images that were purified themselves (Zhou 2024, section 5.1).
    """
    return ConfigDict({'features': features, 'residual': residual})
