r"""DataElixir (Zhou 2024) and the baselines of its Table 1 find poisoned samples, and purify them.

    purify run --config dataelixir --workdir runs/dataelixir
    purify run --config dataelixir:attack=blended,rate=0.02,exact \
        --workdir runs/exact
    purify run --config dataelixir:setting=cifar10 --workdir runs/cifar10
    python launch/sweep.py --config dataelixir --sweep attack --seeds 0,1,2 \
        --workdir runs/attacks
    python launch/sweep.py --config dataelixir:setting=cifar10 --sweep table1 \
        --workdir runs/table1

Words: setting=digits|cifar10_small|cifar10|tiny|lfw, rate, seed, source,
attack=<any of `purify list`; usual is the BadNets of the setting>,
defense=dataelixir|activation_clustering|spectral|abl|dbd|none,
weights=<safetensors both classifiers start from>. Of DataElixir: exact (every step of the chain, as
published; else it takes a tenth of them, on the digits a twentieth), released (the paper's open
points as its code reads them, and its own rule for target labels), targets=significant|mad (which
labels are targets: `mad` is the paper's rule, one-sided, KL, threshold 2; the released code's is
two-sided), sampler=ddim|dpmpp_2m (of the fast chain; DPM-Solver++ is the paper's faster one),
start=<T> and kept=2|5|10|20|40 (m) for priors of 1,000 steps, prior=<diffusers folder or hub
id>|train|poisoned (the last two: trained in the run, on images kept apart or on the poisoned ones).
With any of these but targets and prior the digits take 15 calls of the prior a round, else 7.

`digits` needs no download and is for 2 CPU cores. `cifar10_small` is for them too: 10,000 images
that the prior photos32 has not seen, and the network fast; source=arrays:DIR with CIFAR-10's
train.npz and test.npz in its own order. The others are for a GPU or TPU, and have not been
measured:
`cifar10`  50,000 images, PreAct-ResNet-18, google/ddpm-cifar10-32.
`tiny`     source=imagefolder:DIR with train/<class>/ and test/<class>/; EfficientNet-B4 from
           ImageNet's weights as timm or torchvision store them
           (./weights/efficientnet_b4.safetensors), and OpenAI's Improved DDPM of 64 px:
           purify convert improved_ddpm imagenet64_uncond_100M_1500K.pt \
               ./priors/imagenet64
           Its 4,000 steps lie on a cosine: step 1,200 is as noisy as 150 of 1,000. For another
           prior such as that add --config.defense.start=1200 --config.defense.window=80.
`lfw`      tfds:lfw, the 62 people with 20 images or more, a fifth of them for testing; VGG-16 from
           VGGFace's weights (./weights/vggface.safetensors), google/ddpm-celebahq-256. Its recipe
           and tiny's are ours; no paper has them. With prior=train or poisoned the prior is of 64
           px: images are shrunk to it and enlarged again, and lose what is finer.

Two baselines are told the rate, as for the paper's Table 1, for they cannot find more than they
remove: ABL isolates that share of all images, Spectral removes 1.5 times the poisoned share of the
target class from every class, at most a half. Where a flag sets --config.attack.rate, set
--config.defense.share or .remove too.

Sweeps: attack (for the digits), table1; rates, targets, labels (Figure 8); start, rounds, kept, tau
(Figure 3); selection and labelling (Figure 10); prior (Table 4's poisoned one; Table 3: give prior=
a similar or foreign one); residual (Table 5); evaluations (what fewer steps cost; of the fast
chain, and exact once). start and kept are of a prior of 1,000 steps: setting=tiny takes them with
another prior= only. For Table 4's other columns train the prior once, with
configs/prior.py:data=poisoned, and give prior= its folder.
"""

from purify.attacker.settings import set_attack
from purify.attacks.settings import preset
from purify.config.arguments import check_words, parse_words
from purify.config.skeleton import skeleton
from purify.data.sources.open_source import small_cifar10, source
from purify.defenses import settings as defenses
from purify.defenses.dataelixir.method import DataElixir
from purify.defenses.dataelixir.target_labels import TARGETS
from purify.models.classifiers.registry import CIFAR_SCALE, IMAGENET_SCALE, NETWORKS
from purify.stages.diffusion_settings import PHOTOS32, PixelNetwork, pixel_prior, wide_prior
from purify.stages.train_classifier import classifier, fast_classifier
from purify.train.optim import OPTIMIZERS

BASELINES = ('activation_clustering', 'spectral', 'abl', 'dbd')
OF_TABLE_1 = ('usual', 'blended', 'sample_specific', 'fitted_low_frequency', 'label_consistent')
OF_TABLE_1 += ('dct', 'warp', 'input_aware', 'lira')
# VGGFace: 129.2, 104.8, 93.6 off 0 to 255.
FACES = {'mean': (0.507, 0.411, 0.367), 'std': (1 / 255, 1 / 255, 1 / 255)}
FLIP = {'flip': {'p': 0.5}}
# m: how many of the chain's last m states the fast chain visits, and keeps.
KEPT = {2: 1, 5: 3, 10: 5, 20: 8, 40: 10}
SAMPLERS = {'ddim': {'name': 'ddim', 'eta': 1.0}, 'dpmpp_2m': {'name': 'dpmpp_2m'}}
UNSAID = dict.fromkeys(('prior', 'targets', 'sampler'), 'usual')
UNSAID |= {'start': 0, 'kept': 0, 'exact': False, 'released': False}
CLASSES = {'digits': 10, 'cifar10_small': 10, 'cifar10': 10, 'tiny': 200, 'lfw': 62}
# Priors of 32 and of 64 px that are trained in the run.
WIDE_32 = {'size_px': 32, 'channels': (128, 256, 256, 256), 'attention_levels': 1, 'lr': 2e-4}
WIDE_64 = {'size_px': 64, 'channels': (128, 256, 256, 512), 'attention_levels': 2, 'lr': 1e-4}


def read_words(arg):
    own = {'setting': 'digits', 'source': 'usual', 'weights': 'usual'} | UNSAID
    words = parse_words(arg, attack='usual', rate='usual', seed=0, defense='dataelixir', **own)
    choices = {'setting': SETTINGS, 'defense': ('dataelixir', *BASELINES, 'none')}
    choices |= {'targets': ('significant', 'mad'), 'sampler': SAMPLERS, 'kept': KEPT}
    given = given_words(words)
    asked = {'setting', 'defense', *given}
    check_words(words, **{name: known for name, known in choices.items() if name in asked})
    if given and words.defense != 'dataelixir':
        raise ValueError(
            f'{given[0]} is a word of defense=dataelixir; defense={words.defense} has no use'
            ' for it.'
        )
    if words.exact and words.sampler != 'usual':
        raise ValueError(
            f'exact takes every step of the prior as DDPM does; leave out sampler={words.sampler},'
            ' or exact.'
        )
    counted = [name for name in ('start', 'kept') if words[name]]
    if counted and words.setting == 'tiny' and words.prior == 'usual':
        raise ValueError(
            f'{counted[0]} counts steps of a prior that has 1,000 on a line; the one of'
            ' setting=tiny has 4,000 on a cosine. Choose another prior=, or set'
            ' --config.defense.start, .window and .kept in its own steps.'
        )
    if words.setting == 'digits' and words.source != 'usual':
        raise ValueError(
            f'setting=digits brings its images; for source={words.source} choose another setting.'
        )
    return words


def given_words(words):
    """Those of DataElixir that are not as usual."""
    return [name for name, usual in UNSAID.items() if words[name] != usual]


def get_config(arg=None):
    words = read_words(arg)
    return SETTINGS[words.setting](words)


def digits(words):
    """The quickstart's 16 px digits and its teacher; the embedded prior, which saw other digits."""
    config = skeleton('dataelixir', words.seed, shard_size=100, save_every=100)
    config.source = source('digits', size_px=16, channels=1, resample='nearest', reference='own')
    network = NETWORKS.part('resnet', width=16, norm='group')
    augment, start = {'pad_crop': {'pad_px': 1}}, '' if words.weights == 'usual' else words.weights
    recipe = {'epochs': 30, 'batch': 64, 'augment': augment, 'init_from': start}
    config.teacher = classifier(network, OPTIMIZERS.part('adamw', lr=3e-3), **recipe)
    name = 'patch' if words.attack == 'usual' else words.attack
    set_attack(config, name, preset(name, 'digits'), rate=words.rate)
    unet = PixelNetwork(16, (24, 48, 64), layers_per_block=1, norm_num_groups=8)
    own = pixel_prior(unet, steps=2500, batch=64, lr=2e-3, stored_dtype='float16', augment=augment)
    # Seven calls a round were measured with the usual chain alone.
    kinds = ('digits', 'small') if {*given_words(words)} <= {'targets', 'prior'} else ('small',)
    changes = {} if words.defense == 'none' else defenses.preset(words.defense, *kinds)
    return defended(config, words, changes, semi_steps=1500, published='digits', own=own)


def cifar10_small(words):
    """The network fast and the prior photos32, on images that it has not seen."""
    config = skeleton('dataelixir', words.seed, shard_size=500, save_every=200)
    config.source = small_cifar10(words.source)
    start = '' if words.weights == 'usual' else words.weights
    config.teacher = fast_classifier(epochs=12, init_from=start)
    attack(config, words)
    own = pixel_prior(PHOTOS32, steps=2000, batch=32, lr=1e-3, augment=FLIP)
    changes = {} if words.defense == 'none' else defenses.preset(words.defense, 'small')
    given = {'semi_steps': 1500, 'published': 'photos32', 'own': own, 'held_out': 10_000}
    return defended(config, words, changes, **given)


def cifar10(words):
    """PreAct-ResNet-18 from scratch, google/ddpm-cifar10-32."""
    config = begin(words, 'tfds:cifar10', size_px=32, inference_batch=1024, batch_per_device=1024)
    augment = {'pad_crop': {'pad_px': 4}} | FLIP
    config.teacher = teacher_of(words, 'preact_resnet18', CIFAR_SCALE, augment=augment)
    attack(config, words)
    own = wide_prior(**WIDE_32, steps=100_000, batch=128)
    prior = {'published': 'google/ddpm-cifar10-32', 'own': own, 'held_out': 10_000}
    return defended(config, words, {}, semi_steps=194_560, **prior)


def tiny(words):
    """EfficientNet-B4 from ImageNet's weights; the Improved DDPM of 64 px.

    Its 4,000 steps lie on a cosine. What its T was is not published. Step 1,200 is as noisy as step
    150 of a linear 1,000, and 80 as noisy as 10.
    """
    run = {'inference_batch': 256, 'batch_per_device': 256}
    config = begin(words, 'imagefolder:tiny-imagenet-200', size_px=64, **run)
    name, augment = 'efficientnet_b4', {'pad_crop': {'pad_px': 8}} | FLIP
    config.teacher = teacher_of(words, name, IMAGENET_SCALE, weights=name, augment=augment)
    attack(config, words, size_px=8)
    own = wide_prior(**WIDE_64, steps=400_000, batch=128)
    changes = {'encoder': {'batch': 256}} if words.defense == 'dbd' else {}
    if words.defense == 'dataelixir' and words.prior == 'usual':
        variance = {'sampler': {'name': 'ddpm', 'variance': 'learned_range', 'clip_sample': True}}
        changes = {'start': 1200} | (variance if words.exact else {'window': 80})
    prior = {'published': './priors/imagenet64', 'own': own, 'held_out': 20_000}
    return defended(config, words, changes, semi_steps=194_560, **prior)


def lfw(words):
    """62 people at 224 px: a VGG-16 from VGGFace's weights; google/ddpm-celebahq-256."""
    # To train on, of 20: a fifth of each is the test set.
    people = {} if words.source != 'usual' else {'min_per_class': 16}
    run = {'shard_size': 100, 'inference_batch': 256, 'batch_per_device': 16}
    config = begin(words, 'tfds:lfw', reader=people, size_px=224, **run)
    how = {'lr': 1e-3, 'epochs': 50, 'batch': 32}
    config.teacher = teacher_of(words, 'vgg16', FACES, weights='vggface', augment=FLIP, **how)
    # At 224 px.
    large = {'warp': {'control_px': 0, 'strength': 1.0, 'covers': 0.0}, 'dct': {'magnitude': 50.0}}
    attack(config, words, large, size_px=28)
    own = wide_prior(**WIDE_64, steps=50_000, batch=64)
    changes = {'encoder': {'batch': 64, 'lr': 0.05}} if words.defense == 'dbd' else {}
    prior = {'published': 'google/ddpm-celebahq-256', 'own': own, 'held_out': 500}
    return defended(config, words, changes, semi_steps=20_000, **prior)


SETTINGS = {
    'digits': digits,
    'cifar10_small': cifar10_small,
    'cifar10': cifar10,
    'tiny': tiny,
    'lfw': lfw,
}


def begin(words, images, *, reader=None, size_px, shard_size=1000, **run):
    config = skeleton('dataelixir', words.seed, shard_size=shard_size, **run)
    images = images if words.source == 'usual' else words.source
    config.source = source(images, size_px=size_px, **reader or {})
    return config


def teacher_of(words, network, scale, *, augment, weights='', lr=0.01, epochs=100, batch=128):
    """SGD of momentum .9 and weight decay 5e-4 on a cosine, as the released code for CIFAR-10."""
    built, how = NETWORKS.part(network, dtype='bfloat16', **scale), OPTIMIZERS.part('sgd', lr=lr)
    usual = f'./weights/{weights}.safetensors' if weights else ''
    start = usual if words.weights == 'usual' else words.weights
    recipe = {'epochs': epochs, 'batch': batch, 'augment': augment, 'init_from': start}
    return classifier(built, how, **recipe)


def attack(config, words, usual=None, **sized):
    """The attack of the words on photographs; `sized`: how large the setting's own patches are."""
    name = 'dataelixir_patch' if words.attack == 'usual' else words.attack
    own = sized if name in ('dataelixir_patch', 'two_patches', 'three_patches') else {}
    changes = {**preset(name, 'published'), **(usual or {}).get(name, {}), **own}
    set_attack(config, name, changes, rate=words.rate)


def defended(config, words, changes, *, semi_steps, published, own, held_out=0):
    """The defence and the prior: the `published` one, or the setting's `own`.

    That is trained in the run, on `held_out` images or on the poisoned, and is a linear chain of
    1,000 steps. Images are held out where the source brings none apart.
    """
    if words.defense == 'none':
        return config
    if words.prior in ('train', 'poisoned'):
        prior = own | ({'data': 'poisoned'} if words.prior == 'poisoned' else {})
        if words.prior == 'train' and held_out:
            config.source.reference, config.source.reference_size = 'held_out', held_out
    else:
        prior = defenses.loaded(published if words.prior == 'usual' else words.prior)
    own = chain(words, changes) if words.defense == 'dataelixir' else changes | told(words, config)
    defenses.defend(config, words.defense, own, semi_steps=semi_steps, prior=prior)
    return config


def chain(words, changes):
    """DataElixir's settings by the words: of `released`, of `exact`, the setting's, single ones."""
    small = words.setting in ('digits', 'cifar10_small')
    whole: dict = {} if words.exact or small else {'dtype': 'bfloat16'}
    whole |= DataElixir.presets['released'] if words.released else {}
    if words.targets != 'usual':
        whole['targets'] = TARGETS.part(words.targets)
    whole |= DataElixir.presets['exact'] if words.exact else {}
    whole |= changes
    whole |= {'start': words.start} if words.start else {}
    whole |= {'window': words.kept, 'kept': KEPT[words.kept]} if words.kept else {}
    whole |= {'sampler': SAMPLERS[words.sampler]} if words.sampler != 'usual' else {}
    start, window = whole.get('start', DataElixir.start), whole.get('window', DataElixir.window)
    return whole | ({'steps': start, 'kept': window} if words.exact else {})


def told(words, config):
    """How much poison there is, as the paper's Table 1 tells two baselines.

    They cannot find more than they remove. ABL isolates as many images as are poisoned. Spectral
    removes 1.5 times the poisoned share of the target class from every class (Tran 2018), at most a
    half. Of the setting's classes, all as large, that share is rate / (rate + 1 / classes), and of
    clean-label poison, which lies in the class already, rate x classes. It is the rate of the
    words, not one that a flag sets.
    """
    rate, classes = config.attack.rate, CLASSES[words.setting]
    if not rate or words.defense not in ('abl', 'spectral'):
        return {}
    if words.defense == 'abl':
        return {'share': rate}
    inside = config.attack.scheme == 'clean_label'
    return {'remove': min(0.5, 1.5 * (rate * classes if inside else rate / (rate + 1 / classes)))}


# The tables: every point is one run, whose teacher is the column 'no defense'.


def each(name, values):
    """One point for each value of a word or of a setting."""
    point = lambda value: {name: value} if name.startswith('config.') else {'words': {name: value}}
    return [point(value) for value in values]


def with_usual_calls(points):
    """The points with 15 calls a round on the digits too: shares of few candidates are coarse."""
    usual = {'config.defense.steps': DataElixir.steps, 'config.defense.kept': DataElixir.kept}
    return [point | usual for point in points]


def sweep_attack():
    """Four kinds of trigger that the digits' teacher learns, and a clean dataset."""
    return each('attack', ('usual', 'blended', 'dct', 'warp', 'none'))


def sweep_table1():
    """Nine attacks against DataElixir and four baselines."""
    for name in OF_TABLE_1:
        for defense in (*BASELINES, 'dataelixir'):
            yield {'words': {'attack': name, 'defense': defense}}


def sweep_rates():
    """Shares of poison."""
    return each('rate', (0.01, 0.03, 0.05, 0.07, 0.1))


def sweep_targets():
    """One, two and three target labels with a trigger each, which share the rate."""
    return each('attack', ('dataelixir_patch', 'two_patches', 'three_patches'))


def sweep_labels():
    """The target label."""
    return each('config.attack.target', (0, 2, 4, 6, 8))


def sweep_start():
    """T, how far an image is noised."""
    return each('start', (50, 100, 150, 200, 300))


def sweep_rounds():
    """n, how often."""
    return with_usual_calls(each('config.defense.rounds', (1, 3, 5, 7, 9)))


def sweep_kept():
    """m, how much of the end of every round is looked at: all under `exact`, else about half."""
    return each('kept', tuple(KEPT))


def sweep_tau():
    """The share of a second label from which on there is a transition."""
    return with_usual_calls(each('config.defense.tau', (0.02, 0.06, 0.1, 0.2, 0.3)))


def sweep_selection():
    """The candidate at a rank of the distance, against the image of a single round."""
    yield {'config.defense.rounds': 5}
    yield {'config.defense.rounds': 1, 'config.defense.kept': 1, 'config.defense.window': 1}


def sweep_labelling():
    """Labels by a benign model, against votes of the candidates."""
    return each('config.defense.labels', ('benign', 'vote'))


def sweep_prior():
    """The published prior, one trained on clean images, and one on the poisoned dataset itself."""
    return each('prior', ('usual', 'train', 'poisoned'))


def sweep_residual():
    """The attacker purifies his triggered test images too."""
    attacks = ('usual', 'blended', 'sample_specific', 'input_aware', 'lira')
    yield from ({'words': {'attack': name}, 'config.evaluation.residual': True} for name in attacks)


def sweep_evaluations():
    """The network is asked 5 to 150 times a round, and as published."""
    for steps, count in ((5, 2), (7, 3), (15, 5), (30, 8), (75, 10), (150, 10)):
        yield {'config.defense.steps': steps, 'config.defense.kept': count}
    yield {'words': {'exact': True}}
