"""Poisoned diffusion models (Pan 2024): a generator learns the poisoned images; what it makes gives them away, and teaches better.

    python -m purify run --config configs/castle_walls.py:rate=0.02 --workdir runs/castle_walls
    python -m purify run --config configs/castle_walls.py:rate=0.02,defense=diffusion_classifier --workdir runs/diffusion
    python -m purify run --config configs/castle_walls.py:setting=cifar10 --workdir runs/castle_walls_cifar10
    python launch/sweep.py --config configs/castle_walls.py --sweep rates --seeds 0,1,2 --workdir runs/castle_walls_rates

Words: setting=digits|cifar10|cifar10_small|imagenette|caltech15, attack=<any of `python -m purify list`; usual is a patch on the
digits, badnets1 elsewhere>, rate, seed, source, defense=generation|diffusion_classifier|cognitive_distillation|fct|strip|none,
objective=ddpm|edm (of the settings in pixels), network=<of the victim and the student, such as vgg16>. Of generation:
guidance=<the scale s of e_u + s (e_c - e_u); the paper's weight w of DDPM is s - 1, that of Stable Diffusion is s>,
sampler=ddim|ddpm|dpmpp_2m|sde, copies=none|simclr|encoder (whose features tell copies of training images; encoder=<an SSCD file,
a CLIP folder, the folder of a finished encoder>), poison=usual|random|duplicates (a dataset with duplicated images, and whether
these are poisoned). prior=<folder or hub id of Stable Diffusion>. weights=<a safetensors file or a finished classifier that all
classifiers, judges too, start from; none: from scratch; usual: ./weights/<network>.safetensors, ImageNet's, for imagenette and
caltech15, none elsewhere>.

Runs that share a --store (a sweep does) train a generator once for all words that do not change it, such as defense=generation and
diffusion_classifier, guidance and sampler.

The three detectors drop 15 % of all images. What is usual: guidance 1 and DDIM with eta 1 for digits and cifar10_small
(sampler=ddim is eta 0), 6 for cifar10 (w = 5), 5 for Stable Diffusion, both DDIM with eta 0; 50 steps, but for sampler=ddpm,
which takes all 1,000 with the variance beta. The diffusion classifier asks each of 32 (digits), 8 (cifar10_small, 200 test
images) or 100 draws (2,000 test images) under every class, with EDM's weights but for the digits, whose draws all count alike.

`digits` needs no download: 2,500 steps of a UNet of .75 M parameters, ten minutes in all on 2 CPU cores; the README holds the
numbers to expect. `cifar10_small` is 5,000 images for a CPU, source=arrays:DIR. The others are for a GPU or TPU, and have not
been measured:
`cifar10`     50,000 images; the UNet of the paper's code, 100,000 steps of 500 (1,000 epochs), or EDM's recipe with objective=edm.
`imagenette`  tfds:imagenette/full-size-v2 at 256 px, CompVis/stable-diffusion-v1-4, whose UNet is trained for 50 epochs at 512 px.
`caltech15`   source=imagefolder:DIR with train/<class>/ and test/<class>/ of the 15 largest classes of Caltech-256; likewise.

Sweeps: rates (Figures 3 and 4), guidance (Figure A3), samplers (Figure A5), relabel_only (Figure A2), clean_label (Figure A4), fid
(Table 2: without poison and with), table3 (detectors), table4 and table_a3 (students), table_a4 (the diffusion classifier),
table_a5 (duplicates).
"""

from purify.config import castle_tables as tables
from purify.config import castle_walls as study


def get_config(arg=None):
    words = study.words_of(arg)
    return study.SETTINGS[words.setting](words)


def sweep_rates():
    """Shares of poison."""
    return tables.each('rate', tables.RATES)


def sweep_guidance():
    """Scales of guidance, one generator."""
    return tables.each('guidance', (1.0, 2.0, 5.0, 10.0))


def sweep_samplers():
    """DDIM, DDPM and SDE, one generator."""
    return tables.each('sampler', ('ddim', 'ddpm', 'sde'))


def sweep_relabel_only():
    """Wrong labels without a trigger."""
    return tables.each('rate', tables.RATES, attack='relabel_only')


def sweep_clean_label():
    """Triggers on images of the target class, whose labels stay."""
    return tables.each('attack', ('label_consistent', 'sinusoid'))


def sweep_fid():
    """A normal generator and a poisoned one."""
    return tables.each('rate', (0.0, 0.1))


def sweep_table3():
    """Two triggers at three rates, for the AUROC of the detectors on both sets."""
    return tables.table3()


def sweep_table4():
    """Three triggers at three rates, for the student of the generations."""
    return tables.table4()


def sweep_table_a3():
    """The same with two other networks."""
    return tables.table_a3()


def sweep_table_a4():
    """The diffusion classifier under EDM at three rates, over all p_filter."""
    return tables.each('rate', (0.01, 0.05, 0.1), defense='diffusion_classifier', objective='edm')


def sweep_table_a5():
    """Random images poisoned against duplicates, at two rates."""
    return tables.table_a5()
