r"""The main job on the embedded digits: a backdoor goes in, and comes out.

No download, about two minutes on 2 CPU cores.

    purify run --config quickstart --workdir runs/quickstart
    purify run --config quickstart:attack=blended,rate=0.05,seed=1 \
        --workdir runs/blended

Words: attack=<any of `purify list`>, rate, seed, defense=variations|augmentations|none or
dataelixir|relabel|activation_clustering|spectral|abl|dbd|nad|asd|cognitive_distillation|fct|strip
(`configs/dataelixir.py`, `relabel.py` and `castle_walls.py` say more of these), distill=True|False
(of the first two), network=small|<any of `purify list`>,
source=digits|arrays:PATH|imagefolder:PATH|tfds:NAME (size_px and channels then say how its images
are brought to size), prior=<folder or hub id> (without it, and with a source other than digits, a
prior that the defence needs is trained on 1,000 training images that are set aside).

800 training images, 80 of them with a 3x3 checkerboard (or 15 % of noise blended in) and label 0; a
3-stage ResNet of width 16 as teacher and student; the embedded DDPM of 0.8 M parameters noises
every image to step 300 of 1,000 and back in 6 steps of SDE-DPM-Solver++, three times. Measured:
docs/results/quickstart, and what fewer steps cost in docs/results/fast-sampling.

Three settings differ from Struppek 2023, all chosen on runs with seeds 10 to 12 (see there).
No colour transfer: eq. (1) gives the variation the brightness of its original, and with it the grey
that blended noise leaves on a black ground (student ASR 1.00). tau = 1: at the paper's 5 the
teacher's soft labels hand the blended backdoor on (ASR .18 and more). Three variations instead of
one: they carry the student's ACC.
"""

from dataclasses import asdict

from purify.attacker.settings import set_attack
from purify.attacks import settings as attacks
from purify.config.arguments import check_words, parse_words
from purify.config.skeleton import skeleton
from purify.data.sources.open_source import source
from purify.defenses import settings as defenses
from purify.defenses.registry import DEFENSES
from purify.generative.open_prior import variation
from purify.models.classifiers.registry import NETWORKS
from purify.stages.diffusion_settings import PixelNetwork, pixel_prior
from purify.stages.train_classifier import STRONG_AUGMENTATIONS, classifier
from purify.train.objectives.registry import OBJECTIVES
from purify.train.optim import OPTIMIZERS


def get_config(arg=None):
    own = {'defense': 'variations', 'distill': True, 'source': 'digits'}
    own |= {'size_px': 32, 'channels': 3, 'network': 'small', 'prior': 'usual'}
    words = parse_words(arg, attack='patch', rate='usual', seed=0, **own)
    check_words(words, defense={*defenses.plain_defenses(), 'variations'})
    config = skeleton('quickstart', words.seed, shard_size=100, save_every=100)
    asks = DEFENSES.bare(words.defense).needs.prior
    if words.prior != 'usual' and not asks:
        raise ValueError(f'prior={words.prior}: defense={words.defense} has no use for a prior.')
    given = [name for name in ('size_px', 'channels') if words[name] != own[name]]
    if given and words.source == 'digits':
        raise ValueError(f'{given[0]}={words[given[0]]}: the digits have a size of their own.')
    if not words.distill and words.defense not in ('variations', 'augmentations'):
        raise ValueError(f'distill=False: defense={words.defense} has no distillation.')
    shift = {'pad_crop': {'pad_px': 1}}
    if words.source == 'digits':
        kind, grey = 'digits', {'channels': 1, 'resample': 'nearest'}
        config.source = source('digits', size_px=16, **grey, reference='own')
        prior = defenses.loaded('digits')
    else:
        trains, kind = asks and words.prior == 'usual', 'small'
        apart = {'reference': 'held_out', 'reference_size': 1000} if trains else {}
        size = {'size_px': words.size_px, 'channels': words.channels}
        config.source = source(words.source, **size, **apart)
        unet = PixelNetwork(words.size_px, (32, 64, 96), layers_per_block=1, norm_num_groups=8)
        prior = pixel_prior(unet, lr=1e-3, steps=2000, batch=64, augment=shift)
    if words.prior != 'usual':
        prior = defenses.loaded(words.prior)
    small = NETWORKS.part('resnet', width=16, norm='group')
    network = small if words.network == 'small' else NETWORKS.part(words.network)
    recipe = {'optim': OPTIMIZERS.part('adamw', lr=3e-3), 'batch': 64}
    config.teacher = classifier(network, **recipe, epochs=30, augment=shift)
    set_attack(config, words.attack, attacks.preset(words.attack, kind), rate=words.rate)

    if words.defense == 'none':
        return config
    if words.defense not in ('variations', 'augmentations'):
        suited = defenses.preset(words.defense, kind, 'small')
        defenses.defend(config, words.defense, suited, semi_steps=1500, prior=prior)
        return config
    if words.defense == 'augmentations':
        # The strong ones of the paper, but no flip: digits have a right way round.
        shift |= {name: value for name, value in STRONG_AUGMENTATIONS.items() if name != 'flip'}
        config.defense = DEFENSES.part('augmentations')
    else:
        vary = variation('pixel', start=300, steps=6, sampler='sde')
        config.defense = DEFENSES.part('variations', vary=vary, copies=3, colour_transfer=False)
        config.prior = prior
        config.evaluation = asdict(defenses.Evaluation())
    distill, plain = OBJECTIVES.part('distill', tau=1.0), OBJECTIVES.part('classify')
    recipe['objective'] = distill if words.distill else plain
    epochs = 30 if words.defense == 'augmentations' else 15
    config.student = classifier(network, **recipe, epochs=epochs, augment=shift)
    return config


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
