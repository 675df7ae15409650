"""Generative relabelling (Sabolić 2024): each class's features get a density; images of a target class get their true labels back.

    python -m purify run --config configs/relabel.py --workdir runs/relabel
    python -m purify run --config configs/relabel.py:attack=warp,seed=1 --workdir runs/relabel_warp
    python -m purify run --config configs/relabel.py:setting=cifar10 --workdir runs/relabel_cifar10
    python launch/sweep.py --config configs/relabel.py:setting=cifar10 --sweep table1 --seeds 0,1,2 --workdir runs/relabel_table1

Words: setting=digits|cifar10|cifar10_small|imagenet30|vggface30, defense=relabel|nad|abl|dbd|asd|none, attack=<any of
`python -m purify list`>, rate, seed, source, features=simclr|teacher|clip|encoder (whose features the densities are of; clip is
openai/clip-vit-base-patch32 from the hub; encoder=<a CLIP folder, a hub id, or the folder of a finished encoder or classifier>
goes with features=encoder).

`digits` needs no download and is for 2 CPU cores. `cifar10_small` is 5,000 images for a CPU, source=arrays:DIR. The others are
for a GPU or TPU, and have not been measured:
`cifar10`     50,000 images, ResNet-18 for 200 epochs, SimCLR for 500 (the paper does not say how many).
`imagenet30`  tfds:imagenet2012, 30 classes drawn with source.split_seed (the paper does not name its own), ResNet-18, 90 epochs.
`vggface30`   source=imagefolder:DIR with train/<person>/ and test/<person>/ of 30 people, DenseNet-121, 90 epochs.
Their patch of 224 px is a blocks pattern of the published size; the published one is a logo.

nad and asd are handed clean images, which the report says: nad 5 % of the training images, asd 10 of each class.

Sweeps: attack (for the digits), table1 and table1_large (attacks and baselines), table2 (accuracy of the new labels), table3
(features), table4 (rates).
"""

from purify.config import relabel as study


def get_config(arg=None):
    words = study.words_of(arg)
    return study.SETTINGS[words.setting](words)


def sweep_attack():
    """Three kinds of non-disruptive poison, a disruptive one, and a clean dataset."""
    yield from ({'words': {'attack': attack}} for attack in ('usual', 'blended', 'warp', 'label_consistent', 'none'))


def sweep_table1():
    """Seven attacks against NAD, ABL, DBD, ASD and relabelling."""
    return study.table1()


def sweep_table1_large():
    """The three attacks that the paper shows on ImageNet and VGGFace2."""
    return study.table1_large()


def sweep_table2():
    """How many of the new labels are the true ones, for six attacks that change labels."""
    return study.table2()


def sweep_table3():
    """Features of the poisoned classifier, of SimCLR, of CLIP."""
    return study.table3()


def sweep_table4():
    """Shares of poison from 1 to 20 %."""
    return study.table4()
