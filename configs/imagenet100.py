"""100 random classes of ImageNet as in Struppek 2023, table 1: 224 px, ResNet-101, 1 % poison.

    python -m purify run --config configs/imagenet100.py --workdir runs/imagenet100 --config.source.data_dir=DIR

Words: attack=<any of `python -m purify list`>, rate, seed, source, prior=train|<diffusers folder or hub id>.
Hardware: several GPUs or a TPU host; not measured yet. TFDS needs ILSVRC2012_img_train.tar and _val.tar in
DIR/downloads/manual. The paper reports, for the checkerboard, ACC 74.32 and ASR 99.90 % before, 71.52 and 0.40 % after.
The classes are drawn with source.split_seed (the paper does not name its own). `prior=train` trains a pixel DDPM of 64 px
on 100,000 images of the other classes, a stand-in until the latent priors are in.
"""

from purify.config import parts
from purify.config.arguments import parse_words


def get_config(arg=None):
    words = parse_words(arg, attack='patch', rate=0.01, seed=0, source='tfds:imagenet2012', prior='train')
    sizes = {'prior_steps': 400_000, 'prior_batch': 256, 'shard_size': 1000}
    return parts.struppek_config('imagenet100', words, **sizes, classes='100', reference='other_classes', reference_size=100_000)


def sweep_attack():
    """Patch and noise."""
    yield from ({'words': {'attack': 'patch'}}, {'words': {'attack': 'blended'}})
