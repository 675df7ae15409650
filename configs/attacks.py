r"""Every attack against one undefended classifier: does it work, and what does it cost?

    python launch/sweep.py --config attacks --sweep attack --seeds 0,1,2 \
        --workdir runs/attacks
    python launch/sweep.py --config attacks:source=arrays:DIR --sweep attack \
        --seeds 0,1,2 --workdir runs/attacks_cifar
    purify gallery --config attacks --workdir runs/attacks
    purify run --config attacks:attack=warp,rate=0.05 --workdir runs/warp

Words: attack=<any of `purify list`>, rate (a share, or 'usual'),
target, seed, source, full. On the embedded digits (the default; 15 to 90 s a run on 2 CPU cores)
some triggers are stronger than published, by the preset 'digits' of each attack's class: a tiny
classifier learns 16 px digits in a minute and has no use for faint signals. Any other source is
brought to 32 px: 10,000 training images, a ResNet of width 16 with the stride-4 stem and 12 epochs
(a minute on 2 cores), triggers by the preset 'small'; `full` takes all images, PreAct-ResNet-18 and
BackdoorBench's recipe with every trigger as published, for a GPU; it has not been measured yet. DIR
holds train.npz and test.npz (images u8[n 32 32 3], labels [n]). Measured: docs/results/attacks.
"""

from purify.attacker.settings import set_attack
from purify.attacks.settings import attack_words, preset
from purify.config.arguments import parse_words
from purify.config.skeleton import skeleton
from purify.data.sources.open_source import source
from purify.models.classifiers.registry import CIFAR_SCALE, NETWORKS
from purify.stages.train_classifier import classifier
from purify.train.optim import OPTIMIZERS

PATCHES = ('white_patch', 'dataelixir_patch', 'two_patches', 'three_patches')
PATCHES += ('dbd_patch', 'grid_patch', 'badnets1', 'badnets2')


def get_config(arg=None):
    own = {'target': 0, 'seed': 0, 'source': 'digits', 'full': False}
    words = parse_words(arg, attack='patch', rate='usual', **own)
    config = skeleton('attacks', words.seed, shard_size=100, save_every=200)
    if words.source == 'digits':
        kind, grey = 'digits', {'channels': 1, 'resample': 'nearest'}
        config.source = source('digits', size_px=16, **grey, reference='own')
        network = NETWORKS.part('resnet', width=16, norm='group')
        recipe = {'optim': OPTIMIZERS.part('adamw', lr=3e-3), 'epochs': 30, 'batch': 64}
        recipe['augment'] = {'pad_crop': {'pad_px': 1}}
    elif words.full:
        kind = 'published'
        config.source = source(words.source, size_px=32)
        network = NETWORKS.part('preact_resnet18', dtype='bfloat16', **CIFAR_SCALE)
        recipe = {'optim': OPTIMIZERS.part('sgd', lr=0.01), 'epochs': 100, 'batch': 128}
        recipe['augment'] = {'pad_crop': {'pad_px': 4}, 'flip': {'p': 0.5}}
    else:
        kind, config.shard_size = 'small', 1000
        config.source = source(words.source, size_px=32, train_size=10_000, test_size=2000)
        network = NETWORKS.part('resnet', width=16, stem='imagenet', **CIFAR_SCALE)
        recipe = {'optim': OPTIMIZERS.part('adamw', lr=5e-3), 'epochs': 12, 'batch': 64}
        recipe['augment'] = {'flip': {'p': 0.5}}
    config.teacher = classifier(network, **recipe)
    changes = preset(words.attack, kind)
    set_attack(config, words.attack, changes, rate=words.rate, target=words.target)
    return config


def sweep_attack():
    """No attack, and every kind of attack there is."""
    yield from ({'words': {'attack': name}} for name in attack_words() if name not in PATCHES)


def sweep_patch():
    """The patches of the papers."""
    yield from ({'words': {'attack': name}} for name in PATCHES)


def sweep_scheme():
    """All to one, all to all, several triggers and targets, source-specific, clean-label."""
    yield {'config.attack.scheme': 'all_to_one'}
    yield {'config.attack.scheme': 'all_to_all'}
    yield {'words': {'attack': 'three_patches'}}
    yield {'config.attack.sources': (1, 2, 3), 'config.attack.cover_rate': 0.1}
    yield {'config.attack.scheme': 'clean_label', 'words': {'rate': 0.08}}
