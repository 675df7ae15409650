import numpy as np
import pytest
from flax import nnx
from models.resnet_test import shuffle_values
from safetensors.numpy import save_file

from purify.core.errors import UserError
from purify.models import efficientnet
from purify.models.efficientnet import EfficientNet
from purify.models.foreign import NAMES, check_foreign, read_foreign
from purify.models.resnet import ResNet
from purify.models.vgg import VGG
from purify.models.weights import abstract

BUILDS = {
    'basic': lambda rngs, k=5: ResNet(stages=(1, 2), block='basic', stem='imagenet', width=4, num_classes=k, channels=3, rngs=rngs),
    'bottleneck': lambda rngs, k=5: ResNet(stages=(1, 1), block='bottleneck', width=4, num_classes=k, channels=3, rngs=rngs),
    'efficientnet': lambda rngs, k=5: EfficientNet(width=0.25, num_classes=k, channels=3, rngs=rngs),
    'vgg': lambda rngs, k=5: VGG(stages=(1, 2), width=4, hidden=6, num_classes=k, channels=3, rngs=rngs),
    'vgg_bn': lambda rngs, k=5: VGG(stages=(1, 2), width=4, hidden=6, norm='batch', num_classes=k, channels=3, rngs=rngs),
}


@pytest.fixture(autouse=True)
def short(monkeypatch):
    """An EfficientNet of three blocks in place of seven stages."""
    monkeypatch.setattr(efficientnet, 'STAGES', ((1, 3, 1, 32, 1), (6, 5, 2, 64, 2)))


LAYOUTS = [
    ('basic', 'torchvision'), ('bottleneck', 'torchvision'), ('efficientnet', 'torchvision'), ('efficientnet', 'timm'),
    ('vgg', 'torchvision'), ('vgg_bn', 'timm'), ('vgg', 'Oxford'),
]  # fmt: skip
LEAVES = {'kernel': 'weight', 'scale': 'weight', 'mean': 'running_mean', 'var': 'running_var'}


def leaves(network):
    return {path: np.asarray(x[...]) for path, x in nnx.to_flat_state(nnx.state(network, nnx.Any(nnx.Param, nnx.BatchStat)))}


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
        out[f'{names[".".join(map(str, path[:-1]))]}.{LEAVES.get(path[-1], path[-1])}'] = np.ascontiguousarray(value)
    return out


def made(kind, layout):
    network = BUILDS[kind](nnx.Rngs(0))
    shuffle_values(network)
    return network, exported(network, layout)


@pytest.mark.parametrize(('kind', 'layout'), LAYOUTS)
def test_every_value_finds_its_place(tmp_path, kind, layout):
    network, tensors = made(kind, layout)
    save_file(tensors, tmp_path / 'weights.safetensors')
    read = abstract(BUILDS[kind])
    assert not read_foreign(read, tmp_path / 'weights.safetensors').headless
    wanted, got = leaves(network), leaves(read)
    assert wanted.keys() == got.keys()
    for path, value in wanted.items():
        np.testing.assert_array_equal(got[path], value, err_msg=str(path))


@pytest.mark.parametrize('kind', ['basic', 'efficientnet', 'vgg'])
def test_a_head_for_other_classes_stays_as_it_is(tmp_path, kind):
    network, tensors = made(kind, 'torchvision')
    save_file(tensors, tmp_path / 'weights.safetensors')
    read = BUILDS[kind](nnx.Rngs(3), 7)
    before = leaves(read)
    assert read_foreign(read, tmp_path / 'weights.safetensors').headless
    for path, value in leaves(read).items():
        np.testing.assert_array_equal(value, before[path] if path[0] == 'head' else leaves(network)[path])
    headless = {name: value for name, value in tensors.items() if not name.startswith(('fc.', 'classifier.1.', 'classifier.6.'))}
    save_file(headless, tmp_path / 'headless.safetensors')
    assert check_foreign(read, tmp_path / 'headless.safetensors').headless


def test_all_that_does_not_fit_is_named_at_once(tmp_path):
    _, tensors = made('basic', 'torchvision')
    del tensors['bn1.running_var']
    tensors |= {'layer9.0.conv1.weight': np.zeros(3, np.float32), 'layer1.0.bn1.bias': np.zeros(9, np.float32)}
    save_file(tensors, tmp_path / 'weights.safetensors')
    wanted = (
        r'1 missing: bn1.running_var; 1 unknown: layer9.0.conv1.weight; 1 of another shape: layer1.0.bn1.bias \(\(9,\), .*\(4,\)'
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
    with pytest.raises(UserError, match='pickled weights can run code'):
        check_foreign(network, tmp_path / 'weights.pth')
    with pytest.raises(UserError, match='not a Linear'):
        check_foreign(nnx.Linear(2, 3, rngs=nnx.Rngs(0)), tmp_path / 'nan.safetensors')
