r"""CIFAR-10 with the recipe of DataElixir and BackdoorBench, and variations at native size.

    purify run --config cifar10 --workdir runs/cifar10
    purify run --config cifar10:small,source=arrays:DIR \
        --workdir runs/cifar10_small
    purify run --config cifar10:smoke,source=arrays:DIR \
        --workdir runs/cifar10_smoke

Words: attack=<any of `purify list`>, rate, seed, source,
prior=<diffusers folder or hub id>|train, small, smoke,
defense=variations|none|dataelixir|relabel|activation_clustering|spectral|abl|dbd|nad|asd|
cognitive_distillation|fct|strip (`configs/dataelixir.py`, `configs/relabel.py` and
`configs/castle_walls.py` say more of all but the first two). TFDS's own code for CIFAR needs
TensorFlow once: `tfds build cifar10 --file_format=array_record --data_dir=DIR` wherever that
is installed, then --config.source.data_dir=DIR. The full run needs a GPU or TPU; its prior is
google/ddpm-cifar10-32 (35.7 M parameters, from the hub). It has not been measured yet. `small` is
10,000 training images, the network `fast` and the prior `photos32`, for a CPU: DIR holds train.npz
and test.npz (images u8[n 32 32 3], labels [n]) of the whole of CIFAR-10 in its own order, and the
first 30,000 training images, which that prior was trained on, are left out. `smoke` is a few
hundred images and a few steps, to see that everything runs. Neither has been measured in this form;
what is known of its prior and its network: docs/results/photos.
"""

from dataclasses import asdict

from purify.attacker.settings import set_attack
from purify.attacks.settings import preset
from purify.config.arguments import check_words, parse_words
from purify.config.skeleton import skeleton
from purify.data.sources.open_source import small_cifar10, source
from purify.defenses.purifiers.variations import Variations
from purify.defenses.registry import DEFENSES
from purify.defenses.settings import Evaluation, defend, loaded, plain_defenses
from purify.defenses.steps import simclr
from purify.generative.open_prior import variation
from purify.models.classifiers.registry import CIFAR_SCALE, NETWORKS
from purify.stages.diffusion_settings import PixelNetwork, pixel_prior, wide_prior
from purify.stages.train_classifier import classifier, fast_classifier
from purify.train.objectives.registry import OBJECTIVES
from purify.train.optim import OPTIMIZERS

PUBLISHED = 'google/ddpm-cifar10-32'


def get_config(arg=None):
    own = {'prior': PUBLISHED, 'small': False, 'smoke': False, 'defense': 'variations'}
    words = parse_words(arg, attack='patch', rate='usual', seed=0, source='tfds:cifar10', **own)
    check_words(words, defense={*plain_defenses(), 'variations'} - {'augmentations'})
    if words.small + words.smoke + (words.prior != PUBLISHED) > 1:
        raise ValueError(
            'small and smoke have a prior of their own; give one of small, smoke and prior=.'
        )
    if words.smoke:
        return smoke(words)
    return small(words) if words.small else full(words)


def full(words):
    """The 50,000 images, for a GPU or TPU."""
    config = skeleton('cifar10', words.seed, inference_batch=1024, batch_per_device=1024)
    apart = {'reference': 'held_out', 'reference_size': 10_000} if words.prior == 'train' else {}
    config.source = source(words.source, size_px=32, **apart)
    network = NETWORKS.part('preact_resnet18', dtype='bfloat16', **CIFAR_SCALE)
    augment, how = {'pad_crop': {'pad_px': 4}, 'flip': {'p': 0.5}}, OPTIMIZERS.part('sgd', lr=0.01)
    config.teacher = classifier(network, how, epochs=100, batch=128, augment=augment)
    if words.prior == 'train':
        wide = {'size_px': 32, 'channels': (128, 256, 256, 256), 'attention_levels': 1}
        prior = wide_prior(**wide, steps=100_000, batch=128, lr=2e-4)
    else:
        prior = loaded(words.prior)
    vary = variation('pixel', start=300, steps=50)
    backbone = NETWORKS.part('resnet18', dtype='bfloat16', **CIFAR_SCALE)
    recipes = {'variations': {'dtype': 'bfloat16'}, 'dataelixir': {'dtype': 'bfloat16'}}
    recipes |= {'relabel': {'encoder': simclr(backbone, epochs=500)}}
    return attacked_and_defended(config, words, vary, prior, recipes, semi_steps=194_560)


def small(words):
    """10,000 of the images that photos32 has not seen, that prior, and the network fast."""
    config = skeleton('cifar10', words.seed, shard_size=500, save_every=200)
    config.source = small_cifar10(words.source)
    config.teacher = fast_classifier(epochs=12)
    vary = Variations.presets['small']['vary']
    recipes = on_two_cores(epochs=12)
    prior = loaded('photos32')
    return attacked_and_defended(config, words, vary, prior, recipes, semi_steps=600)


def smoke(words):
    """A few hundred images and a few steps of everything, the prior's training among them."""
    config = skeleton('cifar10', words.seed, shard_size=250, save_every=200)
    sizes = {'train_size': 256, 'test_size': 256, 'reference': 'held_out', 'reference_size': 256}
    config.source = source(words.source, size_px=32, **sizes)
    config.teacher = fast_classifier(epochs=2, batch=64, least_steps=0)
    unet = PixelNetwork(32, (32, 48, 64), layers_per_block=1, norm_num_groups=8)
    prior = pixel_prior(unet, lr=1e-3, steps=20, batch=32, augment={'flip': {'p': 0.5}})
    vary = variation('pixel', start=100, steps=5)
    recipes = on_two_cores(epochs=2)
    return attacked_and_defended(config, words, vary, prior, recipes, semi_steps=100)


def on_two_cores(*, epochs):
    """What defences train beside the teacher and the student."""
    network = NETWORKS.part('resnet', width=16, norm='group', **CIFAR_SCALE)
    encoder = simclr(network, epochs=2 * epochs, lr=2e-3, batch=128, projection=64)
    tuned = {'epochs': float(epochs)}
    return {
        'relabel': {'encoder': encoder},
        'dbd': {'encoder': {'epochs': 6.0 * epochs, 'batch': 128, 'lr': 0.1}},
        'nad': {'finetune': tuned} | tuned,
        'asd': {'rounds': (2, 1, 1)},
    }


def attacked_and_defended(config, words, vary, prior, recipes, *, semi_steps):
    """A config that has its source and teacher, with the attack and the defence of the words."""
    white = {'pattern': 'solid', 'colours': ('white',)} if words.attack == 'patch' else {}
    set_attack(config, words.attack, preset(words.attack, 'published') or white, rate=words.rate)
    own = recipes.get(words.defense, {})
    if words.defense == 'variations':
        config.defense = DEFENSES.part('variations', vary=vary, **own)
        config.student = config.teacher.to_dict() | {'objective': OBJECTIVES.part('distill')}
        config.prior, config.evaluation = prior, asdict(Evaluation())
    elif words.defense != 'none':
        defend(config, words.defense, own, semi_steps=semi_steps, prior=prior)
    return config


def sweep_attack():
    """Both attacks and none."""
    yield {'words': {'attack': 'patch'}}
    yield {'words': {'attack': 'blended'}}
    yield {'words': {'attack': 'patch', 'rate': 0.0}}


def sweep_rate():
    """Shares of poison, as in DataElixir's and Sabolić's tables."""
    yield from ({'words': {'rate': rate}} for rate in (0.01, 0.03, 0.05, 0.07, 0.1))
