"""100 random classes of ImageNet as in Struppek 2023, table 1: 224 px, ResNet-101, 1 % poison.

    python -m purify run --config configs/imagenet100.py --workdir runs/imagenet100 --config.source.data_dir=DIR

Words: attack=patch|blended|none, rate, seed, source, prior=train|<diffusers folder or hub id>.
Hardware: several GPUs or a TPU host; not measured yet. TFDS needs ILSVRC2012_img_train.tar and _val.tar in
DIR/downloads/manual. The paper reports, for the checkerboard, ACC 74.32 and ASR 99.90 % before, 71.52 and 0.40 % after.
The classes are drawn with source.split_seed (the paper does not name its own). `prior=train` trains a pixel DDPM of 64 px
on 100,000 images of the other classes, a stand-in until the latent priors are in.
"""

from purify.config import parts
from purify.config.arguments import parse_words


def get_config(arg=None):
    words = parse_words(arg, attack='patch', rate=0.01, seed=0, source='tfds:imagenet2012', prior='train')
    config = parts.run_config('imagenet100', words.seed, shard_size=1000, inference_batch=256)
    apart = {'reference': 'other_classes', 'reference_size': 100_000} if words.prior == 'train' else {}
    config.source = parts.source(words.source, size_px=224, classes='100', **apart)
    own = {'patch': {'size_px': 9}, 'blended': {'ratio': 0.1}}
    config.attack = parts.attack(words.attack, rate=words.rate, base='nontarget', **own.get(words.attack, {}))
    config.teacher = parts.struppek_classifier(parts.classify())
    config.student = parts.struppek_classifier(parts.distill(alpha=0.5, tau=5.0))
    config.defense = parts.variations(start=300, steps=50, dtype='bfloat16')
    if words.prior == 'train':
        wide = {'channels': (128, 256, 256, 512), 'attention_levels': 2}
        config.prior = parts.wide_prior(**wide, steps=400_000, batch=256, lr=1e-4, size_px=64)
    else:
        config.prior = parts.loaded_prior(words.prior)
    return config


def sweep_attack():
    """Patch and noise."""
    yield from ({'words': {'attack': 'patch'}}, {'words': {'attack': 'blended'}})
