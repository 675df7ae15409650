r"""Poisoned diffusion models (Pan 2024): what they generate shows the poison, and trains a student.

    purify run --config castle_walls:rate=0.02 --workdir runs/castle_walls
    purify run --config castle_walls:rate=0.02,defense=diffusion_classifier \
        --workdir runs/diffusion
    purify run --config castle_walls:setting=cifar10 \
        --workdir runs/castle_walls_cifar10
    python launch/sweep.py --config castle_walls --sweep rates --seeds 0,1,2 \
        --workdir runs/castle_walls_rates

Words: setting=digits|cifar10|cifar10_small|imagenette|caltech15,
attack=<any of `purify list`; usual is a patch on the digits, badnets1 elsewhere>,
rate, seed, source,
defense=generation|diffusion_classifier|cognitive_distillation|fct|strip|none, objective=ddpm|edm
(of the settings in pixels), init_from=<a prior of the generator's own network to start from, such
as photos32, or of the hub at config.defense.generator.revision; none: from scratch; usual: photos32
for cifar10_small's ddpm, else none>, network=<of the teacher and the student, such as vgg16>. Of
generation:
guidance=<the scale s of e_u + s (e_c - e_u); the paper's weight w of DDPM is s - 1, that of Stable
Diffusion is s>, sampler=ddim|ddpm|dpmpp_2m|sde, copies=none|simclr|encoder (whose features tell
copies of training images; encoder=<an SSCD file, a CLIP folder, the folder of a finished encoder>),
poison=usual|random|duplicates (a dataset with duplicated images, and whether these are poisoned).
prior=<folder or hub id of Stable Diffusion>. weights=<a safetensors file or a finished classifier
that all classifiers, judges too, start from; none: from scratch; usual:
./weights/<network>.safetensors, ImageNet's, for imagenette and caltech15, none elsewhere>.

Runs that share a --store (a sweep does) train a generator once for all words that do not change it,
such as defense=generation and diffusion_classifier, guidance and sampler.

The three detectors drop 15 % of all images. What is usual: guidance 1 and DDIM with eta 1 for
digits and cifar10_small (sampler=ddim is eta 0), 6 for cifar10 (w = 5), 5 for Stable Diffusion,
both DDIM with eta 0; 50 steps, but for sampler=ddpm, which takes all 1,000 with the variance beta.
The diffusion classifier asks each of 32 (digits), 8 (cifar10_small, 200 test images) or 100 draws
(2,000 test images) under every class, with EDM's weights but for the digits, whose draws all count
alike.

`digits` needs no download: 2,500 steps of a UNet of .75 M parameters, ten minutes in all on 2 CPU
cores; what to expect: docs/results/castle-walls-digits. `cifar10_small` is for a CPU too: 10,000
images that photos32 has not seen, and the network fast; source=arrays:DIR with CIFAR-10's train.npz
and test.npz in its own order. The others are for a GPU or TPU, and have not been measured:
`cifar10`     50,000 images; the UNet of the paper's code, 100,000 steps of 500 (1,000 epochs), or
              EDM's recipe with objective=edm.
`imagenette`  tfds:imagenette/full-size-v2 at 256 px, CompVis/stable-diffusion-v1-4, whose UNet is
              trained for 50 epochs at 512 px.
`caltech15`   source=imagefolder:DIR with train/<class>/ and test/<class>/ of the 15 largest classes
              of Caltech-256; likewise.

Sweeps: rates (Figures 3 and 4), guidance (Figure A3), samplers (Figure A5), relabel_only (Figure
A2), clean_label (Figure A4), fid (Table 2: without poison and with), table3 (detectors), table4 and
table_a3 (students), table_a4 (the diffusion classifier), table_a5 (duplicates).
"""

import re
from dataclasses import asdict

from purify.attacker.settings import set_attack
from purify.attacks.settings import attack_class, preset
from purify.config.arguments import check_words, parse_words
from purify.config.skeleton import skeleton
from purify.data.sources.open_source import small_cifar10, source
from purify.defenses import settings as defenses
from purify.defenses.filters.score_filter import SCORES, score
from purify.defenses.filters.spectral import Spectral
from purify.defenses.registry import DEFENSES
from purify.defenses.relabelling.method import Relabelling
from purify.defenses.steps import simclr
from purify.models.classifiers.registry import CIFAR_SCALE, IMAGENET_SCALE, NETWORKS
from purify.stages.diffusion_settings import (
    PHOTOS32,
    PixelNetwork,
    latent_generator,
    pixel_generator,
)
from purify.stages.train_classifier import classifier, fast_classifier
from purify.train.optim import OPTIMIZERS

STABLE_DIFFUSION = 'CompVis/stable-diffusion-v1-4'
FREE = ('source', 'objective', 'init_from', 'guidance', 'sampler', 'network', 'poison', 'weights')
WORDS: dict[str, str] = dict.fromkeys(FREE, 'usual') | {'prior': STABLE_DIFFUSION}
WORDS |= {'setting': 'digits', 'defense': 'generation', 'copies': 'none', 'encoder': ''}
# The variance of ddpm is beta.
SAMPLERS = {'ddim': {'eta': 0.0}, 'ddpm': {'variance': 'fixed_large'}, 'dpmpp_2m': {}, 'sde': {}}
# Appendix A.2.
ON_LARGE = {
    'warp': {'control_px': 0, 'strength': 1.0, 'covers': 0.0},
    'label_consistent': {'base': 'target', 'rate': 0.5},
    'sinusoid': {'base': 'target', 'rate': 0.5},
}
# Images that are there four times (section 6).
REPLICATED = {'digits': 20, 'cifar10': 1250, 'cifar10_small': 250}
REPLICATED |= {'imagenette': 200, 'caltech15': 60}
SMALL_SCORES = {name: SCORES.bare(name).presets['small'] for name in SCORES}
# Of the large settings; an image that the diffusion classifier is asked for costs a thousand calls.
LARGE = {'eta': 0.0, 'dtype': 'bfloat16'}
LARGE |= {'asked': {'draws': 100, 'images': 2000, 'dtype': 'bfloat16'}}


def read_words(arg):
    words = parse_words(arg, attack='usual', rate='usual', seed=0, **WORDS)
    pixels = words.setting in ('digits', 'cifar10', 'cifar10_small')
    generators = ('generation', 'diffusion_classifier')
    choices = {'setting': SETTINGS, 'defense': (*generators, *SCORES, 'none')}
    choices |= {'objective': ('usual', 'ddpm', 'edm') if pixels else ('usual', 'latent')}
    choices |= {'sampler': ('usual', *SAMPLERS), 'poison': ('usual', 'random', 'duplicates')}
    check_words(words, **choices, copies=('none', 'simclr', 'encoder'))
    own = {'guidance', 'sampler', 'copies'} if words.defense != 'generation' else set()
    own |= {'objective', 'init_from', 'prior'} if words.defense not in generators else set()
    if idle := sorted(name for name in own if words[name] != WORDS[name]):
        raise ValueError(
            f'{", ".join(idle)}: defense={words.defense} has no use for that; only a defence that'
            ' trains or asks a generator has (see the words of this config).'
        )
    if words.guidance != 'usual' and not re.fullmatch(r'\d+(\.\d*)?|\.\d+', words.guidance):
        raise ValueError(f'guidance={words.guidance!r} must be a number, the scale s = 1 + w.')
    if bool(words.encoder) != (words.copies == 'encoder'):
        raise ValueError(
            'copies=encoder and encoder=<a file or folder> go together; give both, or none of them.'
        )
    if words.setting == 'digits' and words.source != 'usual':
        raise ValueError('setting=digits brings its images; for others choose another setting.')
    if words.setting in ('digits', 'cifar10_small') and words.network != 'usual':
        raise ValueError(
            f'setting={words.setting} brings its network; for network={words.network} choose'
            ' another setting.'
        )
    if words.setting == 'caltech15' and words.source == 'usual':
        raise ValueError('setting=caltech15 needs source=arrays:DIR or imagefolder:DIR.')
    if pixels and words.prior != STABLE_DIFFUSION:
        raise ValueError(
            f'prior is where Stable Diffusion lies, which setting={words.setting} has no use for.'
        )
    if not pixels and words.init_from != 'usual':
        raise ValueError(
            f'init_from={words.init_from}: setting={words.setting} starts from Stable Diffusion.'
        )
    if words.objective == 'edm' and words.init_from not in ('usual', 'none'):
        raise ValueError(
            f'init_from={words.init_from}: no prior has learned with the noise of objective=edm.'
        )
    words.objective = 'ddpm' if words.objective == 'usual' else words.objective
    return words


def get_config(arg=None):
    words = read_words(arg)
    config, recipe = SETTINGS[words.setting](words)
    # Photographs start from ImageNet's weights (appendix A.4).
    photographs, teacher = words.setting in ('imagenette', 'caltech15'), config.teacher
    usual = f'./weights/{teacher.network.name}.safetensors' if photographs else ''
    teacher.init_from = {'usual': usual, 'none': ''}.get(words.weights, words.weights)

    name = recipe.get('attack', 'badnets1') if words.attack == 'usual' else words.attack
    clean_label, aimed = attack_class(name).scheme == 'clean_label', {'target': recipe['target']}
    aimed |= {} if words.setting == 'digits' or clean_label else {'base': 'nontarget'}
    # A dataset with duplicates, of which poison goes to random images or to the duplicates first.
    if words.poison != 'usual':
        aimed |= {'replicated_images': REPLICATED[words.setting], 'replicas': 4}
        aimed |= {'poison_replicas': words.poison == 'duplicates'}
    own = ON_LARGE.get(name, {}) if photographs else preset(name, recipe.get('preset', ''))
    set_attack(config, name, {**aimed, **own}, rate=words.rate)
    if words.defense != 'none':
        defend(config, words, recipe)
    return config


def defend(config, words, recipe):
    # Changes to the numbers of the detectors' papers.
    looks = recipe.get('scores', {})
    if words.defense in SCORES:
        changes = {'score': looks.get(words.defense, {}), 'remove': Spectral.remove}
        defenses.defend(config, words.defense, changes)
        return
    generator = {'generator': recipe['generator']}
    if words.defense == 'diffusion_classifier':
        config.defense = DEFENSES.part('diffusion_classifier', recipe['asked'], generator)
        return
    sampler = {'name': 'ddim', 'eta': recipe.get('eta', 1.0)}
    if words.sampler != 'usual':
        sampler = {'name': words.sampler} | SAMPLERS[words.sampler]
    guidance = recipe.get('guidance', 1.0) if words.guidance == 'usual' else float(words.guidance)
    # DDPM takes every timestep.
    sampling = {'sampler': sampler, 'steps': 1000 if words.sampler == 'ddpm' else 50}
    sampling |= {'guidance': guidance, 'guidance_interval': ()}
    sampling |= {'dtype': recipe.get('dtype', 'float32')}
    scores = {name: score(name, **looks.get(name, {})) for name in SCORES}
    generated = {'probe': recipe['probe'], 'scores': scores, 'copies': words.copies}
    generated |= {'encoder': recipe['encoder']} if words.copies == 'simclr' else {}
    generated |= {'images': recipe.get('images', 0), 'sampling': sampling} | generator
    config.defense = DEFENSES.part('generation', generated)
    judge = config.teacher.to_dict()
    config.dissection = asdict(defenses.DissectionSettings(judge, judge))
    config.student = judge | {'epochs': recipe.get('student_epochs', judge['epochs'])}
    if words.copies == 'encoder':
        config.encoder = defenses.loaded(words.encoder)


# Settings: a config with its source and teacher, and what its attack and defences take; `asked` is
# the diffusion classifier.


def digits(words):
    """The quickstart's 16 px digits and teacher, and a UNet of .75 M parameters."""
    config = skeleton('castle_walls', words.seed, shard_size=100, save_every=250)
    config.source = source('digits', size_px=16, channels=1, resample='nearest')
    network = NETWORKS.part('resnet', width=16, norm='group')
    how, shift = OPTIMIZERS.part('adamw', lr=3e-3), {'pad_crop': {'pad_px': 1}}
    config.teacher = classifier(network, how, epochs=30, batch=64, augment=shift)
    unet = PixelNetwork(16, (16, 48, 64), layers_per_block=1, norm_num_groups=8)
    adam, run = OPTIMIZERS.part('adam', lr=2e-3), {'steps': 2500, 'batch': 64}
    return config, {
        'attack': 'patch',
        'target': 0,
        'preset': 'digits',
        'generator': generator(words, unet, adam, run),
        'images': 1600,
        'probe': {'labels': (0,), 'images': 200},
        'scores': SMALL_SCORES,
        'encoder': Relabelling.presets['small']['encoder'],
        'asked': {'draws': 32, 'weighting': 'none'},
        'student_epochs': 15,
    }


def cifar10(words):
    """50,000 images; the UNet of the paper's code, or under EDM a wider one as of Table A4."""
    config = skeleton('castle_walls', words.seed, inference_batch=1024, batch_per_device=512)
    config.source = source('tfds:cifar10' if words.source == 'usual' else words.source, size_px=32)
    network = network_of(words, 'resnet18', CIFAR_SCALE)
    augment = {'flip': {'p': 0.5}, 'pad_crop': {'pad_px': 4}}
    config.teacher = teacher_of(network, epochs=100, augment=augment)
    # 50 M images; under EDM the average's half-life is .5 M of them.
    if words.objective == 'edm':
        look = {'attention_levels': 2, 'layers_per_block': 4, 'dropout': 0.13}
        unet = PixelNetwork(32, (256, 256, 256), **look, dtype='bfloat16')
        how = OPTIMIZERS.part('adam', lr=1e-3, schedule='constant', warmup=0.2)
        run = {'steps': 97_656, 'batch': 512, 'ema_decay': 0.99929}
    else:
        look = {'attention_levels': 4, 'dropout': 0.15}
        unet = PixelNetwork(32, (64, 128, 128, 128), **look, dtype='bfloat16')
        how = OPTIMIZERS.part('adamw', lr=5e-4, warmup=0.1)
        run = {'steps': 100_000, 'batch': 500, 'ema_decay': 0.9999}
    return config, LARGE | {
        'target': 4,
        'generator': generator(words, unet, how, run),
        'guidance': 6.0,
        'probe': {'labels': (4,), 'images': 10_000},
        'encoder': simclr(network, epochs=500),
    }


def cifar10_small(words):
    """The network fast, and a generator that starts as the prior photos32, for a CPU."""
    config = skeleton('castle_walls', words.seed, shard_size=500, save_every=250)
    config.source = small_cifar10(words.source)
    config.teacher = fast_classifier(epochs=12)
    network = NETWORKS.part('resnet', width=16, norm='group', **CIFAR_SCALE)
    usual, run = 'none', {'steps': 2000, 'batch': 64}
    if words.objective == 'ddpm':
        usual, run = 'photos32', run | {'prediction': 'v_prediction'}
    adam = OPTIMIZERS.part('adam', lr=1e-3, warmup=0.05)
    return config, {
        'target': 4,
        'preset': 'small',
        'generator': generator(words, PHOTOS32, adam, run, usual=usual),
        'probe': {'labels': (4,), 'images': 500},
        'scores': SMALL_SCORES,
        'encoder': simclr(network, epochs=20, lr=2e-3, projection=64),
        'asked': {'draws': 8, 'images': 200},
    }


def generator(words, unet, how, run, *, usual='none'):
    """A generator on pixels that starts from the prior of the words, or the `usual` one."""
    start = usual if words.init_from == 'usual' else words.init_from
    start = '' if start == 'none' else start
    return pixel_generator(unet, how, objective=words.objective, init_from=start, **run)


def photographs(words):
    """256 px; Stable Diffusion 1.4 for 50 epochs at its own 512."""
    target, epochs = {'imagenette': (6, 10), 'caltech15': (2, 100)}[words.setting]
    memory = {'inference_batch': 256, 'batch_per_device': 16, 'vae_slice': 8}
    config = skeleton('castle_walls', words.seed, shard_size=200, **memory)
    images = 'tfds:imagenette/full-size-v2' if words.source == 'usual' else words.source
    config.source = source(images, size_px=256)
    network = network_of(words, 'resnet50', IMAGENET_SCALE, stem='imagenet')
    config.teacher = teacher_of(network, epochs=epochs, augment={'flip': {'p': 0.5}})
    if words.defense in ('generation', 'diffusion_classifier'):
        config.prior = defenses.loaded(words.prior)
    return config, LARGE | {
        'target': target,
        'generator': latent_generator(dtype='bfloat16'),
        'guidance': 5.0,
        'probe': {'labels': (target,), 'images': 1000},
        'encoder': simclr(network, epochs=200),
    }


SETTINGS = {'digits': digits, 'cifar10': cifar10, 'cifar10_small': cifar10_small}
SETTINGS |= dict.fromkeys(('imagenette', 'caltech15'), photographs)


def network_of(words, usual, scale, stem='small'):
    name = usual if words.network == 'usual' else words.network
    # Other families have one beginning alone.
    begins = {'stem': stem} if NETWORKS.takes(name, 'stem') else {}
    return NETWORKS.part(name, dtype='bfloat16', **scale, **begins)


def teacher_of(network, *, epochs, augment):
    """SGD .01 on a cosine, weight decay 5e-4 (appendix A.4); how many epochs is the code's."""
    how = OPTIMIZERS.part('sgd', lr=0.01)
    return classifier(network, how, epochs=epochs, batch=128, augment=augment)


# The tables and figures: every point is one run.


def each(name, values, **others):
    """One point for every value of a word, `others` beside it."""
    return [{'words': {name: value} | others} for value in values]


def sweep_rates():
    """Shares of poison."""
    return each('rate', (0.01, 0.02, 0.05, 0.1))


def sweep_guidance():
    """Scales of guidance, one generator."""
    return each('guidance', (1.0, 2.0, 5.0, 10.0))


def sweep_samplers():
    """DDIM, DDPM and SDE, one generator."""
    return each('sampler', ('ddim', 'ddpm', 'sde'))


def sweep_relabel_only():
    """Wrong labels without a trigger."""
    return each('rate', (0.01, 0.02, 0.05, 0.1), attack='relabel_only')


def sweep_clean_label():
    """Triggers on images of the target class, whose labels stay."""
    return each('attack', ('label_consistent', 'sinusoid'))


def sweep_fid():
    """A normal generator and a poisoned one."""
    return each('rate', (0.0, 0.1))


def sweep_table3():
    """Two triggers at three rates, for the AUROC of the detectors on both sets."""
    for attack in ('badnets1', 'badnets2'):
        yield from each('rate', (0.01, 0.05, 0.1), attack=attack)


def sweep_table4():
    """Three triggers at three rates, for the student of the generations."""
    for attack in ('badnets1', 'badnets2', 'warp'):
        yield from each('rate', (0.01, 0.02, 0.05), attack=attack)


def sweep_table_a3():
    """The same with two other networks."""
    for name in ('vgg16', 'densenet121'):
        yield from ({'words': point['words'] | {'network': name}} for point in sweep_table4())


def sweep_table_a4():
    """The diffusion classifier under EDM at three rates, over all p_filter."""
    return each('rate', (0.01, 0.05, 0.1), defense='diffusion_classifier', objective='edm')


def sweep_table_a5():
    """Random images poisoned against duplicates, at two rates."""
    for poison in ('random', 'duplicates'):
        yield from each('rate', (0.05, 0.1), poison=poison)
