"""The part `student` of a config as a trainer is handed it: with all that it must leave out."""

from purify.models.classifiers.registry import NETWORKS
from purify.stages.train_classifier import classifier
from purify.train.objectives.registry import OBJECTIVES
from purify.train.optim import OPTIMIZERS


def student(**optim):
    """A student of few parameters; `optim` of its SGD."""
    steps = {'schedule': 'step', 'drops': (0.3, 0.5), 'factor': 0.1}
    part = classifier(
        NETWORKS.part('resnet', width=4),
        OPTIMIZERS.part('sgd', lr=0.3, **steps, **optim),
        epochs=7,
        batch=16,
        augment={'flip': {'p': 0.5}},
    )
    more = {'init_from': 'pretrained', 'load': 'finished'}
    return part | {'objective': OBJECTIVES.part('distill'), **more}
