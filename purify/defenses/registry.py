"""The defences by name."""

from collections.abc import Callable
from functools import partial

from purify.core.registry import Registry
from purify.defenses.castle_walls.diffusion_classifier import DiffusionClassifier
from purify.defenses.castle_walls.generation import Generation
from purify.defenses.dataelixir.method import DataElixir
from purify.defenses.filters.activation_clustering import ActivationClustering
from purify.defenses.filters.score_filter import SCORES, ScoreFilter, score
from purify.defenses.filters.spectral import Spectral
from purify.defenses.method import Defense
from purify.defenses.none import NoDefense
from purify.defenses.purifiers.variations import Variations
from purify.defenses.relabelling.method import Relabelling
from purify.defenses.trainers.abl import AntiBackdoor
from purify.defenses.trainers.asd import AdaptiveSplitting
from purify.defenses.trainers.augmentations import Augmentations
from purify.defenses.trainers.dbd import Decoupling
from purify.defenses.trainers.nad import AttentionDistillation

DEFENSES: Registry[Callable[..., Defense]] = Registry(
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
    generation=Generation,
    diffusion_classifier=DiffusionClassifier,
)
DEFENSES.update({name: partial(ScoreFilter, name, score=score(name)) for name in SCORES})
