r"""Generative relabelling (Sabolić 2024): class densities give images their true labels back.

    purify run --config relabel --workdir runs/relabel
    purify run --config relabel:attack=warp,seed=1 --workdir runs/relabel_warp
    purify run --config relabel:setting=cifar10 --workdir runs/relabel_cifar10
    python launch/sweep.py --config relabel:setting=cifar10 --sweep table1 \
        --seeds 0,1,2 --workdir runs/relabel_table1

Words: setting=digits|cifar10|cifar10_small|imagenet30|vggface30,
defense=relabel|nad|abl|dbd|asd|none, attack=<any of `purify list`>, rate, seed, source,
features=simclr|teacher|clip|encoder (whose features the densities are of; clip is
openai/clip-vit-base-patch32 from the hub; encoder=<a CLIP folder, a hub id, or the folder of a
finished encoder or classifier> goes with features=encoder).

`digits` needs no download and is for 2 CPU cores. `cifar10_small` is for them too: 10,000 images
and the network fast, source=arrays:DIR with CIFAR-10's train.npz and test.npz in its own order,
whose first 30,000 training images stay out, for the prior photos32 has seen them. The others are
for a GPU or TPU, and have not been measured:
`cifar10`     50,000 images, ResNet-18 for 200 epochs, SimCLR for 500 (the paper does not say how
              many).
`imagenet30`  tfds:imagenet2012, 30 classes drawn with source.split_seed (the paper does not name
              its own), ResNet-18, 90 epochs.
`vggface30`   source=imagefolder:DIR with train/<person>/ and test/<person>/ of 30 people,
              DenseNet-121, 90 epochs.
Their patch of 224 px is a blocks pattern of the published size; the published one is a logo.

nad and asd are handed clean images, which the report says: nad 5 % of the training images, asd 10
of each class.

Sweeps: attack (for the digits), table1 and table1_large (attacks and baselines), table2 (accuracy
of the new labels), table3 (features), table4 (rates).
"""

from purify.attacker.settings import set_attack
from purify.attacks.settings import preset
from purify.config.arguments import check_words, parse_words
from purify.config.skeleton import skeleton
from purify.data.sources.open_source import small_cifar10, source
from purify.defenses import settings as defenses
from purify.defenses.steps import simclr
from purify.models.classifiers.registry import CIFAR_SCALE, IMAGENET_SCALE, NETWORKS
from purify.stages.train_classifier import classifier, fast_classifier
from purify.train.optim import OPTIMIZERS
from purify.train.views import Views

BASELINES = ('nad', 'abl', 'dbd', 'asd')
CLIP = 'openai/clip-vit-base-patch32'
FLIP = {'flip': {'p': 0.5}}
# Appendix B; their picture is not ours to pass on: a drawn one is mixed in.
ON_CIFAR = {
    'blended': {'pattern': 'cartoon', 'ratio': 0.1},
    'label_consistent': {'rate': 0.25, 'base': 'target'},
    'adaptive_patch': {'covers': 1.0},
}
# At 224 px.
ON_LARGE = {
    'patch': {'size_px': 32, 'pattern': 'blocks', 'colours': ()}
    | {'corner': 'top_left', 'margin_px': 0},
    'blended': {'pattern': 'noise', 'ratio': 0.1},
    'warp': {'control_px': 0, 'strength': 1.0, 'covers': 0.0},
}


def read_words(arg):
    own = {'setting': 'digits', 'source': 'usual', 'features': 'usual', 'encoder': ''}
    words = parse_words(arg, attack='usual', rate='usual', seed=0, defense='relabel', **own)
    features = ('simclr', 'teacher', 'clip', 'encoder', 'usual')
    check_words(words, setting=SETTINGS, defense=('relabel', *BASELINES, 'none'), features=features)
    if words.features != 'usual' and words.defense != 'relabel':
        raise ValueError(
            f'features is a word of defense=relabel; defense={words.defense} has no use for it.'
        )
    if bool(words.encoder) != (words.features == 'encoder'):
        raise ValueError(
            'features=encoder and encoder=<a folder or hub id> go together; give both, or none of'
            ' them.'
        )
    if words.setting == 'digits' and words.source != 'usual':
        raise ValueError(
            f'setting=digits brings its images; for source={words.source} choose another setting.'
        )
    return words


def get_config(arg=None):
    words = read_words(arg)
    return SETTINGS[words.setting](words)


def digits(words):
    """The quickstart's 16 px digits and its teacher."""
    config = skeleton('relabel', words.seed, shard_size=100, save_every=100)
    config.source = source('digits', size_px=16, channels=1, resample='nearest')
    network = NETWORKS.part('resnet', width=16, norm='group')
    augment, how = {'pad_crop': {'pad_px': 1}}, OPTIMIZERS.part('adamw', lr=3e-3)
    config.teacher = classifier(network, how, epochs=30, batch=64, augment=augment)
    name = 'patch' if words.attack == 'usual' else words.attack
    # Half of the target class.
    half = {'rate': 0.05} if name == 'label_consistent' else {}
    set_attack(config, name, {**preset(name, 'digits'), **half}, rate=words.rate)
    small = {name: defenses.preset(name, 'small') for name in ('relabel', *BASELINES)}
    return defended(config, words, small, semi_steps=1500)


def cifar10(words):
    """ResNet-18 for 200 epochs, and another by SimCLR."""
    config = skeleton('relabel', words.seed, inference_batch=1024, batch_per_device=1024)
    config.source = source('tfds:cifar10' if words.source == 'usual' else words.source, size_px=32)
    network = NETWORKS.part('resnet18', dtype='bfloat16', **CIFAR_SCALE)
    config.teacher = teacher_of(network, epochs=200)
    name = 'dbd_patch' if words.attack == 'usual' else words.attack
    set_attack(config, name, ON_CIFAR.get(name), rate=words.rate)
    recipes = {'relabel': {'encoder': simclr(network, epochs=500)}}
    return defended(config, words, recipes, semi_steps=semi_steps(words))


def cifar10_small(words):
    """The network fast, and a ResNet of width 16 by SimCLR, for a CPU."""
    config = skeleton('relabel', words.seed, shard_size=500, save_every=200)
    config.source = small_cifar10(words.source)
    config.teacher = fast_classifier(epochs=12)
    network = NETWORKS.part('resnet', width=16, norm='group', **CIFAR_SCALE)
    name = 'patch' if words.attack == 'usual' else words.attack
    set_attack(config, name, preset(name, 'small'), rate=words.rate)
    recipes = {name: defenses.preset(name, 'small') for name in BASELINES}
    recipes['relabel'] = {'encoder': simclr(network, epochs=20, lr=2e-3, projection=64)}
    recipes['dbd'] = {'encoder': {'epochs': 60.0, 'batch': 128, 'lr': 0.1}}
    return defended(config, words, recipes, semi_steps=500)


def imagenet30(words):
    """30 classes of ImageNet at 224 px: ResNet-18 for 90 epochs."""
    drawn = {'classes': '30'} if words.source == 'usual' else {}
    return large(words, 'resnet18', 'tfds:imagenet2012', **drawn)


def vggface30(words):
    """30 people of VGGFace2 at 224 px: DenseNet-121 for 90 epochs."""
    return large(words, 'densenet121', 'imagefolder:vggface2-30')


def large(words, network, images, **drawn):
    config = skeleton('relabel', words.seed, inference_batch=256, batch_per_device=256)
    images = images if words.source == 'usual' else words.source
    config.source = source(images, size_px=224, **drawn)
    look = {'dtype': 'bfloat16', 'stem': 'imagenet', **IMAGENET_SCALE}
    config.teacher = teacher_of(NETWORKS.part(network, **look), epochs=90)
    name = 'patch' if words.attack == 'usual' else words.attack
    set_attack(config, name, ON_LARGE.get(name), rate=words.rate)
    views = Views(crop=(0.08, 1.0), strength=0.8, blur=0.5)
    encoder = simclr(NETWORKS.part('resnet18', **look), epochs=200, views=views)
    # Images of a class are few: 300 of VGGFace2, 1,300 of ImageNet.
    few = {'flows': {'reduce': 64}, 'fit': {'members': 5}}
    recipes = {'relabel': {'encoder': encoder} | few}
    recipes |= {'dbd': {'encoder': {'epochs': 500.0, 'batch': 256}}}
    return defended(config, words, recipes, semi_steps=semi_steps(words))


SETTINGS = {'digits': digits, 'cifar10': cifar10, 'cifar10_small': cifar10_small}
SETTINGS |= {'imagenet30': imagenet30, 'vggface30': vggface30}


def semi_steps(words):
    """Of MixMatch, by DBD's authors 190 and by ASD's 120 times 1,024."""
    return 1024 * (190 if words.defense == 'dbd' else 120)


def teacher_of(network, *, epochs):
    """SGD, rate .1, divided by 10 at a half and three quarters (appendix B)."""
    how = OPTIMIZERS.part('sgd', lr=0.1, schedule='step', drops=(0.5, 0.75), factor=0.1)
    augment = {'resized_crop': {'scale': (0.2, 1.0)}} | FLIP
    return classifier(network, how, epochs=epochs, batch=128, augment=augment)


def defended(config, words, recipes, *, semi_steps):
    """The defence of the words, by its recipe; relabelling by the features that the words say."""
    if words.defense == 'none':
        return config
    own = dict(recipes.get(words.defense, {}))
    if words.defense == 'relabel' and words.features not in ('usual', 'simclr'):
        own |= {'features': 'teacher', 'encoder': None}
        if words.features != 'teacher':
            own['features'], config.encoder = 'encoder', defenses.loaded(words.encoder or CLIP)
    defenses.defend(config, words.defense, own, semi_steps=semi_steps)
    return config


# The tables: every point is one run, whose teacher is the column 'no defense'.
OF_TABLE_3 = ('usual', 'blended', 'warp')
OF_TABLE_1 = (*OF_TABLE_3, 'label_consistent', 'sample_specific', 'adaptive_patch')
OF_TABLE_1 += ('adaptive_blend',)


def each(name, values, **others):
    """One point for every value of a word, `others` beside it."""
    return [{'words': others | {name: value}} for value in values]


def against_all(attacks):
    """Each attack against the four baselines and relabelling."""
    for name in attacks:
        yield from each('defense', (*BASELINES, 'relabel'), attack=name)


def sweep_attack():
    """Three kinds of non-disruptive poison, a disruptive one, and a clean dataset."""
    return each('attack', (*OF_TABLE_3, 'label_consistent', 'none'))


def sweep_table1():
    """Seven attacks against NAD, ABL, DBD, ASD and relabelling."""
    return against_all(OF_TABLE_1)


def sweep_table1_large():
    """The three attacks that the paper shows on ImageNet and VGGFace2."""
    return against_all(OF_TABLE_3)


def sweep_table2():
    """How many of the new labels are the true ones, for six attacks that change labels."""
    return each('attack', [name for name in OF_TABLE_1 if name != 'label_consistent'])


def sweep_table3():
    """Features of the poisoned classifier, of SimCLR, of CLIP."""
    for name in OF_TABLE_3:
        yield from each('features', ('teacher', 'simclr', 'clip'), attack=name)


def sweep_table4():
    """Shares of poison from 1 to 20 %."""
    for name in OF_TABLE_3:
        yield from each('rate', (0.01, 0.05, 0.1, 0.15, 0.2), attack=name)
