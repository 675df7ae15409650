r"""100 classes of ImageNet as in Struppek 2023, tables 1 and 3: 224 px, ResNet-101, 1 % poison.

    purify run --config imagenet100 --workdir runs/imagenet100 \
        --config.source.data_dir=DIR
    python launch/sweep.py --config imagenet100 --sweep table3 --workdir runs/table3 \
        --config.source.data_dir=DIR

Words as in `configs/imagenette.py`. Sweeps: table1, table3.
Hardware: several GPUs or a TPU host; not measured yet. TFDS needs ILSVRC2012_img_train.tar and
_val.tar in DIR/downloads/manual. The paper reports, for the checkerboard, ACC 74.32 and ASR 99.90 %
before, 71.52 and 0.40 % after, and 53.22 and 1.29 % without distillation. The classes are drawn
with source.split_seed (the paper does not name its own). `model=pixel` trains a DDPM of 64 px on
100,000 images of the other classes.
"""

from purify.attacker.settings import set_attack
from purify.config.arguments import check_words, parse_words
from purify.config.skeleton import skeleton
from purify.data.sources.open_source import source
from purify.defenses.registry import DEFENSES
from purify.defenses.settings import loaded
from purify.generative.open_prior import variation
from purify.models.classifiers.registry import NETWORKS
from purify.stages.diffusion_settings import wide_prior
from purify.stages.train_classifier import STRONG_AUGMENTATIONS, classifier
from purify.train.objectives.registry import OBJECTIVES
from purify.train.optim import OPTIMIZERS

# Model: hub id, and revision, of its published weights.
HUB = {
    'versatile': ('shi-labs/versatile-diffusion', ''),
    'sd_variation': ('lambdalabs/sd-image-variations-diffusers', 'v2.0'),
    'sd_img2img': ('stable-diffusion-v1-5/stable-diffusion-v1-5', ''),
}
# What attacks need at 224 px.
AT_224_PX = {'patch': {'size_px': 9}, 'white_patch': {'size_px': 21}, 'dct': {'magnitude': 50.0}}
AT_224_PX |= {'warp': {'control_px': 0, 'strength': 1.0, 'covers': 0.0}}
# A dataset whose false alarms count.
CLEAN = {'words': {'attack': 'none', 'rate': 0.0}, 'config.clean_source': True}


def get_config(arg=None):
    own = {'model': 'versatile', 'prior': 'usual', 'defense': 'variations', 'distill': True}
    words = parse_words(arg, attack='patch', rate=0.01, seed=0, source='tfds:imagenet2012', **own)
    check_words(words, model=(*HUB, 'pixel'), defense=('augmentations', 'none', 'variations'))
    if words.prior == 'train' and words.model != 'pixel':
        raise ValueError('prior=train trains a pixel prior; say model=pixel with it.')
    pixel, own_prior = words.model == 'pixel', words.prior in ('usual', 'train')
    trained = words.defense == 'variations' and pixel and own_prior
    memory = {'batch_per_device': 256} if trained else {'batch_per_device': 16, 'vae_slice': 8}
    config = skeleton('imagenet100', words.seed, shard_size=1000, inference_batch=256, **memory)
    apart = {'reference': 'other_classes', 'reference_size': 100_000} if trained else {}
    config.source = source(words.source, size_px=224, classes='100', **apart)

    # From scratch: a tenth of the rate at epochs 30 and 50 of 100 (Struppek 2023, appendix A.2).
    network = NETWORKS.part('resnet101', stem='imagenet', dtype='bfloat16')
    optim = OPTIMIZERS.part('adam', lr=1e-3, schedule='step', drops=(0.3, 0.5), factor=0.1)
    teacher = classifier(network, optim, epochs=100, batch=128, augment={'flip': {'p': 0.5}})
    config.teacher = teacher
    set_attack(config, words.attack, AT_224_PX.get(words.attack), rate=words.rate, base='nontarget')
    if words.defense == 'none':
        return config

    student = teacher | ({'objective': OBJECTIVES.part('distill')} if words.distill else {})
    if words.defense == 'augmentations':
        config.student = student | {'augment': STRONG_AUGMENTATIONS}
        config.defense = DEFENSES.part('augmentations')
        return config
    config.student = student
    if words.model == 'pixel':
        vary = variation('pixel', start=300, steps=50)
    else:
        own = {'strength': 0.6, 'caption': 'A photo of a {}'} if words.model == 'sd_img2img' else {}
        vary = variation(words.model, **own)
    config.defense = DEFENSES.part('variations', vary=vary, dtype='bfloat16')
    if trained:
        wide = {'size_px': 64, 'channels': (128, 256, 256, 512), 'attention_levels': 2}
        config.prior = wide_prior(**wide, lr=1e-4, steps=400_000, batch=256)
    else:
        config.prior = loaded(*(HUB[words.model] if words.prior == 'usual' else (words.prior,)))
    return config


# The tables: every point is one run, whose teacher is the column 'standard'.


def solid(colour):
    """A patch of one colour."""
    own = {'config.attack.pattern': 'solid', 'config.attack.colours': f'("{colour}",)'}
    return {'words': {'attack': 'patch'}} | own


def sweep_table1():
    """Clean, and five triggers: variations and distillation.

    In place of Hello Kitty stands the drawn cartoon.
    """
    yield dict(CLEAN)
    # The checkerboard, black and white.
    yield {'words': {'attack': 'patch'}, 'config.attack.size_px': 9}
    yield solid('white')
    yield solid('black')
    blended = {'words': {'attack': 'blended'}}
    yield blended | {'config.attack.ratio': 0.1}
    yield blended | {'config.attack.pattern': 'cartoon', 'config.attack.ratio': 0.05}


def sweep_table3():
    """Table 1 with and without distillation."""
    points: list[dict] = list(sweep_table1())
    for point in points:
        for distill in (True, False):
            yield point | {'words': point['words'] | {'distill': distill}}
