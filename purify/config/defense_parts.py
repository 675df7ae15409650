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
        'targets': {'name': 'significant', 'score': 0.5, 'share': 0.03, 'deviations': 5.0, 'level': 0.05},
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
    """Spectral signatures (Tran 2018): `remove` is 1.5 times an upper bound of the poisoned share of a class, of each class.

    It bounds what is found: where poison is 10 of 19 parts of the target class (10 % of ten classes), .15 finds at most 28.5 %.
    """
    return ConfigDict({'name': 'spectral', 'remove': 0.15} | changes)


def scores(*names: str, **changes: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Detectors that score every image of a dataset, with the numbers of their papers; `changes` by name of the detector.

    Cognitive distillation (Huang 2023) on logits, STRIP (Gao 2019) under 100 images, FCT (Chen 2022) by its own early network, with
    SGD's rates, or with network='teacher' by the poisoned classifier, as Pan 2024 looks.
    """
    usual: dict[str, dict[str, Any]] = {
        'cognitive_distillation': {'on': 'logits', 'gamma': 0.01, 'beta': 1.0, 'steps': 100, 'lr': 0.1},
        'strip': {'draws': 100, 'image': 1.0, 'overlay': 1.0},
        'fct': {
            'rotation': 180.0,
            'shift': 0.2,
            'times': 1,
            'network': 'own',
            'early': {'epochs': 2.0, 'lr': 0.01},
            'spread': {'epochs': 10.0, 'lr': 0.01, 'weight': 0.0},
        },
    }
    unknown = sorted({*names, *changes} - set(usual)) or sorted(set(changes) - set(names))
    if unknown:
        raise ValueError(
            f'scores: {", ".join(unknown)} cannot be given here. Choose from {", ".join(sorted(usual))}, each by name.'
        )
    made = {name: usual[name] | changes.get(name, {}) for name in names}
    if made.get('fct', {}).get('network') == 'teacher':
        made['fct'] = {name: value for name, value in made['fct'].items() if name not in ('early', 'spread')}
    return made


def cognitive_distillation(*, remove: float = 0.05, **changes: Any) -> ConfigDict:
    """Drops the `remove` share of images of which the classifier needs least (Huang 2023); `changes` to the score."""
    return _scored('cognitive_distillation', remove, changes)


def strip(*, remove: float = 0.05, **changes: Any) -> ConfigDict:
    """Drops the `remove` share of images that keep their label under others best (Gao 2019); `changes` to the score."""
    return _scored('strip', remove, changes)


def fct(*, remove: float = 0.05, **changes: Any) -> ConfigDict:
    """Drops the `remove` share of images whose features suffer most when turned (Chen 2022); `changes` to the score."""
    return _scored('fct', remove, changes)


def _scored(name: str, remove: float, changes: dict[str, Any]) -> ConfigDict:
    return ConfigDict({'name': name, 'score': scores(name, **{name: changes})[name], 'remove': remove})


def abl(*, isolate_epochs: float, finetune_epochs: float, unlearn_epochs: float, lr: float = 0.1, **changes: Any) -> ConfigDict:
    """Anti-backdoor learning (Li 2021): isolate the samples learned first, train on the others, unlearn the isolated.

    `lr` is the rate of the first two parts; the paper's .1 is SGD's. The authors' `share` of .01 bounds what is found: of 10 %
    poison at most a tenth, which may do for unlearning, but makes no high TPR.
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
    return ConfigDict(
        {
            'name': 'dbd',
            'encoder': {'epochs': float(encoder_epochs), 'batch': batch, 'lr': lr, 'temperature': 0.5, 'projection': 128},
            'views': random_views(**(views or {})),
            'head': {'epochs': float(head_epochs), 'lr': 1e-3, 'alpha': 0.1, 'beta': 1.0},
            'credible': 0.5,
            'mixmatch': {'temperature': 0.5, 'alpha': 0.75, 'weight': 15.0, 'pad_px': 4, 'flip': 0.5},
        }
        | changes
    )


def random_views(**changes: Any) -> dict[str, Any]:
    """What contrast sees of an image: SimCLR's views as its authors make them on CIFAR-10; `blur` .5 is theirs for large images."""
    usual = {
        'crop': (0.2, 1.0),
        'flip': 0.5,
        'jitter': 0.8,
        'strength': 0.4,
        'grey': 0.2,
        'rotation': 0.0,
        'blur': 0.0,
        'noise': 0.0,
    }
    return usual | changes


def simclr(network: ConfigDict, optim: ConfigDict, *, epochs: float, batch: int = 256, **changes: Any) -> dict[str, Any]:
    """An encoder trained by contrast on the images, labels unseen (Chen 2020); `views` is of `random_views`."""
    own = {'temperature': 0.5, 'projection': 128, 'views': random_views()}
    return {'network': network, 'optim': optim, 'epochs': float(epochs), 'batch': batch} | own | changes


def relabel(encoder: dict[str, Any] | None = None, *, features: str = 'simclr', **changes: Any) -> ConfigDict:
    """Generative relabelling (Sabolić 2024): a density for the features of each class, the classes that poison bends, new labels.

    `features` are those of an `encoder` trained in the run ('simclr'), of the 'teacher', or of a finished 'encoder', which is a
    part of the config. Numbers are the paper's: beta_ND .6, beta_D .05, alpha .15, 50 epochs of Adam; `paper_valley` is its test
    for disruptive poison.
    """
    flows = {'couplings': 2, 'hidden': 0, 'transform': 'affine', 'mixing': 'swap', 'reduce': 0}
    fit = {'epochs': 50.0, 'batch': 16, 'lr': 1e-3, 'b1': 0.9, 'b2': 0.99, 'hold_out': 0.1, 'members': 1}
    own = {'features': features} | ({'encoder': encoder} if features == 'simclr' else {})
    outlying = {'name': 'outlying', 'share': 0.05, 'most': 0.75, 'quantile': 0.01, 'apart': 0.03, 'level': 0.05}
    outlying |= {'score': 'outside'}
    strangers = {'share': 0.03, 'deviations': 5.0, 'level': 0.05}
    tests = {'nondisruptive': 0.6, 'strangers': strangers, 'disruptive': outlying, 'alpha': 0.15, 'keep': 0.15, 'narrow': 0.15}
    return ConfigDict({'name': 'relabel'} | own | {'flows': flows, 'fit': fit} | tests | changes)


def paper_valley() -> dict[str, Any]:
    """Sabolić's test for disruptive poison: beta_D .05, lambda .75, 30 bins."""
    return {'name': 'valley', 'share': 0.05, 'limit': 0.75, 'bins': 30, 'score': 'ratio'}


def nad(*, finetune_epochs: float = 10, epochs: float = 20, lr: float = 0.01, **changes: Any) -> ConfigDict:
    """Neural attention distillation (Li 2021): the poisoned network, tuned on clean images, teaches itself where to look.

    Both parts train on the `trusted` images alone, at the peak rate `lr`.
    """
    part = {'epochs': float(finetune_epochs), 'lr': lr}
    return ConfigDict(
        {'name': 'nad', 'finetune': part, 'epochs': float(epochs), 'lr': lr, 'beta': (1000.0,), 'power': 2.0} | changes
    )


def asd(*, rounds: tuple[int, int, int] = (12, 6, 6), **changes: Any) -> ConfigDict:
    """Adaptive splitting (Gao 2023): trains on the images it believes, and chooses them anew in every round.

    Rounds are of its three phases (by class; over all; by how fast a copy learns), of equal lengths, which together are those of
    the student; the authors' phases have 60, 30 and 30 epochs, with a new choice every 5 (1 in the last two).
    """
    copy = {'epochs': 1.0, 'lr': 0.015, 'groups': 2}
    mixmatch = {'temperature': 0.5, 'alpha': 0.75, 'weight': 15.0, 'pad_px': 4, 'flip': 0.5}
    loss = {'alpha': 0.1, 'beta': 1.0}
    return ConfigDict(
        {'name': 'asd', 'rounds': rounds, 'add': 10, 'share': 0.5, 'loss': loss, 'copy': copy, 'mixmatch': mixmatch} | changes
    )


def trusted(*, per_class: int = 0, share: float = 0.0) -> ConfigDict:
    """Training images that the defender knows to be clean: so many of each class, or a share of all. Few defences need them."""
    return ConfigDict({'per_class': per_class, 'share': share})


def evaluation(features: str = 'student', residual: bool = False) -> ConfigDict:
    """What is measured besides ACC, ASR and detection.

    `features` of FID and IS: 'student', 'teacher', 'none' for no such numbers, or the folder of a finished classifier;
    `residual` also measures the ASR of triggered test images that were purified themselves (Zhou 2024, section 5.1).
    """
    return ConfigDict({'features': features, 'residual': residual})
