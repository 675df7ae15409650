"""ImageNette as in Struppek 2023, table 1: 224 px, ResNet-101 from scratch, 10 % poison of the non-target images.

    python -m purify run --config configs/imagenette.py --workdir runs/imagenette
    python -m purify run --config configs/imagenette.py:attack=blended --workdir runs/imagenette_blended

Words: attack=<any of `python -m purify list`>, rate, seed, source, prior=train|<diffusers folder or hub id>.
Hardware: a GPU or TPU; not measured yet. The paper (one A100, just under a second per variation) reports, for the
checkerboard, ACC 80.31 and ASR 99.89 % before, 79.11 and 1.05 % after. Its variations come from Versatile Diffusion; until
the latent priors are in, `prior=train` trains a pixel DDPM of 64 px on 1,000 training images kept apart, which blurs what
it varies: do not expect the paper's ACC from it.
"""

from purify.config import parts
from purify.config.arguments import parse_words


def get_config(arg=None):
    words = parse_words(arg, attack='patch', rate=0.1, seed=0, source='tfds:imagenette/full-size-v2', prior='train')
    sizes = {'prior_steps': 100_000, 'prior_batch': 128, 'shard_size': 500}
    return parts.struppek_config('imagenette', words, **sizes, reference='held_out', reference_size=1000)


def sweep_trigger():
    """The triggers of the paper's table 1 and 4 that need no picture: patterns and sizes of the patch, and noise."""
    for size in (9, 13, 17, 21, 25):
        yield {'config.attack.size_px': size}
    for colour in ('white', 'black', 'yellow', 'red', 'blue'):
        yield {'config.attack.pattern': 'solid', 'config.attack.colours': f'("{colour}",)'}
    yield {'words': {'attack': 'blended'}}
