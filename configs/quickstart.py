r"""The main job: a backdoor goes in, and comes out; on the embedded digits, or on photographs.

No download; on the digits about two minutes on 2 CPU cores.

    purify run --config quickstart --workdir runs/quickstart
    purify run --config quickstart:attack=blended,rate=0.05,seed=1 \
        --workdir runs/blended

    purify run --config quickstart:source=arrays:DIR --workdir runs/photographs

Words: attack=<any of `purify list`>, rate, seed, defense=variations|augmentations|none or
dataelixir|relabel|activation_clustering|spectral|abl|dbd|nad|asd|cognitive_distillation|fct|strip
(`configs/dataelixir.py`, `relabel.py` and `castle_walls.py` say more of these), distill=True|False
(of the first two), network=<any of `purify list`>, source=digits|arrays:PATH|imagefolder:PATH|
tfds:NAME, prior=<digits, photos32, a folder or hub id>. Of photographs, which is all but the
digits: size_px and channels, to which images are brought, and flip=False where a mirrored image is
no longer of its class, such as traffic signs.

The digits: 800 training images, 80 of them with a 3x3 checkerboard (or 15 % of noise blended in)
and label 0; a 3-stage ResNet of width 16 as teacher and student; the embedded DDPM of 0.8 M
parameters noises every image to step 300 of 1,000 and back in 6 steps of SDE-DPM-Solver++, three
times. Measured: docs/results/quickstart, and what fewer steps cost in docs/results/fast-sampling.

Photographs: 5 % of all images are poisoned unless a rate is given (attacks with another usual rate
keep it); the network `fast` as teacher and student from 16 to 64 px, else a ResNet of width 16; the
embedded prior `photos32` for images of 32 px in colour, and for others one that is trained on 1,000
training images that are set aside. Every image is noised to step 120 and back in 3 steps, twice.
Measured on 10,000 images of CIFAR-10: docs/results/photos.

Four settings differ from Struppek 2023; the first three were chosen on digits with seeds 10 to 12.
No colour transfer: eq. (1) gives the variation the brightness of its original, and with it the grey
that blended noise leaves on a black ground (student ASR 1.00). tau = 1: at the paper's 5 the
teacher's soft labels hand the blended backdoor on (ASR .18 and more). Several variations instead of
one: they carry the student's ACC. Of photographs the student learns from the teacher alone (alpha =
1 instead of .5): their labels, the poisoned ones among them, carry the trigger on. Chosen on the
patch with seed 10 and blended noise with seed 11.
"""

from dataclasses import asdict
from functools import partial

from purify.attacker.settings import set_attack
from purify.attacks import settings as attacks
from purify.config.arguments import check_words, parse_words
from purify.config.skeleton import skeleton
from purify.data.sources.open_source import source
from purify.defenses import settings as defenses
from purify.defenses.registry import DEFENSES
from purify.models.classifiers.registry import NETWORKS
from purify.stages.diffusion_settings import PixelNetwork, pixel_prior
from purify.stages.train_classifier import STRONG_AUGMENTATIONS, classifier, fast_classifier
from purify.train.objectives.registry import OBJECTIVES
from purify.train.optim import OPTIMIZERS


def read_words(arg):
    own = {'defense': 'variations', 'distill': True, 'source': 'digits', 'network': 'usual'}
    own |= {'size_px': 32, 'channels': 3, 'flip': True, 'prior': 'usual'}
    words = parse_words(arg, attack='patch', rate='usual', seed=0, **own)
    check_words(words, defense={*defenses.plain_defenses(), 'variations'})
    if words.prior != 'usual' and not asks_prior(words):
        raise ValueError(f'prior={words.prior}: defense={words.defense} has no use for a prior.')
    given = [name for name in ('size_px', 'channels', 'flip') if words[name] != own[name]]
    if given and words.source == 'digits':
        raise ValueError(f'{given[0]}={words[given[0]]}: the digits are as they are.')
    if not words.distill and words.defense not in ('variations', 'augmentations'):
        raise ValueError(f'distill=False: defense={words.defense} has no distillation.')
    return words


def asks_prior(words):
    return DEFENSES.bare(words.defense).needs.prior


def get_config(arg=None):
    words = read_words(arg)
    config, recipe = (digits if words.source == 'digits' else photographs)(words)
    config.teacher = recipe['classifier'](epochs=recipe['epochs'])
    kind, rate = recipe['kind'], words.rate
    if rate == 'usual' and attacks.attack_class(words.attack).usual_rate == 0.1:
        rate = recipe['rate']
    set_attack(config, words.attack, attacks.preset(words.attack, kind), rate=rate)
    prior = recipe['prior'] if words.prior == 'usual' else defenses.loaded(words.prior)
    if words.defense == 'none':
        return config
    if words.defense not in ('variations', 'augmentations'):
        suited = defenses.preset(words.defense, kind, 'small')
        defenses.defend(config, words.defense, suited, semi_steps=1500, prior=prior)
        return config
    epochs, augment = recipe['epochs'], config.teacher.augment.to_dict()
    if words.defense == 'augmentations':
        # The strong ones of the paper; whether images are mirrored is the teacher's to say.
        augment |= {name: value for name, value in STRONG_AUGMENTATIONS.items() if name != 'flip'}
        config.defense = DEFENSES.part('augmentations')
    else:
        config.defense = DEFENSES.part('variations', defenses.preset('variations', kind))
        config.prior, epochs = prior, recipe['student_epochs']
        config.evaluation = asdict(defenses.Evaluation())
    objective = config.teacher.objective.to_dict()
    if words.distill:
        objective = OBJECTIVES.part('distill', tau=1.0, alpha=recipe['alpha'])
    config.student = recipe['classifier'](epochs=epochs, objective=objective, augment=augment)
    return config


def digits(words):
    """Of 16 px, a ResNet of three stages, and the embedded prior."""
    config = skeleton('quickstart', words.seed, shard_size=100, save_every=100)
    grey = {'channels': 1, 'resample': 'nearest'}
    config.source = source('digits', size_px=16, **grey, reference='own')
    shift = {'pad_crop': {'pad_px': 1}}
    return config, {
        'kind': 'digits',
        'rate': 0.1,
        'classifier': partial(resnet, words, augment=shift),
        'epochs': 30,
        'student_epochs': 15,
        'prior': defenses.loaded('digits'),
        'alpha': 0.5,
    }


def photographs(words):
    """The network `fast` and the embedded prior of colour photographs of 32 px.

    For other images a prior is trained on 1,000 training images that are set aside.
    """
    config = skeleton('quickstart', words.seed, shard_size=500, save_every=250)
    size = {'size_px': words.size_px, 'channels': words.channels}
    known = size == {'size_px': 32, 'channels': 3}
    trains = not known and words.prior == 'usual' and asks_prior(words)
    apart = {'reference': 'held_out', 'reference_size': 1000} if trains else {}
    config.source = source(words.source, **size, **apart)
    flip = {'flip': {'p': 0.5}} if words.flip else {}
    suits = words.network == 'usual' and 16 <= words.size_px <= 64
    if suits or words.network == 'fast':
        own, epochs = partial(fast_classifier, channels=words.channels, flip=words.flip), 12
    else:
        own, epochs = partial(resnet, words, augment={'pad_crop': {'pad_px': 2}} | flip), 30
    unet = PixelNetwork(words.size_px, (32, 64, 96), layers_per_block=1, norm_num_groups=8)
    trained = pixel_prior(unet, lr=1e-3, steps=2000, batch=64, augment=flip)
    return config, {
        'kind': 'small',
        'rate': 0.05,
        'classifier': own,
        'epochs': epochs,
        'student_epochs': 0.75 * epochs,
        'prior': defenses.loaded('photos32') if known else trained,
        'alpha': 1.0,
    }


def resnet(words, *, epochs, **changes):
    """A network of the words, or the small one, with Adam."""
    small = NETWORKS.part('resnet', width=16, norm='group')
    network = small if words.network == 'usual' else NETWORKS.part(words.network)
    how = {'batch': 64, 'objective': OBJECTIVES.part('classify')} | changes
    return classifier(network, OPTIMIZERS.part('adamw', lr=3e-3), epochs=epochs, **how)


def sweep_attack():
    """Both attacks and none."""
    yield {'words': {'attack': 'patch'}}
    yield {'words': {'attack': 'blended'}}
    yield {'words': {'attack': 'patch', 'rate': 0.0}}


def sweep_start():
    """How far the variations go."""
    yield from ({'config.defense.vary.start': start} for start in (150, 300, 400))


def sweep_ablation():
    """The defence and its parts."""
    yield {'words': {'defense': 'variations', 'distill': True}}
    yield {'words': {'defense': 'variations', 'distill': False}}
    yield {'words': {'defense': 'augmentations', 'distill': True}}
