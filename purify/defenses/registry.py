"""The defences by name."""

from functools import partial

from purify.core.registry import Registry
from purify.defenses.abl import AntiBackdoor
from purify.defenses.activation_clustering import ActivationClustering
from purify.defenses.asd import AdaptiveSplitting
from purify.defenses.dataelixir import DataElixir
from purify.defenses.dbd import Decoupling
from purify.defenses.diffusion_classifier import DiffusionClassifier
from purify.defenses.generation import Generation
from purify.defenses.nad import AttentionDistillation
from purify.defenses.relabel import Relabelling
from purify.defenses.scored import SCORES, Scored
from purify.defenses.spectral import Spectral
from purify.defenses.students import Augmentations, NoDefense
from purify.defenses.variations import Variations

DEFENSES = Registry(
    'defense',
    none=NoDefense,
    augmentations=Augmentations,
    variations=Variations,
    dataelixir=DataElixir,
    relabel=Relabelling,
    abl=AntiBackdoor,
    activation_clustering=ActivationClustering,
    spectral=Spectral,
    dbd=Decoupling,
    asd=AdaptiveSplitting,
    nad=AttentionDistillation,
    **{name: partial(Scored, name) for name in SCORES},
    generation=Generation,
    diffusion_classifier=DiffusionClassifier,
)
