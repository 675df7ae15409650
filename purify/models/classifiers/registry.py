"""The classifier networks by name."""

import functools

from purify.core.registry import Registry
from purify.models.classifiers.densenet import DenseNet
from purify.models.classifiers.efficientnet import EfficientNet
from purify.models.classifiers.resnet import ResNet
from purify.models.classifiers.vgg import VGG

NETWORKS = Registry(
    'network',
    resnet=ResNet,
    resnet18=functools.partial(ResNet, stages=(2, 2, 2, 2), block='basic'),
    resnet34=functools.partial(ResNet, stages=(3, 4, 6, 3), block='basic'),
    resnet50=functools.partial(ResNet, stages=(3, 4, 6, 3), block='bottleneck'),
    resnet101=functools.partial(ResNet, stages=(3, 4, 23, 3), block='bottleneck'),
    resnet152=functools.partial(ResNet, stages=(3, 8, 36, 3), block='bottleneck'),
    preact_resnet18=functools.partial(ResNet, stages=(2, 2, 2, 2), block='preact'),
    densenet=DenseNet,
    densenet121=functools.partial(DenseNet, stages=(6, 12, 24, 16), growth=32),
    efficientnet=EfficientNet,
    efficientnet_b0=functools.partial(EfficientNet, width=1.0, depth=1.0, dropout=0.2),
    efficientnet_b4=functools.partial(EfficientNet, width=1.4, depth=1.8, dropout=0.4),
    vgg=VGG,
    vgg16=functools.partial(VGG, stages=(2, 2, 3, 3, 3), norm='none'),
    vgg16_bn=functools.partial(VGG, stages=(2, 2, 3, 3, 3), norm='batch'),
)
