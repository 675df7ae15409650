"""CIFAR-10 with the victim recipe of DataElixir and BackdoorBench, and variations at native size.

    python -m purify run --config configs/cifar10.py --workdir runs/cifar10
    python -m purify run --config configs/cifar10.py:small,source=arrays:DIR --workdir runs/cifar10_small
    python -m purify run --config configs/cifar10.py:smoke,source=arrays:DIR --workdir runs/cifar10_smoke

Words: attack=<any of `python -m purify list`>, rate, seed, source, prior=<diffusers folder or hub id>|train, small, smoke,
defense=variations|none|dataelixir|relabel|activation_clustering|spectral|abl|dbd|nad|asd (`configs/dataelixir.py` and
`configs/relabel.py` say more of the last eight).
TFDS's own code for CIFAR needs TensorFlow once: `tfds build cifar10 --file_format=array_record --data_dir=DIR` wherever
that is installed, then --config.source.data_dir=DIR. The full run needs a GPU or TPU; its prior is google/ddpm-cifar10-32
(35.7 M parameters, from the hub). It has not been measured yet. `small` is 5,000 training images, a ResNet of width 16
and a prior trained on 5,000 others, for a CPU (about 20 minutes on 2 cores); `smoke` is a few hundred images and a few
steps, to see that everything runs (two minutes). DIR holds train.npz and test.npz (images u8[n 32 32 3], labels [n]).
Measured numbers stand in the README.
"""

from purify.config import attack_parts, cleaners, parts
from purify.config.arguments import parse_words


def get_config(arg=None):
    words = parse_words(
        arg,
        attack='patch',
        rate='usual',
        seed=0,
        source='tfds:cifar10',
        prior='google/ddpm-cifar10-32',
        small=False,
        smoke=False,
        defense='variations',
    )
    if words.defense not in (known := (*cleaners.METHODS, 'none', 'variations')):
        raise ValueError(f'defense={words.defense!r}: choose from {", ".join(sorted(known))}.')
    if words.small + words.smoke + (words.prior != 'google/ddpm-cifar10-32') > 1:
        raise ValueError('small and smoke train a prior of their own; give one of small, smoke and prior=.')
    config = parts.run_config('cifar10', words.seed, shard_size=1000, inference_batch=1024, batch_per_device=1024)
    if words.smoke:
        return _on_cpu(config, words, images=256, reference=256, epochs=2, prior_steps=20, start=100, steps=5)
    if words.small:
        return _on_cpu(config, words, images=5000, reference=5000, epochs=10, prior_steps=1000, start=200, steps=8)
    apart = {'reference': 'held_out', 'reference_size': 10_000} if words.prior == 'train' else {}
    config.source = parts.source(words.source, size_px=32, **apart)
    network = parts.network('preact_resnet18', dtype='bfloat16', **parts.CIFAR_SCALE)
    recipe = {'optim': parts.optim('sgd', lr=0.01), 'epochs': 100, 'batch': 128}
    augment = {'pad_crop': {'pad_px': 4}, 'flip': {'p': 0.5}}
    config.teacher = parts.classifier(network, **recipe, augment=augment, objective=parts.classify())
    _attack(config, words)
    config.student = parts.classifier(network, **recipe, augment=augment, objective=parts.distill())
    wide = {'channels': (128, 256, 256, 256), 'attention_levels': 1, 'steps': 100_000, 'batch': 128, 'lr': 2e-4, 'size_px': 32}
    prior = parts.wide_prior(**wide) if words.prior == 'train' else parts.loaded_prior(words.prior)
    backbone = parts.network('resnet18', dtype='bfloat16', **parts.CIFAR_SCALE)
    recipes = {'relabel': {'encoder': cleaners.encoder(backbone, epochs=500)}, 'dbd': {'encoder_epochs': 1000}}
    recipes['dataelixir'] = {'dtype': 'bfloat16'}
    return _defended(config, words, parts.vary_pixels(start=300, steps=50), prior, recipes, semi_steps=194_560)


def _attack(config, words):
    white = {'pattern': 'solid', 'colours': ('white',)} if words.attack == 'patch' else {}
    parts.set_attack(config, words.attack, **attack_parts.ON_FULL.get(words.attack, white) | parts.given(rate=words.rate))


def _on_cpu(config, words, *, images, reference, epochs, prior_steps, start, steps):
    sizes = {'train_size': images, 'test_size': min(images, 1000), 'reference': 'held_out', 'reference_size': reference}
    config.source = parts.source(words.source, size_px=32, **sizes)
    network = parts.network('resnet', stages=(1, 1, 1), block='preact', width=16, norm='group', **parts.CIFAR_SCALE)
    recipe = {'optim': parts.optim('adamw', lr=3e-3), 'epochs': epochs, 'batch': 64}
    augment = {'pad_crop': {'pad_px': 2}, 'flip': {'p': 0.5}}
    config.teacher = parts.classifier(network, **recipe, augment=augment, objective=parts.classify())
    _attack(config, words)
    config.student = parts.classifier(network, **recipe, augment=augment, objective=parts.distill())
    flips = {'flip': {'p': 0.5}}
    prior = parts.trained_prior(channels=(32, 48, 64), steps=prior_steps, batch=32, lr=1e-3, size_px=32, augment=flips)
    config.run = parts.run(inference_batch=128, save_every=200)
    config.shard_size = 250
    encoder = cleaners.encoder(network, epochs=2 * epochs, lr=2e-3, batch=128, projection=64)
    recipes = {'relabel': {'encoder': encoder}, 'dbd': {'encoder_epochs': 6 * epochs, 'batch': 128, 'lr': 0.1}}
    recipes |= {'nad': {'finetune_epochs': epochs, 'epochs': epochs, 'lr': 5e-3}, 'asd': {'rounds': (2, 1, 1)}}
    return _defended(config, words, parts.vary_pixels(start=start, steps=steps), prior, recipes, semi_steps=50 * epochs)


def _defended(config, words, vary, prior, recipes, *, semi_steps):
    """The defence; the prior goes with those that have a use for it, and `config.student` is theirs already if it distils."""
    if words.defense == 'none':
        del config.student
        return config
    if words.defense == 'variations':
        dtype = recipes.get('dataelixir', {})  # the priors of both compute alike
        config.defense, config.prior = parts.variations(vary, **dtype), prior
        config.evaluation = parts.evaluation()
        return config
    cleaners.defend(config, words.defense, recipes, semi_steps=semi_steps)
    if words.defense == 'dataelixir':
        config.prior = prior
    return config


def sweep_attack():
    """Both attacks and none."""
    yield from ({'words': {'attack': 'patch'}}, {'words': {'attack': 'blended'}}, {'words': {'attack': 'patch', 'rate': 0.0}})


def sweep_rate():
    """Shares of poison, as in DataElixir's and Sabolić's tables."""
    yield from ({'words': {'rate': rate}} for rate in (0.01, 0.03, 0.05, 0.07, 0.1))
