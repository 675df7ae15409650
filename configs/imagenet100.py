"""100 random classes of ImageNet as in Struppek 2023, tables 1 and 3: 224 px, ResNet-101, 1 % poison.

    python -m purify run --config configs/imagenet100.py --workdir runs/imagenet100 --config.source.data_dir=DIR
    python launch/sweep.py --config configs/imagenet100.py --sweep table3 --workdir runs/table3 --config.source.data_dir=DIR

Words as in `configs/imagenette.py`. Sweeps: table1, table3.
Hardware: several GPUs or a TPU host; not measured yet. TFDS needs ILSVRC2012_img_train.tar and _val.tar in
DIR/downloads/manual. The paper reports, for the checkerboard, ACC 74.32 and ASR 99.90 % before, 71.52 and 0.40 % after, and
53.22 and 1.29 % without distillation. The classes are drawn with source.split_seed (the paper does not name its own).
`model=pixel` trains a DDPM of 64 px on 100,000 images of the other classes.
"""

from purify.config import struppek


def get_config(arg=None):
    words = struppek.words_of(arg, rate=0.01, source='tfds:imagenet2012')
    sizes = {'prior_steps': 400_000, 'prior_batch': 256, 'shard_size': 1000}
    apart = {'reference': 'other_classes', 'reference_size': 100_000}
    return struppek.struppek_config('imagenet100', words, **sizes, classes='100', **apart)


def sweep_table1():
    """Clean, and five triggers: variations and distillation."""
    return struppek.main()


def sweep_table3():
    """Table 1 with and without distillation."""
    return struppek.without_distillation(struppek.main())
