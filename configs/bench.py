r"""What image variations cost on the devices here, with random weights: no download.

    purify bench variations --config bench:shapes=tiny --config.steps=2
    purify bench variations --config bench:kind=versatile,shapes=versatile \
        --config.batches=8,16,32
    purify bench variations --config.dtypes=bfloat16,float32 --config.guidances=1.0,7.5 \
        --workdir runs/bench

Words: kind=sd_variation|versatile|sd_img2img, shapes=sd1|sd2|versatile|small|tiny (the networks'
sizes, `purify.models.files.shapes`). Every combination of the lists is measured: batches (images at
a time on a device), dtypes, steps, sizes_px (0: the size the UNet was made for), guidances,
vae_slices (images the VAE takes at once, 0 for all). sampler: 'own' or one of `purify
list`. Shapes other than 'small' and 'tiny' want a GPU or TPU. Compile times are those of an empty
cache unless JAX_COMPILATION_CACHE_DIR is set.
"""

from dataclasses import asdict

from ml_collections import ConfigDict

from purify.commands.bench_settings import BenchSettings
from purify.config.arguments import parse_words


def get_config(arg=None):
    words = parse_words(arg, kind='sd_variation', shapes='sd1')
    return ConfigDict(asdict(BenchSettings(words.kind, words.shapes)))
