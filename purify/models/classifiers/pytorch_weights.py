"""Reads weights of classifiers as PyTorch libraries name them, from a safetensors file.

It knows the layouts of torchvision and timm, of VGG also that of Oxford's VGGFace, and SSCD's.
timm's `efficientnet_b4` and the like are PyTorch's own variety; its `tf_*` ones have the same names
and shapes, but pad otherwise and have another epsilon, and would be read without complaint into a
network that they do not fit. Pickled weights are never opened.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from flax import nnx

from purify.core.errors import UserError
from purify.models.classifiers.classifier import ClassifierNetwork
from purify.models.classifiers.densenet import DenseNet
from purify.models.classifiers.efficientnet import EfficientNet
from purify.models.classifiers.resnet import ResNet
from purify.models.classifiers.sscd import PREFIX, SSCD
from purify.models.classifiers.vgg import GRID, VGG
from purify.models.files.folders import PICKLES, conversion
from purify.models.files.tensors import Tensors

SUFFIX = '.safetensors'
HEAD = 'head'
Names = dict[str, str]  # our layer -> the file's
Path_ = tuple[Any, ...]  # of an array in a network
_LEAVES = {'kernel': 'weight', 'scale': 'weight', 'mean': 'running_mean', 'var': 'running_var'}


def _places(depths: tuple[int, ...]) -> list[tuple[int, int]]:
    """(stage, number in it) of every block."""
    return [(stage, number) for stage, depth in enumerate(depths) for number in range(depth)]


def resnet_names(network: ResNet) -> dict[str, Names]:
    """Names of the layers in the files of torchvision, which are also timm's."""
    names = {'stem': 'conv1', 'stem_norm.layer': 'bn1', HEAD: 'fc'}
    for index, (stage, number) in enumerate(_places(network.stages)):
        ours, theirs = f'blocks.{index}.', f'layer{stage + 1}.{number}.'
        for part in range(len(network.blocks[index].convs)):
            names[f'{ours}convs.{part}'] = f'{theirs}conv{part + 1}'
            names[f'{ours}norms.{part}.layer'] = f'{theirs}bn{part + 1}'
        if network.blocks[index].shortcut is not None:
            names[f'{ours}shortcut'] = f'{theirs}downsample.0'
            names[f'{ours}shortcut_norm.layer'] = f'{theirs}downsample.1'
    return {'torchvision': names}


def sscd_names(network: SSCD) -> dict[str, Names]:
    """Names of the layers in torchvision, and in the files that SSCD publishes."""
    plain = resnet_names(network)['torchvision']
    published = {ours: PREFIX + theirs for ours, theirs in plain.items()}
    return {'torchvision': plain, 'published': published}


def densenet_names(network: DenseNet) -> dict[str, Names]:
    """Names of the layers in torchvision and timm, and in the older files torchvision publishes."""
    theirs = {'stem': 'features.conv0', 'last_norm.layer': 'features.norm5', HEAD: 'classifier'}
    if network.stem_norm is not None:
        theirs['stem_norm.layer'] = 'features.norm0'
    for number in range(len(network.transitions)):
        ours, step = f'transitions.{number}', f'features.transition{number + 1}.'
        theirs |= {f'{ours}.norm.layer': step + 'norm', f'{ours}.conv': step + 'conv'}
    published = dict(theirs)
    for index, (stage, number) in enumerate(_places(network.stages)):
        step = f'features.denseblock{stage + 1}.denselayer{number + 1}.'
        for part in range(2):
            convolution, norm = f'blocks.{index}.convs.{part}', f'blocks.{index}.norms.{part}.layer'
            theirs |= {convolution: f'{step}conv{part + 1}', norm: f'{step}norm{part + 1}'}
            published |= {convolution: f'{step}conv.{part + 1}', norm: f'{step}norm.{part + 1}'}
    return {'torchvision': theirs, 'published': published}


def efficientnet_names(network: EfficientNet) -> dict[str, Names]:
    """Names of the layers in the files of torchvision and of timm."""
    last = len(network.stages) + 1
    theirs = {'stem': 'features.0.0', 'last': f'features.{last}.0', HEAD: 'classifier.1'}
    theirs |= {'stem_norm.layer': 'features.0.1', 'last_norm.layer': f'features.{last}.1'}
    timm = {'stem': 'conv_stem', 'last': 'conv_head', HEAD: 'classifier'}
    timm |= {'stem_norm.layer': 'bn1', 'last_norm.layer': 'bn2'}
    for index, (stage, number) in enumerate(_places(network.stages)):
        wide = len(network.blocks[index].widen)
        parts = [('widen.0', 'widen_norms.0', 'conv_pw')] if wide else []
        parts.append(('depthwise', 'depthwise_norm', 'conv_dw'))
        parts.append(('project', 'project_norm', 'conv_pwl' if wide else 'conv_pw'))
        ours = f'blocks.{index}.'
        for place, (conv, norm, timm_conv) in enumerate(parts):
            # The gate comes before the last.
            step = f'features.{stage + 1}.{number}.block.{place + (conv == "project")}.'
            theirs |= {ours + conv: step + '0', f'{ours}{norm}.layer': step + '1'}
            step = f'blocks.{stage}.{number}.'
            timm |= {ours + conv: step + timm_conv, f'{ours}{norm}.layer': f'{step}bn{place + 1}'}
        gate = f'features.{stage + 1}.{number}.block.{wide + 1}.'
        theirs |= {f'{ours}gate.squeeze': gate + 'fc1', f'{ours}gate.excite': gate + 'fc2'}
        gate = f'blocks.{stage}.{number}.se.'
        timm[f'{ours}gate.squeeze'] = gate + 'conv_reduce'
        timm[f'{ours}gate.excite'] = gate + 'conv_expand'
    return {'torchvision': theirs, 'timm': timm}


def vgg_names(network: VGG) -> dict[str, Names]:
    """Names of the layers in the files of torchvision, timm and Oxford."""
    places = _places(network.stages)
    layers, step = {}, 3 if network.norms else 2  # convolution, norm, relu; and one pool per stage
    for index, (stage, _) in enumerate(places):
        layers[f'convs.{index}'] = f'features.{index * step + stage}'
        if network.norms:
            layers[f'norms.{index}.layer'] = f'features.{index * step + stage + 1}'
    oxford = {f'convs.{k}': f'conv{stage + 1}_{n + 1}' for k, (stage, n) in enumerate(places)}

    def top(*names: str) -> Names:
        return dict(zip(('hiddens.0', 'hiddens.1', HEAD), names, strict=True))

    return {
        'torchvision': layers | top('classifier.0', 'classifier.3', 'classifier.6'),
        'timm': layers | top('pre_logits.fc1', 'pre_logits.fc2', 'head.fc'),
        'Oxford': oxford | top('fc6', 'fc7', 'fc8'),
    }


NAMES: dict[type, Callable[[Any], dict[str, Names]]] = {
    ResNet: resnet_names,
    SSCD: sscd_names,
    DenseNet: densenet_names,
    EfficientNet: efficientnet_names,
    VGG: vgg_names,
}


@dataclass(frozen=True)
class Placement:
    """How a file fits a network: its name for each array; a `headless` one has no fitting head."""

    names: dict[Path_, str]
    headless: bool


def check_foreign(network: ClassifierNetwork, file: str | Path) -> Placement:
    """Finds how a safetensors `file` fits `network` (arrays or shapes) from its header alone.

    The head alone may be left out: where the file has none, or one of other classes. Raises one
    `UserError` with all tensors that are missing, unknown or of another shape.
    """
    file = Path(file)
    if file.suffix in PICKLES:
        raise UserError(f'{file}: {conversion(file)}')
    if type(network) not in NAMES:
        raise UserError(
            f'{file}: weights of other libraries are read into'
            f' {", ".join(c.__name__ for c in NAMES)}, not a {type(network).__name__}.'
        )
    shapes = Tensors([file]).shapes()
    layers = {name.rpartition('.')[0] for name in shapes}
    layouts = NAMES[type(network)](network).values()
    layout = max(layouts, key=lambda names: len(layers & set(names.values())))
    classes = network.head.out_features
    headless = shapes.get(f'{layout[HEAD]}.weight', ())[:1] != (classes,)
    names, missing, misshapen, known = {}, [], [], set()
    for path, variable in nnx.to_flat_state(nnx.state(network, nnx.Any(nnx.Param, nnx.BatchStat))):
        layer, leaf = '.'.join(map(str, path[:-1])), str(path[-1])
        name = f'{layout.get(layer, layer)}.{_LEAVES.get(leaf, leaf)}'
        known.add(name)
        if layer == HEAD and headless:
            continue
        expected = _theirs(path, variable.get_value().shape)
        if name not in shapes:
            missing.append(name)
        elif not _same(path, shapes[name], expected):
            misshapen.append(f'{name} ({shapes[name]}, the network has {expected})')
        names[path] = name
    unknown = [name for name in shapes if name not in known]
    faults = {'missing': missing, 'unknown': unknown, 'of another shape': misshapen}
    told = [
        f'{len(those)} {what}: {", ".join(those[:6])}{", ..." if those[6:] else ""}'
        for what, those in faults.items()
        if those
    ]
    if told:
        raise UserError(
            f'{file}: does not fit this {type(network).__name__}; {"; ".join(told)}. Choose the'
            ' network it was made for.'
        )
    return Placement(names, headless)


def read_foreign(network: ClassifierNetwork, file: str | Path) -> Placement:
    """Fills `network` (arrays or shapes) from a safetensors file, on the host.

    The head stays as it is where the file is `headless`. Raises `UserError` for what does not fit
    (`check_foreign`) and for tensors with NaN or infinity.
    """
    fit, tensors = check_foreign(network, file), Tensors([Path(file)])
    variables = dict(nnx.to_flat_state(nnx.state(network, nnx.Any(nnx.Param, nnx.BatchStat))))
    filled = []
    for path, name in fit.names.items():
        array = tensors[name]
        if not np.isfinite(array).all():
            raise UserError(f'{file}: {name} holds NaN or infinity. Download or convert it again.')
        array = _ours(path, array.reshape(_theirs(path, variables[path].get_value().shape)))
        filled.append((path, variables[path].replace(array)))
    nnx.update(network, nnx.from_flat_state(filled))
    return fit


def _theirs(path: Path_, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Our shape -> PyTorch's."""
    return shape if path[-1] != 'kernel' else (*shape[:-3:-1], *shape[:-2])


def _same(path: Path_, given: tuple[int, ...], expected: tuple[int, ...]) -> bool:
    """Whether both hold the same; hidden layers are also stored as convolutions over the grid."""
    return given == expected or (
        path[0] == 'hiddens'
        and given[:1] == expected[:1]
        and math.prod(given) == math.prod(expected)
    )


def _ours(path: Path_, array: np.ndarray) -> np.ndarray:
    """PyTorch's layout -> ours; the first hidden layer reads channels first there, last here."""
    if path[-1] != 'kernel':
        return array
    if path[:2] == ('hiddens', 0):
        cells = array.reshape(len(array), -1, GRID, GRID).transpose(0, 2, 3, 1)
        array = cells.reshape(len(array), -1)
    return np.ascontiguousarray(array.transpose(*range(2, array.ndim), 1, 0))
