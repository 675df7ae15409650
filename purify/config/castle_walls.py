"""The experiments of Pan 2024: generators of poisoned digits, CIFAR-10, ImageNette and Caltech15"""

import re
from typing import Any

from ml_collections import ConfigDict

from purify.config import attack_parts, cleaners, parts
from purify.config.arguments import parse_words

DEFENSES = ('generation', 'diffusion_classifier', *cleaners.SCORED, 'none')
STABLE_DIFFUSION = 'CompVis/stable-diffusion-v1-4'
_WORDS = {
    'setting': 'digits',
    'source': 'usual',
    'defense': 'generation',
    'objective': 'usual',
    'guidance': 'usual',
    'sampler': 'usual',
    'network': 'usual',
    'poison': 'usual',
    'copies': 'none',
    'encoder': '',
    'prior': STABLE_DIFFUSION,
    'weights': 'usual',
}
_SAMPLERS: dict[str, dict[str, Any]] = {  # word -> what it says to `parts.sampling`, of a generator of 1,000 timesteps
    'ddim': {'sampler': 'ddim', 'eta': 0.0, 'steps': 50},
    'ddpm': {'sampler': 'ddpm', 'variance': 'fixed_large', 'steps': 1000},  # every timestep, of variance beta
    'dpmpp_2m': {'sampler': 'dpmpp_2m', 'steps': 50},
    'sde': {'sampler': 'sde', 'steps': 50},
}
_NOISY_DDIM: dict[str, Any] = {'sampler': 'ddim', 'eta': 1.0, 'steps': 50}
_ON_LARGE: dict[str, dict[str, Any]] = {  # appendix A.2
    'warp': {'control_px': 0, 'strength': 1.0, 'covers': 0.0},
    'label_consistent': {'base': 'target', 'rate': 0.5},
    'sinusoid': {'base': 'target', 'rate': 0.5},
}
_BOUNDED = {'images': 2000, 'dtype': 'bfloat16'}  # a thousand calls for each


def words_of(arg: str | None) -> Any:
    """The words of `configs/castle_walls.py`. Raises ValueError for those that do not go together."""
    words = parse_words(arg, attack='usual', rate='usual', seed=0, **_WORDS)
    pixels = words.setting in ('digits', 'cifar10', 'cifar10_small')
    choices = {
        'setting': SETTINGS,
        'defense': DEFENSES,
        'objective': ('usual', *(('ddpm', 'edm') if pixels else ('latent',))),
        'sampler': ('usual', *_SAMPLERS),
        'poison': ('usual', 'random', 'duplicates'),
        'copies': ('none', 'simclr', 'encoder'),
    }
    for name, offered in choices.items():
        if words[name] not in offered:
            raise ValueError(f'{name}={words[name]!r}: choose from {", ".join(sorted(offered))}.')
    own = {'guidance', 'sampler', 'copies'} if words.defense != 'generation' else set()
    own |= {'objective', 'prior'} if words.defense not in ('generation', 'diffusion_classifier') else set()
    if idle := sorted(name for name in own if words[name] != _WORDS[name]):
        raise ValueError(f'{", ".join(idle)}: defense={words.defense} has no use for that; it is for defense=generation.')
    if words.guidance != 'usual' and not re.fullmatch(r'\d+(\.\d*)?|\.\d+', words.guidance):
        raise ValueError(f'guidance={words.guidance!r} must be a number, the scale s = 1 + w.')
    if bool(words.encoder) != (words.copies == 'encoder'):
        raise ValueError('copies=encoder and encoder=<a file or folder> go together; give both, or none of them.')
    if words.setting == 'digits' and words.source != 'usual':
        raise ValueError('setting=digits brings its images; for others choose another setting.')
    if words.setting in ('digits', 'cifar10_small') and words.network != 'usual':
        raise ValueError(f'setting={words.setting} brings its network; for network={words.network} choose another setting.')
    if words.setting in ('cifar10_small', 'caltech15') and words.source == 'usual':
        raise ValueError(f'setting={words.setting} needs source=arrays:DIR or imagefolder:DIR.')
    if pixels and words.prior != STABLE_DIFFUSION:
        raise ValueError(f'prior is where Stable Diffusion lies, which setting={words.setting} has no use for.')
    return words


# settings --------------------------------------------------------------------------------------------------------------------


def _digits(words: Any) -> ConfigDict:
    """The quickstart's 16 px digits and victim, and a UNet of .75 M parameters."""
    config = parts.run_config('castle_walls', words.seed, shard_size=100, save_every=250)
    config.source = parts.source('digits', size_px=16, channels=1, resample='nearest')
    config.teacher = parts.small_classifier({'pad_crop': {'pad_px': 1}}, parts.classify(), epochs=30)
    network = _unet(16, (16, 48, 64), layers_per_block=1, norm_num_groups=8)
    generator = parts.generator_pixels(network, parts.optim('adam', lr=2e-3), objective=_objective(words), steps=2500, batch=64)
    how = _sampling(words, guidance=1.0, usual=_NOISY_DDIM)
    own = {
        'images': 1600,
        'probe': {'labels': (0,), 'images': 200},
        'scores': parts.scores(*cleaners.SCORED, **cleaners.SMALL_SCORES),
    }
    usual = attack_parts.ON_DIGITS
    return _complete(
        config,
        words,
        'patch',
        usual,
        generator,
        how,
        own,
        target=0,
        copied=_copies(words, _SMALL_ENCODER),
        draws=32,
        asked={'weighting': 'none'},
        student_epochs=15,
    )


def _cifar10(words: Any) -> ConfigDict:
    """50,000 images; the UNet of the paper's code for 1,000 epochs, or a wider one under EDM, as Table A4's."""
    config = parts.run_config('castle_walls', words.seed, inference_batch=1024, batch_per_device=512)
    config.source = parts.source('tfds:cifar10' if words.source == 'usual' else words.source, size_px=32)
    config.teacher = _victim(words, 'resnet18', {'flip': {'p': 0.5}, 'pad_crop': {'pad_px': 4}}, parts.CIFAR_SCALE, epochs=100)
    if _objective(words) == 'edm':  # 50 M images; the average's half-life is .5 M of them
        network = _unet(32, (256, 256, 256), attention_levels=2, layers_per_block=4, dropout=0.13, dtype='bfloat16')
        how, run = (
            parts.optim('adam', lr=1e-3, schedule='constant', warmup=0.2),
            {'steps': 97_656, 'batch': 512, 'ema_decay': 0.99929},
        )
    else:
        network = _unet(32, (64, 128, 128, 128), attention_levels=4, dropout=0.15, dtype='bfloat16')
        how, run = parts.optim('adamw', lr=5e-4, warmup=0.1), {'steps': 100_000, 'batch': 500, 'ema_decay': 0.9999}
    generator = parts.generator_pixels(network, how, objective=_objective(words), **run)
    sampling = _sampling(words, guidance=6.0, usual=_SAMPLERS['ddim']) | {'dtype': 'bfloat16'}
    own = {'probe': {'labels': (4,), 'images': 10_000}, 'scores': parts.scores(*cleaners.SCORED)}
    copied = _copies(words, cleaners.encoder(_network(words, 'resnet18', parts.CIFAR_SCALE), epochs=500))
    return _complete(config, words, 'badnets1', {}, generator, sampling, own, target=4, copied=copied, draws=100, asked=_BOUNDED)


def _cifar10_small(words: Any) -> ConfigDict:
    """5,000 images, a victim of width 16 and a small UNet, for a CPU."""
    config = parts.run_config('castle_walls', words.seed, shard_size=250, save_every=250)
    config.source = parts.source(words.source, size_px=32, train_size=5000, test_size=1000)
    scale, built = parts.CIFAR_SCALE, {'stages': (1, 1, 1), 'block': 'preact', 'width': 16, 'norm': 'group'}
    network = parts.network('resnet', **built, **scale)
    augment = {'pad_crop': {'pad_px': 2}, 'flip': {'p': 0.5}}
    optim = parts.optim('adamw', lr=3e-3)
    config.teacher = parts.classifier(network, optim, epochs=10, batch=64, augment=augment, objective=parts.classify())
    unet = _unet(32, (16, 32, 64, 64), layers_per_block=1, norm_num_groups=8)
    generator = parts.generator_pixels(unet, parts.optim('adam', lr=1e-3), objective=_objective(words), steps=4000, batch=64)
    how = _sampling(words, guidance=1.0, usual=_NOISY_DDIM)
    own = {'probe': {'labels': (4,), 'images': 500}, 'scores': parts.scores(*cleaners.SCORED, **cleaners.SMALL_SCORES)}
    copied = _copies(words, cleaners.encoder(network, epochs=20, lr=2e-3, projection=64))
    return _complete(
        config,
        words,
        'badnets1',
        attack_parts.ON_SMALL,
        generator,
        how,
        own,
        target=4,
        copied=copied,
        draws=8,
        asked={'images': 200},
    )


def _imagenette(words: Any) -> ConfigDict:
    """Ten classes of ImageNet at 256 px; Stable Diffusion 1.4 for 50 epochs at its own 512."""
    return _large(words, 'tfds:imagenette/full-size-v2' if words.source == 'usual' else words.source, target=6, epochs=10)


def _caltech15(words: Any) -> ConfigDict:
    """The 15 largest classes of Caltech-256, 200 images of each, from a folder; likewise."""
    return _large(words, words.source, target=2, epochs=100)


def _large(words: Any, source: str, *, target: int, epochs: float) -> ConfigDict:
    config = parts.run_config('castle_walls', words.seed, shard_size=200, inference_batch=256, batch_per_device=16, vae_slice=8)
    config.source = parts.source(source, size_px=256)
    config.teacher = _victim(words, 'resnet50', {'flip': {'p': 0.5}}, parts.IMAGENET_SCALE | {'stem': 'imagenet'}, epochs=epochs)
    if words.defense in ('generation', 'diffusion_classifier'):
        config.prior = parts.loaded_prior(words.prior)
    generator = parts.generator_latents(dtype='bfloat16')
    sampling = _sampling(words, guidance=5.0, usual=_SAMPLERS['ddim']) | {'dtype': 'bfloat16'}
    own = {'probe': {'labels': (target,), 'images': 1000}, 'scores': parts.scores(*cleaners.SCORED)}
    copied = _copies(words, cleaners.encoder(_network(words, 'resnet50', parts.IMAGENET_SCALE | {'stem': 'imagenet'}), epochs=200))
    return _complete(
        config, words, 'badnets1', _ON_LARGE, generator, sampling, own, target=target, copied=copied, draws=100, asked=_BOUNDED
    )


SETTINGS = {
    'digits': _digits,
    'cifar10': _cifar10,
    'cifar10_small': _cifar10_small,
    'imagenette': _imagenette,
    'caltech15': _caltech15,
}


# their pieces ----------------------------------------------------------------------------------------------------------------

_SMALL_ENCODER: dict[str, Any] = cleaners.SMALL['relabel']['encoder']


def _objective(words: Any) -> str:
    return 'ddpm' if words.objective == 'usual' else words.objective


def _unet(size_px: int, widths: tuple[int, ...], **changes: Any) -> dict[str, Any]:
    """The `network` of a pixel model."""
    usual = {'layers_per_block': 2, 'attention_levels': 0, 'norm_num_groups': 32, 'dropout': 0.0, 'dtype': 'float32'}
    return {'sample_size': size_px, 'block_out_channels': widths} | usual | changes


def _network(words: Any, usual: str, built: dict[str, Any]) -> ConfigDict:
    return parts.network(usual if words.network == 'usual' else words.network, dtype='bfloat16', **built)


def _victim(words: Any, usual: str, augment: dict[str, Any], built: dict[str, Any], *, epochs: float) -> ConfigDict:
    """SGD .01 on a cosine, weight decay 5e-4 (appendix A.4); how many epochs is the code's."""
    how = parts.optim('sgd', lr=0.01, weight_decay=5e-4)
    network = _network(words, usual, built)
    return parts.classifier(network, how, epochs=epochs, batch=128, augment=augment, objective=parts.classify())


def _weights(words: Any, network: str) -> str:
    """What classifiers start from: ImageNet's weights for photographs (appendix A.4), nothing for small images, or as told."""
    usual = f'./weights/{network}.safetensors' if words.setting in ('imagenette', 'caltech15') else 'none'
    chosen = usual if words.weights == 'usual' else words.weights
    return '' if chosen == 'none' else chosen


def _sampling(words: Any, *, guidance: float, usual: dict[str, Any]) -> dict[str, Any]:
    scale = guidance if words.guidance == 'usual' else float(words.guidance)
    return parts.sampling(**_SAMPLERS.get(words.sampler, usual), guidance=scale)


def _copies(words: Any, encoder: dict[str, Any]) -> dict[str, Any]:
    """What looks for copies, in the method and beside it."""
    return {'copies': words.copies} | ({'encoder': encoder} if words.copies == 'simclr' else {})


def _complete(
    config: ConfigDict,
    words: Any,
    usual: str,
    changes: dict[str, dict[str, Any]],
    generator: dict[str, Any],
    sampling: dict[str, Any],
    own: dict[str, Any],
    *,
    target: int,
    copied: dict[str, Any],
    draws: int,
    asked: dict[str, Any] | None = None,
    student_epochs: float = 0,
) -> ConfigDict:
    """The attack, the defence and the judges of a config that has its source and teacher."""
    victim: Any = config.teacher
    victim.init_from = _weights(words, victim.network.name)  # and so do judges and student, which take after it
    name = usual if words.attack == 'usual' else words.attack
    paper = words.setting != 'digits' and name not in attack_parts.CLEAN_LABEL
    aimed: dict[str, Any] = {'target': target} | ({'base': 'nontarget'} if paper else {})
    parts.set_attack(config, name, **aimed | changes.get(name, {}) | parts.given(rate=words.rate) | _duplicates(words))
    if words.defense == 'none':
        return config
    judge = victim.to_dict()
    if words.defense in cleaners.SCORED:  # with the numbers of `own['scores']`
        recipes = {name: value | {'remove': 0.15} for name, value in own['scores'].items()}  # of all images; as spectral
        cleaners.defend(config, words.defense, recipes, semi_steps=0)
    elif words.defense == 'diffusion_classifier':
        config.defense = parts.diffusion_classifier(generator, draws=draws, **asked or {})
    else:
        config.defense = parts.generation(generator, sampling, **own | copied)
        config.dissection = {'labeller': judge, 'detector': judge, 'faintest': 0.3}
        config.student = ConfigDict(judge | {'epochs': student_epochs or judge['epochs']})
        if words.copies == 'encoder':
            config.encoder = parts.loaded_encoder(words.encoder)
    return config


def _duplicates(words: Any) -> dict[str, Any]:
    """A dataset with duplicates (section 6), of which `poison` goes to random images or to the duplicates first."""
    if words.poison == 'usual':
        return {}
    images = {'digits': 20, 'cifar10': 1250, 'cifar10_small': 125, 'imagenette': 200, 'caltech15': 60}[words.setting]
    return {'replicated_images': images, 'replicas': 4, 'poison_replicas': words.poison == 'duplicates'}
