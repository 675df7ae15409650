"""DataElixir (Zhou 2024) and the baselines of its Table 1: find the poisoned samples and their target, give back a clean dataset.

    python -m purify run --config configs/dataelixir.py --workdir runs/dataelixir
    python -m purify run --config configs/dataelixir.py:attack=blended,rate=0.02,exact --workdir runs/exact
    python -m purify run --config configs/dataelixir.py:setting=cifar10 --workdir runs/cifar10
    python launch/sweep.py --config configs/dataelixir.py --sweep attack --seeds 0,1,2 --workdir runs/attacks
    python launch/sweep.py --config configs/dataelixir.py:setting=cifar10 --sweep table1 --workdir runs/table1

Words: setting=digits|cifar10|tiny|lfw, attack=<any of `python -m purify list`; usual is the BadNets of the setting>, rate, seed,
defense=dataelixir|activation_clustering|spectral|abl|dbd|none, source, weights=<safetensors both classifiers start from>.
Of DataElixir: exact (every step of the chain, as published, not a tenth of them), released (the paper's open points as its
code reads them, and its own rule for target labels), targets=significant|mad (which labels are targets: `mad` is the paper's rule,
one-sided, KL, threshold 2; the released code's is two-sided), sampler=ddim|dpmpp_2m (of the fast chain; DPM-Solver++ is the
paper's faster one), start=<T> and kept=2|5|10|20|40 (m) for priors of 1,000 steps, prior=<diffusers folder or hub id>|train|
poisoned (a prior trained in the run, on images kept apart or on the poisoned ones).

`digits` needs no download and is for 2 CPU cores. The others are for a GPU or TPU, and have not been measured:
`cifar10`  50,000 images, PreAct-ResNet-18, google/ddpm-cifar10-32.
`tiny`     source=imagefolder:DIR with train/<class>/ and test/<class>/; EfficientNet-B4 from ImageNet's weights as timm or
           torchvision store them (./weights/efficientnet_b4.safetensors), and OpenAI's Improved DDPM of 64 px:
           python -m purify convert improved_ddpm imagenet64_uncond_100M_1500K.pt ./priors/imagenet64
           Its 4,000 steps lie on a cosine: step 1,200 is as noisy as 150 of 1,000. For another prior such as that add
           --config.defense.start=1200 --config.defense.window=80.
`lfw`      tfds:lfw, the 62 people with 20 images or more, a fifth of them for testing; VGG-16 from VGGFace's weights
           (./weights/vggface.safetensors), google/ddpm-celebahq-256. Its recipe and tiny's are ours; no paper has them.
           With prior=train or poisoned the prior is of 64 px: images are shrunk to it and enlarged again, and lose what is finer.

Two baselines are told the rate, as for the paper's Table 1, for they cannot find more than they remove: ABL isolates that share of
all images, Spectral removes 1.5 times the poisoned share of the target class from every class, at most a half. Where a flag sets
--config.attack.rate, set --config.defense.share or .remove too.

Sweeps: attack (for the digits), table1; rates, targets, labels (Figure 8); start, rounds, kept, tau (Figure 3); selection and
labelling (Figure 10); prior (Table 4's poisoned one; Table 3: give prior= a similar or foreign one); residual (Table 5);
evaluations (what fewer steps cost; of the fast chain, and exact once). start and kept are of a prior of 1,000 steps: setting=tiny
takes them with another prior= only. For Table 4's other columns train the prior once, with configs/prior.py:data=poisoned, and
give prior= its folder.
"""

from purify.config import dataelixir as study


def get_config(arg=None):
    words = study.words_of(arg)
    return study.SETTINGS[words.setting](words)


def sweep_attack():
    """Four kinds of trigger that the digits' victim learns, and a clean dataset."""
    yield from study.words_each('attack', ('usual', 'blended', 'dct', 'warp', 'none'))


def sweep_table1():
    """Nine attacks against DataElixir and four baselines."""
    return study.table1()


def sweep_rates():
    """Shares of poison."""
    return study.words_each('rate', (0.01, 0.03, 0.05, 0.07, 0.1))


def sweep_targets():
    """One, two and three target labels with a trigger each, which share the rate."""
    return study.words_each('attack', ('dataelixir_patch', 'two_patches', 'three_patches'))


def sweep_labels():
    """The target label."""
    yield from ({'config.attack.target': target} for target in (0, 2, 4, 6, 8))


def sweep_start():
    """T, how far an image is noised."""
    return study.words_each('start', (50, 100, 150, 200, 300))


def sweep_rounds():
    """n, how often."""
    return study.setting_each('rounds', (1, 3, 5, 7, 9))


def sweep_kept():
    """m, how much of the end of every round is looked at."""
    return study.kept()


def sweep_tau():
    """The share of a second label from which on there is a transition."""
    return study.setting_each('tau', (0.02, 0.06, 0.1, 0.2, 0.3))


def sweep_selection():
    """The candidate at a rank of the distance, against the image of a single round."""
    yield {'config.defense.rounds': 5}
    yield {'config.defense.rounds': 1, 'config.defense.kept': 1, 'config.defense.window': 1}


def sweep_labelling():
    """Labels by a benign model, against votes of the candidates."""
    return study.setting_each('labels', ('benign', 'vote'))


def sweep_prior():
    """The published prior, one trained on clean images, and one on the poisoned dataset itself."""
    return study.words_each('prior', ('usual', 'train', 'poisoned'))


def sweep_residual():
    """The attacker purifies his triggered test images too."""
    attacks = ('usual', 'blended', 'sample_specific', 'input_aware', 'lira')
    yield from ({'words': {'attack': attack}, 'config.evaluation.residual': True} for attack in attacks)


def sweep_evaluations():
    """The network is asked 5 to 150 times a round, and as published."""
    return study.evaluations()
