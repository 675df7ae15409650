"""The defences by name, and the rules their steps are made of."""

from functools import partial

from purify.core.registry import Registry
from purify.defenses.abl import AntiBackdoor, LowestLosses
from purify.defenses.activation_clustering import ActivationClustering
from purify.defenses.asd import AdaptiveSplitting, EasiestByClass, EasiestOfAll
from purify.defenses.candidates import Candidates, Remake
from purify.defenses.cognitive_distillation import CognitiveDistillation
from purify.defenses.dataelixir import DataElixir
from purify.defenses.dbd import Credible, Decoupling, Guessed
from purify.defenses.diffusion_classifier import DiffusionClassifier
from purify.defenses.fct import FeatureConsistency
from purify.defenses.generation import Generation
from purify.defenses.measures import Embeddings, Features, Predictions
from purify.defenses.nad import AttentionDistillation
from purify.defenses.relabel import Relabel, Relabelling
from purify.defenses.scored import SCORES, HighestScores, Scored, score
from purify.defenses.spectral import Spectral
from purify.defenses.strip import Strip
from purify.defenses.students import Augmentations, NoDefense
from purify.defenses.variations import Variations
from purify.defenses.verdicts import LabelTransition, LeftOut, TrueLabels

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
    generation=Generation,
    diffusion_classifier=DiffusionClassifier,
)
DEFENSES.update({name: partial(Scored, name, score=score(name)) for name in SCORES})

# The protocols of the three are in `purify.defenses.method`.
MEASURES = Registry(
    'measure',
    candidates=Candidates,
    cognitive_distillation=CognitiveDistillation,
    embeddings=Embeddings,
    fct=FeatureConsistency,
    features=Features,
    predictions=Predictions,
    strip=Strip,
)
DECISIONS = Registry(
    'decision',
    label_transition=LabelTransition,
    left_out=LeftOut,
    true_labels=TrueLabels,
    activation_clustering=ActivationClustering,
    lowest_losses=LowestLosses,
    relabel=Relabel,
    spectral=Spectral,
    highest_scores=HighestScores,
    credible=Credible,
    guessed=Guessed,
    easiest_by_class=EasiestByClass,
    easiest_of_all=EasiestOfAll,
)
PURIFIERS = Registry('purifier', variations=Variations, remade=Remake)
