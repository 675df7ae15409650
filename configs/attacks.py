"""Every attack against one undefended classifier: does it work, and what does it cost?

    python launch/sweep.py --config configs/attacks.py --sweep attack --seeds 0,1,2 --workdir runs/attacks
    python launch/sweep.py --config configs/attacks.py:source=arrays:DIR --sweep attack --seeds 0,1,2 --workdir runs/attacks_cifar
    python -m purify gallery --config configs/attacks.py --workdir runs/attacks
    python -m purify run --config configs/attacks.py:attack=warp,rate=0.05 --workdir runs/warp

Words: attack=<any of `python -m purify list`, or fitted_low_frequency>, rate (a share, or 'usual'), target, seed, source,
full. On the embedded digits (the default; 15 to 90 s a run on 2 CPU cores) some triggers are stronger than published,
as `attack_parts.ON_DIGITS` lists: a tiny classifier learns 16 px digits in a minute and has no use for faint signals.
Any other source is brought to 32 px: 10,000 training images, a ResNet of width 16 with the stride-4 stem and 12 epochs
(a minute on 2 cores), triggers as `ON_SMALL` says; `full` takes all images, PreAct-ResNet-18 and the victim recipe of
BackdoorBench with every trigger as published, for a GPU; it has not been measured yet. DIR holds train.npz and test.npz
(images u8[n 32 32 3], labels [n]). Measured numbers stand in the README.
"""

from purify.config import attack_parts, parts
from purify.config.arguments import parse_words


def get_config(arg=None):
    words = parse_words(arg, attack='patch', rate='usual', target=0, seed=0, source='digits', full=False)
    config = parts.run_config('attacks', words.seed, shard_size=100, save_every=200)
    if words.source == 'digits':
        config.source = parts.source('digits', size_px=16, channels=1, resample='nearest', reference='own')
        network = parts.network('resnet', stages=(1, 1, 1), block='preact', width=16, norm='group')
        recipe = {'optim': parts.optim('adamw', lr=3e-3), 'epochs': 30, 'batch': 64, 'augment': {'pad_crop': {'pad_px': 1}}}
        changes = attack_parts.ON_DIGITS
    elif words.full:
        config.source = parts.source(words.source, size_px=32)
        network = parts.network('preact_resnet18', dtype='bfloat16', **parts.CIFAR_SCALE)
        recipe = {'optim': parts.optim('sgd', lr=0.01), 'epochs': 100, 'batch': 128}
        recipe['augment'] = {'pad_crop': {'pad_px': 4}, 'flip': {'p': 0.5}}
        changes = attack_parts.ON_FULL
    else:
        config.source = parts.source(words.source, size_px=32, train_size=10_000, test_size=2000)
        network = parts.network('resnet', block='preact', width=16, stem='imagenet', **parts.CIFAR_SCALE)
        recipe = {'optim': parts.optim('adamw', lr=5e-3), 'epochs': 12, 'batch': 64, 'augment': {'flip': {'p': 0.5}}}
        config.shard_size, changes = 1000, attack_parts.ON_SMALL
    config.teacher = parts.classifier(network, **recipe, objective=parts.classify())
    usual = changes.get(words.attack, {})
    parts.set_attack(config, words.attack, target=words.target, **usual | parts.given(rate=words.rate))
    return config


def sweep_attack():
    """No attack, and every kind of attack there is."""
    yield from ({'words': {'attack': name}} for name in attack_parts.OWN if name not in attack_parts.NAMED_PATCHES)


def sweep_patch():
    """The patches of the papers."""
    yield from ({'words': {'attack': name}} for name in attack_parts.NAMED_PATCHES)


def sweep_scheme():
    """All to one, all to all, several triggers and targets, source-specific, clean-label."""
    yield {'config.attack.scheme': 'all_to_one'}
    yield {'config.attack.scheme': 'all_to_all'}
    yield {'words': {'attack': 'three_patches'}}
    yield {'config.attack.sources': (1, 2, 3), 'config.attack.cover_rate': 0.1}
    yield {'config.attack.scheme': 'clean_label', 'words': {'rate': 0.08}}
