r"""What image variations cost on the devices here, with random weights: no download.

    python -m purify bench variations --config configs/bench.py:shapes=tiny --config.steps=2
    python -m purify bench variations --config configs/bench.py:kind=versatile,shapes=versatile \
        --config.batches=8,16,32
    python -m purify bench variations --config.dtypes=bfloat16,float32 --config.guidances=1.0,7.5 \
        --workdir runs/bench

Words: kind=sd_variation|versatile|sd_img2img, shapes=sd1|sd2|versatile|small|tiny (the networks'
sizes, `purify.models.files.shapes`). Every combination of the lists is measured: batches (images at
a time on a device), dtypes, steps, sizes_px (0: the size the UNet was made for), guidances,
vae_slices (images the VAE takes at once, 0 for all). sampler: 'own' or one of `python -m purify
list`. Shapes other than 'small' and 'tiny' want a GPU or TPU. Compile times are those of an empty
cache unless JAX_COMPILATION_CACHE_DIR is set.
"""

from ml_collections import ConfigDict

from purify.config.arguments import parse_words


def get_config(arg=None):
    words = parse_words(arg, kind='sd_variation', shapes='sd1')
    config = {'name': 'bench', 'kind': words.kind, 'shapes': words.shapes}
    config |= {'sampler': 'own', 'source_px': 224, 'repeats': 3}
    config |= {'batches': (8,), 'dtypes': ('bfloat16',), 'steps': (50,)}
    config |= {'sizes_px': (0,), 'guidances': (7.5,), 'vae_slices': (0,)}
    return ConfigDict(config)
