import numpy as np
import pytest
from flax import nnx
from models.classifiers.resnet_test import shuffle_values
from safetensors.numpy import save_file

from purify.core.errors import UserError
from purify.models.classifiers import efficientnet
from purify.models.classifiers.densenet import DenseNet
from purify.models.classifiers.efficientnet import EfficientNet
from purify.models.classifiers.pytorch_weights import NAMES, check_foreign, read_foreign
from purify.models.classifiers.registry import NETWORKS
from purify.models.classifiers.resnet import ResNet
from purify.models.classifiers.vgg import VGG
from purify.models.files.weights import abstract

BUILDS = {
    'basic': lambda rngs, k=5: ResNet(
        stages=(1, 2), block='basic', stem='imagenet', width=4, num_classes=k, channels=3, rngs=rngs
    ),
    'bottleneck': lambda rngs, k=5: ResNet(
        stages=(1, 1), block='bottleneck', width=4, num_classes=k, channels=3, rngs=rngs
    ),
    'densenet': lambda rngs, k=5: DenseNet(
        stages=(1, 1), growth=4, stem='imagenet', num_classes=k, channels=3, rngs=rngs
    ),
    'efficientnet': lambda rngs, k=5: EfficientNet(
        width=0.25, num_classes=k, channels=3, rngs=rngs
    ),
    'vgg': lambda rngs, k=5: VGG(
        stages=(1, 2), width=4, hidden=6, num_classes=k, channels=3, rngs=rngs
    ),
    'vgg_bn': lambda rngs, k=5: VGG(
        stages=(1, 2), width=4, hidden=6, norm='batch', num_classes=k, channels=3, rngs=rngs
    ),
}


@pytest.fixture(autouse=True)
def short(monkeypatch):
    """An EfficientNet of three blocks in place of seven stages."""
    monkeypatch.setattr(efficientnet, 'STAGES', ((1, 3, 1, 32, 1), (6, 5, 2, 64, 2)))


LAYOUTS = [
    ('basic', 'torchvision'),
    ('bottleneck', 'torchvision'),
    ('efficientnet', 'torchvision'),
    ('efficientnet', 'timm'),
    ('vgg', 'torchvision'),
    ('vgg_bn', 'timm'),
    ('vgg', 'Oxford'),
    ('densenet', 'torchvision'),
    ('densenet', 'published'),
]
HEADS = {'basic': 'fc.', 'densenet': 'classifier.', 'efficientnet': 'classifier.1.'}
HEADS |= {'vgg': 'classifier.6.'}
LEAVES = {'kernel': 'weight', 'scale': 'weight', 'mean': 'running_mean', 'var': 'running_var'}


def leaves(network):
    return {
        path: np.asarray(x[...])
        for path, x in nnx.to_flat_state(nnx.state(network, nnx.Any(nnx.Param, nnx.BatchStat)))
    }


def exported(network, layout):
    """The network's values as PyTorch would store them: channels first, and flattened so."""
    names, out = NAMES[type(network)](network)[layout], {'bn1.num_batches_tracked': np.array(3)}
    for path, value in leaves(network).items():
        if path == ('hiddens', 0, 'kernel'):  # row, column, channel -> channel, row, column
            value = value.reshape(7, 7, -1, value.shape[-1]).transpose(2, 0, 1, 3)
            value = value if layout == 'timm' else value.reshape(-1, value.shape[-1])
            value = np.moveaxis(value, -1, 0)
        elif path[-1] == 'kernel':
            value = value.transpose(3, 2, 0, 1) if value.ndim == 4 else value.T
            value = value[:, :, None, None] if path[0] == 'hiddens' and layout == 'timm' else value
        out[f'{names[".".join(map(str, path[:-1]))]}.{LEAVES.get(path[-1], path[-1])}'] = (
            np.ascontiguousarray(value)
        )
    return out


def made(kind, layout):
    network = BUILDS[kind](nnx.Rngs(0))
    shuffle_values(network)
    return network, exported(network, layout)


@pytest.mark.parametrize(
    ('kind', 'layout'),
    [
        pytest.param(*pair, marks=pytest.mark.long if pair[0] == 'efficientnet' else ())
        for pair in LAYOUTS
    ],
)
def test_every_value_finds_its_place(tmp_path, kind, layout):
    network, tensors = made(kind, layout)
    save_file(tensors, tmp_path / 'weights.safetensors')
    read = abstract(BUILDS[kind])
    assert not read_foreign(read, tmp_path / 'weights.safetensors').headless
    wanted, got = leaves(network), leaves(read)
    assert wanted.keys() == got.keys()
    for path, value in wanted.items():
        np.testing.assert_array_equal(got[path], value, err_msg=str(path))


# (network, layout): our layers -> names copied from state_dict() of torchvision 0.28 and timm 1.0,
# from Oxford's list of layers, and ('published') from the keys that torchvision's densenet.py
# renames.
REAL = {
    ('resnet18', 'torchvision'): {
        'stem': 'conv1',
        'stem_norm.layer': 'bn1',
        'blocks.0.convs.0': 'layer1.0.conv1',
        'blocks.0.norms.1.layer': 'layer1.0.bn2',
        'blocks.2.shortcut': 'layer2.0.downsample.0',
        'blocks.2.shortcut_norm.layer': 'layer2.0.downsample.1',
        'blocks.7.convs.1': 'layer4.1.conv2',
        'head': 'fc',
    },
    ('resnet50', 'torchvision'): {
        'blocks.0.convs.2': 'layer1.0.conv3',
        'blocks.0.shortcut': 'layer1.0.downsample.0',
        'blocks.3.convs.0': 'layer2.0.conv1',
        'blocks.15.norms.2.layer': 'layer4.2.bn3',
        'head': 'fc',
    },
    ('densenet121', 'torchvision'): {
        'stem': 'features.conv0',
        'stem_norm.layer': 'features.norm0',
        'last_norm.layer': 'features.norm5',
        'head': 'classifier',
        'blocks.0.norms.0.layer': 'features.denseblock1.denselayer1.norm1',
        'blocks.0.convs.1': 'features.denseblock1.denselayer1.conv2',
        'transitions.0.norm.layer': 'features.transition1.norm',
        'blocks.6.convs.0': 'features.denseblock2.denselayer1.conv1',
        'transitions.2.conv': 'features.transition3.conv',
        'blocks.57.norms.1.layer': 'features.denseblock4.denselayer16.norm2',
    },
    ('densenet121', 'published'): {
        'blocks.0.norms.0.layer': 'features.denseblock1.denselayer1.norm.1',
        'stem': 'features.conv0',
        'blocks.0.convs.1': 'features.denseblock1.denselayer1.conv.2',
        'transitions.0.norm.layer': 'features.transition1.norm',
    },
    ('efficientnet_b0', 'torchvision'): {
        'stem': 'features.0.0',
        'stem_norm.layer': 'features.0.1',
        'blocks.0.depthwise': 'features.1.0.block.0.0',
        'blocks.0.gate.squeeze': 'features.1.0.block.1.fc1',
        'blocks.0.project': 'features.1.0.block.2.0',
        'blocks.1.widen.0': 'features.2.0.block.0.0',
        'blocks.1.depthwise_norm.layer': 'features.2.0.block.1.1',
        'blocks.1.gate.excite': 'features.2.0.block.2.fc2',
        'blocks.1.project_norm.layer': 'features.2.0.block.3.1',
        'blocks.15.project': 'features.7.0.block.3.0',
        'last': 'features.8.0',
        'last_norm.layer': 'features.8.1',
        'head': 'classifier.1',
    },
    ('efficientnet_b0', 'timm'): {
        'stem': 'conv_stem',
        'stem_norm.layer': 'bn1',
        'blocks.0.depthwise': 'blocks.0.0.conv_dw',
        'blocks.0.depthwise_norm.layer': 'blocks.0.0.bn1',
        'blocks.0.gate.squeeze': 'blocks.0.0.se.conv_reduce',
        'blocks.0.project': 'blocks.0.0.conv_pw',
        'blocks.0.project_norm.layer': 'blocks.0.0.bn2',
        'blocks.1.widen.0': 'blocks.1.0.conv_pw',
        'blocks.1.depthwise_norm.layer': 'blocks.1.0.bn2',
        'blocks.1.gate.excite': 'blocks.1.0.se.conv_expand',
        'blocks.1.project': 'blocks.1.0.conv_pwl',
        'blocks.1.project_norm.layer': 'blocks.1.0.bn3',
        'last': 'conv_head',
        'last_norm.layer': 'bn2',
        'head': 'classifier',
    },
    ('vgg16', 'torchvision'): {
        'convs.0': 'features.0',
        'convs.1': 'features.2',
        'convs.2': 'features.5',
        'convs.12': 'features.28',
        'hiddens.0': 'classifier.0',
        'hiddens.1': 'classifier.3',
        'head': 'classifier.6',
    },
    ('vgg16_bn', 'torchvision'): {
        'convs.0': 'features.0',
        'norms.0.layer': 'features.1',
        'convs.2': 'features.7',
        'convs.12': 'features.40',
        'norms.12.layer': 'features.41',
        'head': 'classifier.6',
    },
    ('vgg16', 'timm'): {
        'convs.12': 'features.28',
        'hiddens.0': 'pre_logits.fc1',
        'hiddens.1': 'pre_logits.fc2',
        'head': 'head.fc',
    },
    ('vgg16', 'Oxford'): {
        'convs.0': 'conv1_1',
        'convs.3': 'conv2_2',
        'convs.12': 'conv5_3',
        'hiddens.0': 'fc6',
        'hiddens.1': 'fc7',
        'head': 'fc8',
    },
}


@pytest.mark.long
@pytest.mark.parametrize(('name', 'layout'), REAL)
def test_names_are_those_of_the_libraries(monkeypatch, name, layout):
    monkeypatch.undo()  # all seven stages
    stem = {'stem': 'imagenet'} if name == 'densenet121' else {}
    network = abstract(
        lambda rngs: NETWORKS.make(name, num_classes=1000, channels=3, **stem, rngs=rngs)
    )
    names = NAMES[type(network)](network)[layout]
    assert REAL[name, layout].items() <= names.items()


@pytest.mark.parametrize('kind', ['basic', 'densenet', 'efficientnet', 'vgg'])
def test_a_head_for_other_classes_stays_as_it_is(tmp_path, kind):
    network, tensors = made(kind, 'torchvision')
    save_file(tensors, tmp_path / 'weights.safetensors')
    read = BUILDS[kind](nnx.Rngs(3), 7)
    before = leaves(read)
    assert read_foreign(read, tmp_path / 'weights.safetensors').headless
    for path, value in leaves(read).items():
        wanted = before[path] if path[0] == 'head' else leaves(network)[path]
        np.testing.assert_array_equal(value, wanted)
    headless = {name: value for name, value in tensors.items() if not name.startswith(HEADS[kind])}
    save_file(headless, tmp_path / 'headless.safetensors')
    assert check_foreign(read, tmp_path / 'headless.safetensors').headless


def test_all_that_does_not_fit_is_named_at_once(tmp_path):
    _, tensors = made('basic', 'torchvision')
    del tensors['bn1.running_var']
    tensors |= {
        'layer9.0.conv1.weight': np.zeros(3, np.float32),
        'layer1.0.bn1.bias': np.zeros(9, np.float32),
    }
    save_file(tensors, tmp_path / 'weights.safetensors')
    wanted = (
        r'1 missing: bn1.running_var; 1 unknown: layer9.0.conv1.weight; 1 of another shape:'
        r' layer1.0.bn1.bias \(\(9,\), .*\(4,\)'
    )
    with pytest.raises(UserError, match=wanted):
        check_foreign(abstract(BUILDS['basic']), tmp_path / 'weights.safetensors')


def test_broken_and_pickled_files_and_networks_of_ones_own_are_refused(tmp_path):
    network, tensors = made('basic', 'torchvision')
    tensors['conv1.weight'][0, 0, 0, 0] = np.nan
    save_file(tensors, tmp_path / 'nan.safetensors')
    with pytest.raises(UserError, match=r'conv1.weight holds NaN'):
        read_foreign(network, tmp_path / 'nan.safetensors')
    (tmp_path / 'cut.safetensors').write_bytes(b'0123456789')
    with pytest.raises(UserError, match='not a readable safetensors'):
        check_foreign(network, tmp_path / 'cut.safetensors')
    with pytest.raises(UserError, match=r'Pickled weights can run code.*weights\.pth`'):
        check_foreign(network, tmp_path / 'weights.pth')
    with pytest.raises(UserError, match='is a folder, where a file of weights should be'):
        check_foreign(network, tmp_path)
    save_file(tensors | {'fc.weight': np.array(3, np.float32)}, tmp_path / 'scalar.safetensors')
    assert check_foreign(network, tmp_path / 'scalar.safetensors').headless
    with pytest.raises(UserError, match='not a Linear'):
        check_foreign(nnx.Linear(2, 3, rngs=nnx.Rngs(0)), tmp_path / 'nan.safetensors')
