"""ImageNette as in Struppek 2023: 224 px, ResNet-101 from scratch, 10 % poison of the non-target images.

    python -m purify run --config configs/imagenette.py --workdir runs/imagenette
    python -m purify run --config configs/imagenette.py:model=sd_variation,attack=blended --workdir runs/imagenette_blended
    python launch/sweep.py --config configs/imagenette.py --sweep table1 --seeds 0,1,2 --workdir runs/table1

Words: attack=<any of `python -m purify list`>, rate, seed, source, model=versatile|sd_variation|sd_img2img|pixel (who makes
the variations), prior=<its folder or hub id>|train (a pixel prior, in the run), defense=variations|augmentations|none,
distill=True|False. Where published weights are pickles, prior= takes the folder that the error's command makes of them.
Sweeps: table1, table2, table4, table5, table6 are the paper's; `model` compares the models.

Hardware: a GPU or TPU; not measured yet. The paper (Versatile Diffusion, one A100, just under a second per variation) reports,
for the checkerboard, ACC 80.31 and ASR 99.89 % before, 79.11 and 1.05 % after, and 66.29 and 10.60 % without
distillation. `model=pixel` trains a DDPM of 64 px on 1,000 training images kept apart, which blurs what it varies: do not
expect the paper's ACC from it. Hello Kitty is not ours to give away: its points use the drawn cartoon; for a picture of
your own add --config.attack.pattern=picture --config.attack.path=FILE.
"""

from purify.config import struppek


def get_config(arg=None):
    words = struppek.words_of(arg, rate=0.1, source='tfds:imagenette/full-size-v2')
    sizes = {'prior_steps': 100_000, 'prior_batch': 128, 'shard_size': 500}
    return struppek.struppek_config('imagenette', words, **sizes, reference='held_out', reference_size=1000)


def sweep_table1():
    """Clean, and five triggers: variations and distillation."""
    return struppek.main()


def sweep_table2():
    """Table 1 with and without distillation."""
    return struppek.without_distillation(struppek.main())


def sweep_table4():
    """Colours of the patch, with and without distillation."""
    return struppek.without_distillation(struppek.colours())


def sweep_table5():
    """Sizes of the checkerboard, with and without distillation."""
    return struppek.without_distillation(struppek.sizes())


def sweep_table6():
    """Augmentations and distillation, variations, variations and distillation."""
    return struppek.ablation()


def sweep_model():
    """The models that make variations."""
    yield from ({'words': {'model': model}} for model in (*struppek.HUB, 'pixel'))
