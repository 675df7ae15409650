"""The classifier networks by name, and the means and deviations that normalise their images."""

from collections.abc import Callable

from purify.core.registry import Fixed, Registry
from purify.core.types import Facts
from purify.models.classifiers.classifier import ClassifierNetwork
from purify.models.classifiers.densenet import DenseNet
from purify.models.classifiers.efficientnet import EfficientNet
from purify.models.classifiers.fast import FastNet
from purify.models.classifiers.resnet import ResNet
from purify.models.classifiers.vgg import VGG

# Of an image in [0, 1], by channel: what networks subtract and divide by.
CIFAR_SCALE: Facts = {'mean': (0.4914, 0.4822, 0.4465), 'std': (0.247, 0.243, 0.261)}
IMAGENET_SCALE: Facts = {'mean': (0.485, 0.456, 0.406), 'std': (0.229, 0.224, 0.225)}

_DENSENET: Facts = {'growth': 32, 'bottleneck': 4, 'compression': 0.5, 'norm': 'batch'}
_VGG: Facts = {'stages': (2, 2, 3, 3, 3), 'width': 64, 'hidden': 4096, 'dropout': 0.5}

NETWORKS: Registry[Callable[..., ClassifierNetwork]] = Registry(
    'network',
    # Without the last two images stay in [0, 1].
    hidden=('num_classes', 'channels', 'rngs', 'mean', 'std'),
    resnet=ResNet,
    resnet18=Fixed(ResNet, stages=(2, 2, 2, 2), block='basic'),
    resnet34=Fixed(ResNet, stages=(3, 4, 6, 3), block='basic'),
    resnet50=Fixed(ResNet, stages=(3, 4, 6, 3), block='bottleneck'),
    resnet101=Fixed(ResNet, stages=(3, 4, 23, 3), block='bottleneck'),
    resnet152=Fixed(ResNet, stages=(3, 8, 36, 3), block='bottleneck'),
    preact_resnet18=Fixed(ResNet, stages=(2, 2, 2, 2), block='preact'),
    densenet=DenseNet,
    densenet121=Fixed(DenseNet, stages=(6, 12, 24, 16), **_DENSENET),
    efficientnet=EfficientNet,
    efficientnet_b0=Fixed(EfficientNet, width=1.0, depth=1.0, dropout=0.2, drop_path=0.2),
    efficientnet_b4=Fixed(EfficientNet, width=1.4, depth=1.8, dropout=0.4, drop_path=0.2),
    fast=FastNet,
    vgg=VGG,
    vgg16=Fixed(VGG, norm='none', **_VGG),
    vgg16_bn=Fixed(VGG, norm='batch', **_VGG),
)
