"""What PyTorch computes with SSCD's weights, we compute with them.

Needs the `parity` extra with torchvision.
"""

import numpy as np
import pytest

from purify.generative.sscd_encoder import CopyEncoder

pytestmark = pytest.mark.long

torch = pytest.importorskip('torch', reason='the parity extra (torch) is not installed')
torchvision = pytest.importorskip('torchvision', reason='torchvision is not installed')


class GeneralisedMean(torch.nn.Module):
    def forward(self, maps):
        return maps.clamp(min=1e-6).pow(3).mean((2, 3)).pow(1 / 3)


def theirs_of(layers):
    from models.classifiers.pytorch_weights_parity_test import shuffle_values

    network = torchvision.models.resnet.ResNet(
        torchvision.models.resnet.Bottleneck, layers, num_classes=512
    )
    network.avgpool = GeneralisedMean()
    shuffle_values(network)
    return network.eval()


@pytest.mark.parametrize('prefix', ['', 'backbone.'])
def test_descriptors_agree(tmp_path, prefix):
    from PIL import Image
    from safetensors.torch import save_file

    theirs = theirs_of([1, 1, 1, 1])
    save_file(
        {prefix + name: value for name, value in theirs.state_dict().items()},
        tmp_path / 'sscd.safetensors',
    )
    images = np.random.default_rng(0).integers(0, 256, (2, 300, 340, 3), np.uint8)
    steps = torchvision.transforms.Compose(
        [
            torchvision.transforms.Resize(288),
            torchvision.transforms.ToTensor(),
            torchvision.transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
        ]
    )
    with torch.no_grad():
        seen = torch.stack([steps(Image.fromarray(image)) for image in images])
        expected = torch.nn.functional.normalize(theirs(seen)).numpy()
    encoder = CopyEncoder.from_file(tmp_path / 'sscd.safetensors')
    found = np.asarray(encoder.embed(encoder.weights, images.astype(np.float32) / 255))
    assert found.shape == (2, 512)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)
    np.testing.assert_allclose((found * expected).sum(-1), 1, atol=1e-6)
