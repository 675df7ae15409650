r"""A prior: a pixel DDPM trained from scratch on images of any source, in diffusers' format.

    purify run --config prior --workdir runs/digits_prior
    purify run --config prior:source=tfds:cifar10 --workdir runs/cifar10_prior
    purify run --config prior:source=arrays:DIR,data=poisoned,attack=patch \
        --workdir runs/poisoned_prior

    purify run --config prior:distill=digits --workdir runs/fast_digits
    purify run --config prior:photos32,source=arrays:DIR --workdir runs/photos32

Words: source, seed, steps, photos32, data=reference|poisoned, attack=<any of `purify list`>, rate,
distill=<a finished prior: folder, hub id, digits or photos32>; of sources other than digits also
size_px, channels, and held_out, how many training images are kept apart as reference. The folder
WORKDIR/prior is what another run takes as --config.prior.load=FOLDER; its provenance.json says what
it was trained on.

`data=reference`, the default, trains on images that are in no training or test set; where these are
held out of the training images of a source that nobody vouches for, a report on this prior warns.
`data=poisoned` trains on the training images as they come, after the attack if there is one, for
the study of Zhou 2024, table 4: a prior that has seen the trigger puts it back.

`distill=FOLDER` makes a student of that prior that needs one to four calls in place of twenty: give
its folder as --config.prior.load, with --config.defense.vary.sampler=consistency and vary.steps=2.
Measured: docs/results/fast-sampling.

`photos32` makes the embedded prior of that name, of the first 30,000 training images of a source
(`held_out`), DIR with train.npz and test.npz of CIFAR-10 in its own order: 6,400 steps of 32, an
hour and a half on 2 CPU cores. It is to vary photographs, not to make them: of its timesteps 90 %
are drawn below 400 of 1,000. Measured: docs/results/photos.

Digits make the embedded prior: 2,500 steps of 64 on 700 images of 16 px, a quarter of an hour on 2
CPU cores; its unet/, scheduler/ and model_index.json are what lies in
purify/models/pretrained/digits_ddpm. Other sources get the settings of Ho et al. 2020, with
attention at the coarsest sizes, and 100,000 steps of 128, which need a GPU or TPU; not measured
yet.
"""

from dataclasses import asdict

from purify.attacker.settings import set_attack
from purify.attacks.settings import preset
from purify.config.arguments import check_words, parse_words
from purify.config.skeleton import skeleton
from purify.data.sources.open_source import source
from purify.models.classifiers.registry import NETWORKS
from purify.stages.diffusion_settings import (
    PHOTOS32,
    DistilledPrior,
    NoiseSchedule,
    PixelNetwork,
    Timesteps,
    TrainedPrior,
    pixel_prior,
    wide_prior,
)
from purify.stages.train_classifier import classifier
from purify.train.optim import OPTIMIZERS


def get_config(arg=None):
    own = {'source': 'digits', 'seed': 0, 'steps': 0, 'size_px': 32, 'channels': 3}
    own |= {'data': 'reference', 'held_out': 0, 'distill': 'none', 'photos32': False}
    words = parse_words(arg, attack='none', rate='usual', **own)
    check_words(words, data=('poisoned', 'reference'))
    if not words.distill:
        raise ValueError('distill= needs a finished prior: a folder, a hub id, or digits.')
    if words.data == 'reference' and words.attack != 'none':
        raise ValueError(
            f'attack={words.attack} leaves reference images as they are; it goes with'
            ' data=poisoned.'
        )
    if words.photos32 and (words.source == 'digits' or (words.size_px, words.channels) != (32, 3)):
        raise ValueError('photos32 needs photographs, in colour at 32 px: source=arrays:DIR.')
    if words.photos32 and words.distill != 'none':
        raise ValueError(
            'photos32 trains that prior; to distil it, say distill=photos32,source=arrays:DIR.'
        )
    make = photos32 if words.photos32 else digits if words.source == 'digits' else photographs
    config = make(words)
    if words.distill != 'none':
        config.prior = distilled(config.prior, words)
    kind = 'digits' if words.source == 'digits' else 'published'
    set_attack(config, words.attack, preset(words.attack, kind), rate=words.rate)
    # It was there for an attacker who needs one; nobody else does.
    del config.teacher
    return config


def digits(words):
    config = skeleton('digits_prior', words.seed, save_every=250)
    config.source = source('digits', size_px=16, channels=1, resample='nearest', reference='own')
    network = NETWORKS.part('resnet', width=16, norm='group')
    config.teacher = classifier(network, OPTIMIZERS.part('adamw', lr=3e-3), epochs=30, batch=64)
    unet = PixelNetwork(16, (24, 48, 64), layers_per_block=1, norm_num_groups=8)
    run = {'steps': words.steps or 2500, 'batch': 64, 'lr': 2e-3, 'stored_dtype': 'float16'}
    config.prior = pixel_prior(unet, **run, augment={'pad_crop': {'pad_px': 1}}, data=words.data)
    return config


def photos32(words):
    config = skeleton('photos32', words.seed, save_every=250)
    first = {'reference': 'first', 'reference_size': words.held_out or 30_000}
    apart = first if words.data == 'reference' else {}
    config.source = source(words.source, size_px=32, channels=3, **apart)
    config.teacher = for_an_attacker()
    prior = TrainedPrior(
        network=PHOTOS32,
        optim=OPTIMIZERS.part('muon', lr=0.02, warmup=0.02, clip=1.0),
        steps=words.steps or 6400,
        batch=32,
        ema_decay=0.999,
        stored_dtype='float16',
        augment={'flip': {'p': 0.5}},
        data=words.data,
        schedule=NoiseSchedule(prediction='v_prediction'),
        timesteps=Timesteps(below=400, share=0.9),
    )
    config.prior = asdict(prior)
    return config


def for_an_attacker():
    """The classifier that some attacks are fitted to."""
    network = NETWORKS.part('preact_resnet18')
    return classifier(network, OPTIMIZERS.part('sgd', lr=0.01), epochs=100, batch=128)


def photographs(words):
    config, size_px, large = skeleton('prior', words.seed), words.size_px, words.size_px >= 64
    held_out = {'reference': 'held_out', 'reference_size': words.held_out or 10_000}
    apart = held_out if words.data == 'reference' else {}
    config.source = source(words.source, size_px=size_px, channels=words.channels, **apart)
    config.teacher = for_an_attacker()
    # As many levels as halve the size without a rest, to 4 px or more.
    fits = lambda n: size_px % 2 ** (n - 1) == 0 and size_px >= 2 ** (n + 1)
    levels = next((n for n in (4, 3, 2) if fits(n)), 1)
    channels = (128, 256, 256, 512 if large else 256)[:levels]
    look = {'channels': channels, 'attention_levels': min(1 + large, levels)}
    run = {'steps': words.steps or 100_000, 'batch': 128, 'lr': 1e-4 if large else 2e-4}
    config.prior = wide_prior(size_px=size_px, **look, **run, data=words.data)
    return config


def distilled(prior, words):
    """As long a training as that of a prior for such images, at 15 % of its learning rate."""
    shared = {name: prior[name] for name in ('batch', 'augment', 'stored_dtype', 'data')}
    shared |= {'steps': prior.steps, 'dtype': prior.network.dtype}
    how = {'optim': OPTIMIZERS.part('adam', lr=0.15 * prior.optim.lr), 'ema_decay': 0.999}
    return asdict(DistilledPrior(distill=words.distill, **how, **shared))
