"""The parts of a config that train something: optimisers, networks, objectives, classifiers."""

from typing import Any

from ml_collections import ConfigDict

# of an image in [0, 1], by channel: what networks subtract and divide by
CIFAR_SCALE: dict[str, Any] = {'mean': (0.4914, 0.4822, 0.4465), 'std': (0.247, 0.243, 0.261)}
IMAGENET_SCALE: dict[str, Any] = {'mean': (0.485, 0.456, 0.406), 'std': (0.229, 0.224, 0.225)}


def optim(name: str = 'adam', *, lr: float = 1e-3, schedule: str = 'cosine', **changes: Any) -> ConfigDict:
    """An optimiser and its learning-rate schedule; `warmup` and `drops` are shares of the run."""
    own = {
        'adam': {'b1': 0.9, 'b2': 0.999},
        'adamw': {'b1': 0.9, 'b2': 0.999, 'weight_decay': 1e-4},
        'lars': {'momentum': 0.9, 'weight_decay': 1e-6, 'trust_coefficient': 1e-3},
        'sgd': {'momentum': 0.9, 'nesterov': False, 'weight_decay': 5e-4},
    }
    if name not in own:
        raise ValueError(f'optim={name!r}: choose from {", ".join(sorted(own))}.')
    steps = {'drops': (0.3, 0.5), 'factor': 0.1} if schedule == 'step' else {}
    return ConfigDict({'name': name, 'lr': lr, 'schedule': schedule, 'warmup': 0.0, 'clip': 0.0} | own[name] | steps | changes)


def network(name: str, *, stem: str = 'small', **changes: Any) -> ConfigDict:
    """A classifier: 'resnet18', ..., 'preact_resnet18', 'resnet' with its own stages and block, or another family's by name.

    ResNets and DenseNets begin with a `stem` for 'small' images (32 px) or for those of 'imagenet' (224 px); other families have
    one alone, whatever `stem` says.
    """
    free = {'stages': (1, 1, 1), 'block': 'preact'} if name == 'resnet' else {}
    family = {'stem': stem} if 'resnet' in name or 'densenet' in name else {}
    family |= {'width': 64, 'norm': 'batch'} if 'resnet' in name else {}
    return ConfigDict({'name': name, 'dtype': 'float32'} | family | free | changes)


def classify(label_smoothing: float = 0.0) -> ConfigDict:
    """Objective: cross-entropy."""
    return ConfigDict({'name': 'classify', 'label_smoothing': label_smoothing})


def adversarial(eps: float = 8.0, step: float = 2.0, iterations: int = 5) -> ConfigDict:
    """Objective: cross-entropy on images made hard within `eps` grey levels; for the surrogate of an attacker."""
    return ConfigDict({'name': 'adversarial', 'eps': eps, 'step': step, 'iterations': iterations, 'label_smoothing': 0.0})


def distill(alpha: float = 0.5, tau: float = 5.0, ce_temperature: float = 1.0) -> ConfigDict:
    """Objective: knowledge distillation from the teacher (Struppek 2023, eqs. 2 and 3)."""
    return ConfigDict({'name': 'distill', 'alpha': alpha, 'tau': tau, 'ce_temperature': ce_temperature})


def classifier(
    network: ConfigDict, optim: ConfigDict, *, epochs: float, batch: int, augment: dict[str, Any], objective: ConfigDict
) -> ConfigDict:
    """A classifier and how it is trained. `init_from` starts from a checkpoint, `load` takes a finished one instead."""
    return ConfigDict(
        {
            'network': network,
            'optim': optim,
            'epochs': epochs,
            'steps': 0,
            'batch': batch,
            'accumulate': 1,
            'augment': augment,
            'objective': objective,
            'init_from': '',
            'load': '',
        }
    )


def small_classifier(augment: dict[str, Any], objective: ConfigDict, epochs: float) -> ConfigDict:
    """A 3-stage ResNet of width 16 with AdamW: the digits' teacher and student, for a CPU."""
    small = network('resnet', stages=(1, 1, 1), block='preact', width=16, norm='group')
    return classifier(small, optim('adamw', lr=3e-3), epochs=epochs, batch=64, augment=augment, objective=objective)
