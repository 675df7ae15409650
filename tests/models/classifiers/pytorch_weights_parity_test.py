"""What torchvision and timm compute with their files, we compute with them.

Needs the `parity` extra with torchvision or timm.
"""

import numpy as np
import pytest
from flax import nnx

from purify.models.classifiers.pytorch_weights import read_foreign
from purify.models.classifiers.registry import NETWORKS
from purify.models.files.weights import abstract

pytestmark = pytest.mark.long

torch = pytest.importorskip('torch', reason='the parity extra (torch) is not installed')


def theirs_of(library, name, **options):
    if library == 'torchvision':
        models = pytest.importorskip('torchvision', reason='torchvision is not installed').models
        return getattr(models, name)(weights=None, **options)
    timm = pytest.importorskip('timm', reason='timm is not installed')
    return timm.create_model(name, pretrained=False, **options)


def shuffle_values(network, seed=0):
    """Gives weights and statistics values of their own that keep the activations near 1."""
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in network.state_dict().items():
            if value.ndim > 1:
                gain = torch.tensor(2.0 / value[0].numel()).sqrt()
                value.copy_(torch.randn(value.shape, generator=draw) * gain)
            elif name.endswith(('running_var', 'weight')):
                value.copy_(torch.rand(value.shape, generator=draw) * 0.6 + 0.7)
            elif value.is_floating_point():
                value.copy_(torch.randn(value.shape, generator=draw) * 0.1)


@pytest.mark.parametrize(
    ('library', 'name', 'size'),
    [
        ('torchvision', 'resnet18', (64, 48)),
        ('torchvision', 'resnet50', (64, 64)),
        ('torchvision', 'densenet121', (64, 75)),
        ('torchvision', 'efficientnet_b0', (64, 75)),
        ('torchvision', 'efficientnet_b4', (64, 64)),
        ('torchvision', 'vgg16', (64, 70)),  # 2 x 2 maps on a grid of 7 x 7
        ('torchvision', 'vgg16_bn', (288, 256)),
        ('timm', 'resnet34', (64, 64)),
        ('timm', 'densenet121', (96, 64)),
        ('timm', 'efficientnet_b0', (64, 64)),
        ('timm', 'efficientnet_b4', (75, 64)),
        ('timm', 'vgg16', (224, 224)),
    ],
)
def test_logits_and_features_agree(tmp_path, library, name, size):
    from safetensors.torch import save_file

    theirs = theirs_of(library, name).eval()
    shuffle_values(theirs)
    save_file(theirs.state_dict(), tmp_path / 'weights.safetensors')
    stem = {'stem': 'imagenet'} if name.startswith(('resnet', 'densenet')) else {}
    ours = abstract(
        lambda rngs: NETWORKS.make(name, num_classes=1000, channels=3, **stem, rngs=rngs)
    )
    assert not read_foreign(ours, tmp_path / 'weights.safetensors').headless
    head = [module for module in theirs.modules() if isinstance(module, torch.nn.Linear)][-1]
    seen = []
    head.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    x = np.random.default_rng(0).random((2, *size, 3), np.float32)
    with torch.no_grad():
        logits = theirs(torch.from_numpy(x.transpose(0, 3, 1, 2))).numpy()
    both = nnx.jit(lambda network, x: (network(x, train=False), network.features(x, train=False)))
    for got, wanted in zip(both(ours, x), (logits, seen[0].numpy()), strict=True):
        assert np.abs(np.asarray(got) - wanted).max() < 1e-4 * np.abs(wanted).max()
        assert wanted.std() > 1e-3 * np.abs(wanted).max()


@pytest.mark.parametrize('name', ['efficientnet_b0', 'efficientnet_b4'])
def test_branches_are_dropped_as_often(name):
    theirs = theirs_of('torchvision', name)
    rates = [module.p for module in theirs.modules() if type(module).__name__ == 'StochasticDepth']
    ours = abstract(lambda rngs: NETWORKS.make(name, num_classes=1000, channels=3, rngs=rngs))
    np.testing.assert_allclose([block.rate for block in ours.blocks], rates, rtol=1e-12)
    assert ours.dropout == theirs.classifier[0].p
