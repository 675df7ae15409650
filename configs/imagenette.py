r"""ImageNette as in Struppek 2023: 224 px, ResNet-101, 10 % poison of the non-target images.

    purify run --config imagenette --workdir runs/imagenette
    purify run --config imagenette:model=sd_variation,attack=blended \
        --workdir runs/imagenette_blended
    python launch/sweep.py --config imagenette --sweep table1 --seeds 0,1,2 \
        --workdir runs/table1

Words: attack=<any of `purify list`>, rate, seed, source,
model=versatile|sd_variation|sd_img2img|pixel (who makes the variations),
prior=<its folder or hub id>|train (a pixel prior, in the run),
defense=variations|augmentations|none, distill=True|False.
Where published weights are pickles, prior= takes the folder that the error's command makes of them.
Sweeps: table1, table2, table4, table5, table6 are the paper's; `model` compares the models.

Hardware: a GPU or TPU; not measured yet. The paper (Versatile Diffusion, one A100, just under a
second per variation) reports, for the checkerboard, ACC 80.31 and ASR 99.89 % before, 79.11 and
1.05 % after, and 66.29 and 10.60 % without distillation. `model=pixel` trains a DDPM of 64 px on
1,000 training images kept apart, which blurs what it varies: do not expect the paper's ACC from it.
Hello Kitty is not ours to give away: its points use the drawn cartoon; for a picture of your own
add --config.attack.pattern=picture --config.attack.path=FILE.
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
    own |= {'source': 'tfds:imagenette/full-size-v2'}
    words = parse_words(arg, attack='patch', rate=0.1, seed=0, **own)
    check_words(words, model=(*HUB, 'pixel'), defense=('augmentations', 'none', 'variations'))
    if words.prior == 'train' and words.model != 'pixel':
        raise ValueError('prior=train trains a pixel prior; say model=pixel with it.')
    pixel, own_prior = words.model == 'pixel', words.prior in ('usual', 'train')
    trained = words.defense == 'variations' and pixel and own_prior
    memory = {'batch_per_device': 256} if trained else {'batch_per_device': 16, 'vae_slice': 8}
    config = skeleton('imagenette', words.seed, shard_size=500, inference_batch=256, **memory)
    apart = {'reference': 'held_out', 'reference_size': 1000} if trained else {}
    config.source = source(words.source, size_px=224, **apart)

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
        config.prior = wide_prior(**wide, lr=1e-4, steps=100_000, batch=128)
    else:
        config.prior = loaded(*(HUB[words.model] if words.prior == 'usual' else (words.prior,)))
    return config


# The tables: every point is one run, whose teacher is the column 'standard'.


def solid(colour):
    """A patch of one colour."""
    own = {'config.attack.pattern': 'solid', 'config.attack.colours': f'("{colour}",)'}
    return {'words': {'attack': 'patch'}} | own


def checkerboard(*colours, size_px=9):
    """A checkerboard patch, black and white unless told otherwise."""
    own = {'config.attack.colours': str(colours)} if colours else {}
    return {'words': {'attack': 'patch'}, 'config.attack.size_px': size_px} | own


def attacked():
    """The five triggers of tables 1, 2 and 6. In place of Hello Kitty stands the drawn cartoon."""
    yield checkerboard()
    yield solid('white')
    yield solid('black')
    blended = {'words': {'attack': 'blended'}}
    yield blended | {'config.attack.ratio': 0.1}
    yield blended | {'config.attack.pattern': 'cartoon', 'config.attack.ratio': 0.05}


def with_words(point, **words):
    return point | {'words': point['words'] | words}


def without_distillation(points):
    """Each point twice: with distillation, and trained on the variations alone."""
    for point in points:
        yield from (with_words(point, distill=distill) for distill in (True, False))


def sweep_table1():
    """Clean, and five triggers: variations and distillation."""
    yield dict(CLEAN)
    yield from attacked()


def sweep_table2():
    """Table 1 with and without distillation."""
    yield from without_distillation(sweep_table1())


def sweep_table4():
    """Patches of one colour and checkerboards of two, with and without distillation."""
    points = [dict(CLEAN), checkerboard(), *map(solid, ('white', 'black', 'yellow', 'red', 'blue'))]
    pairs = (('yellow', 'red'), ('yellow', 'blue'), ('red', 'blue'))
    yield from without_distillation([*points, *(checkerboard(*pair) for pair in pairs)])


def sweep_table5():
    """Checkerboards of 9 to 25 pixels, with and without distillation."""
    yield from without_distillation(checkerboard(size_px=size) for size in (9, 13, 17, 21, 25))


def sweep_table6():
    """Strong augmentations and distillation, variations alone, variations and distillation."""
    for point in attacked():
        yield with_words(point, defense='augmentations')
        yield from without_distillation([point])


def sweep_model():
    """The models that make variations."""
    yield from ({'words': {'model': model}} for model in (*HUB, 'pixel'))
