"""The parts of a config that train generators and sample from them; the leaves are documented in `purify.defenses.castle_walls.generation`."""

from typing import Any

from ml_collections import ConfigDict

from purify.config.training_parts import optim


def generator_pixels(
    network: dict[str, Any],
    optim: ConfigDict,
    *,
    objective: str = 'ddpm',
    steps: int,
    batch: int,
    drop: float = 0.1,
    **changes: Any,
) -> dict[str, Any]:
    """A class-conditional diffusion model on pixels, trained from scratch on the poisoned images; `network` is that of a prior.

    `objective` is 'ddpm' (the noise, on a linear schedule of 1,000 steps) or 'edm' (Karras et al. 2022). A class is not told with
    chance `drop`, for guidance.
    """
    own: dict[str, Any] = {
        'ddpm': {'schedule': {'name': 'linear', 'steps': 1000, 'prediction': 'epsilon'}},
        'edm': {
            'p_mean': -1.2,
            'p_std': 1.2,
            'sigma_data': 0.5,
            'sigma_min': 0.002,
            'sigma_max': 80.0,
            'rho': 7.0,
            'levels': 1000,
        },
    }
    if objective not in own:
        raise ValueError(f'objective={objective!r}: choose from {", ".join(sorted(own))}.')
    goal = {'name': objective, 'drop': drop} | own[objective]
    run = {'optim': optim, 'epochs': 0.0, 'steps': steps, 'batch': batch, 'accumulate': 1, 'ema_decay': 0.995}
    return {'objective': goal, 'network': network} | run | {'stored_dtype': 'float32', 'augment': {}, 'init_from': ''} | changes


def generator_latents(
    *,
    epochs: float = 50,
    batch: int = 16,
    lr: float = 1e-4,
    drop: float = 0.0,
    size_px: int = 0,
    dtype: str = 'float32',
    **changes: Any,
) -> dict[str, Any]:
    """Stable Diffusion, the config's `prior`, whose UNet is trained on under the captions 'A photo of a <class>' (Pan 2024).

    Numbers are those of the paper and its code: AdamW at a constant 1e-4, 50 epochs, 16 images, every caption told (`drop` 0).
    `size_px` 0 is the model's own size; `dtype` what its networks compute in, 'float32' or 'bfloat16'.
    """
    goal = {'name': 'latent', 'caption': 'A photo of a {}', 'drop': drop, 'size_px': size_px, 'dtype': dtype}
    steady = optim('adamw', lr=lr, schedule='constant', weight_decay=0.01)
    run = {'optim': steady, 'epochs': float(epochs), 'steps': 0, 'batch': batch, 'accumulate': 1, 'ema_decay': 0.0}
    return {'objective': goal} | run | {'stored_dtype': 'float32', 'augment': {}} | changes


def sampling(*, sampler: str = 'ddim', steps: int = 50, guidance: float = 1.0, **own: Any) -> dict[str, Any]:
    """How a generator is sampled: 'ddpm', 'ddim' (own: eta), 'sde' or another sampler; `guidance` is the scale s = 1 + w."""
    return {'sampler': {'name': sampler} | own, 'steps': steps, 'guidance': float(guidance), 'dtype': 'float32'}


def generation(generator: dict[str, Any], sampling: dict[str, Any], **changes: Any) -> ConfigDict:
    """A classifier from generations (Pan 2024): a diffusion model learns the poisoned images, a student what it generates.

    As many images as there are training images. `probe` adds images of given classes to be dissected, `scores` are detectors
    looked at on both sets, `copies` says by whose features copies of training images are looked for.
    """
    probe = {'labels': (), 'images': 0}
    own = {'generator': generator, 'sampling': sampling, 'images': 0, 'probe': probe, 'scores': {}, 'copies': 'none', 'encoder': {}}
    return ConfigDict({'name': 'generation'} | own | changes)


def diffusion_classifier(generator: dict[str, Any], *, draws: int = 100, **changes: Any) -> ConfigDict:
    """The generator itself as a classifier (Pan 2024, appendix I): the class under which it denoises an image best.

    Levels of noise are EDM's; of the errors the largest shares `p_filters` are left out, `p_filter` is the one reported first.
    `images` are how many test images are classified, 0 for all; `rounds` drop hopeless classes early.
    """
    how = {'draws': draws, 'p_mean': -1.2, 'p_std': 1.2, 'weighting': 'edm', 'clip': False, 'rounds': ()}
    filters = {'p_filter': 0.05, 'p_filters': (0.0, 0.01, 0.05, 0.1)}
    own = {'generator': generator} | how | filters | {'images': 0, 'dtype': 'float32'}
    return ConfigDict({'name': 'diffusion_classifier'} | own | changes)
