import math

import jax
import numpy as np
import pytest
from flax import nnx
from models.classifiers.resnet_test import conv64, images, norm64, shuffle_values

from purify.core.errors import UserError
from purify.models.classifiers.registry import NETWORKS
from purify.models.classifiers.vgg import VGG, grid_means
from purify.models.files.weights import abstract


def small(seed=0, **settings):
    defaults = {'stages': (1, 2), 'num_classes': 3, 'channels': 3, 'width': 4, 'hidden': 10}
    return VGG(**(defaults | settings), rngs=nnx.Rngs(seed))


def grid64(x, size):
    """Cell by cell."""
    height, width = x.shape[1:3]
    out = np.zeros((len(x), size, size, x.shape[-1]))
    for i in range(size):
        for j in range(size):
            rows = slice(math.floor(i * height / size), math.ceil((i + 1) * height / size))
            columns = slice(math.floor(j * width / size), math.ceil((j + 1) * width / size))
            out[:, i, j] = x[:, rows, columns].mean((1, 2))
    return out


def halved64(x):
    height, width = (side // 2 for side in x.shape[1:3])
    return x[:, : 2 * height, : 2 * width].reshape(len(x), height, 2, width, 2, -1).max((2, 4))


def forward64(network, x, train):
    x, layer, maps = x.astype(np.float64), 0, []
    for depth in network.stages:
        for _ in range(depth):
            x = conv64(x, network.convs[layer], 1) + np.asarray(
                network.convs[layer].bias[...], np.float64
            )
            x = np.maximum(norm64(x, network.norms[layer], train) if network.norms else x, 0)
            layer += 1
        maps.append(x)
        x = halved64(x)
    x = grid64(x, 7).reshape(len(x), -1)
    for hidden in network.hiddens:
        x = np.maximum(
            x @ np.asarray(hidden.kernel[...], np.float64) + np.asarray(hidden.bias[...]), 0
        )
    return (
        maps,
        x,
        x @ np.asarray(network.head.kernel[...], np.float64) + np.asarray(network.head.bias[...]),
    )


@pytest.mark.long
@pytest.mark.parametrize(
    ('norm', 'train', 'size'),
    [('none', False, 9), ('batch', True, 8), ('batch', False, 40), ('group', True, 8)],
)
def test_forward_agrees_with_float64(norm, train, size):
    network = small(norm=norm, dropout=0.0)
    shuffle_values(network)
    maps, features, logits = forward64(network, images(3, size), train)
    x = images(3, size)
    for got, wanted in zip(network.groups(x, train=train), maps, strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(network.features(x, train=train), features, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(network(x, train=train), logits, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(('name', 'count'), [('vgg16', 138_357_544), ('vgg16_bn', 138_365_992)])
def test_parameter_counts_are_the_published_ones(name, count):  # torchvision
    network = abstract(lambda rngs: NETWORKS.make(name, num_classes=1000, channels=3, rngs=rngs))
    found = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(nnx.state(network, nnx.Param)))
    assert found == count


@pytest.mark.parametrize('shape', [(1, 2), (7, 7), (9, 16), (14, 21)])
def test_grid_means_are_those_of_their_cells(shape):
    x = np.random.default_rng(0).normal(size=(2, *shape, 3)).astype(np.float32)
    np.testing.assert_allclose(grid_means(x, 7), grid64(x, 7), rtol=1e-5, atol=1e-6)


@pytest.mark.long
def test_half_of_the_hidden_units_are_dropped_in_training():
    network = small(hidden=200)
    x = images(8, 8)
    with pytest.raises(ValueError, match='needs a key'):
        network(x, train=True)
    kept = network.features(x, train=True, key=jax.random.key(0))
    plain = network.features(x, train=False)
    alive = np.asarray(plain) > 0
    # half of them, and some that the first layer's drops silence
    assert 0.5 < (np.asarray(kept)[alive] == 0).mean() < 0.7
    assert not np.array_equal(kept, network.features(x, train=True, key=jax.random.key(1)))


@pytest.mark.long
def test_images_too_small_for_the_pools_are_refused():
    with pytest.raises(UserError, match='4 px or more'):
        small()(images(1, 3), train=False)


@pytest.mark.parametrize(
    ('wrong', 'told'),
    [
        ({'norm': 'layer'}, 'batch, group, none'),
        ({'stages': (0,)}, 'stages='),
        ({'dropout': 'x'}, r'\[0, 1\)'),
        ({'hidden': 0}, 'hidden=0'),
    ],
)
def test_wrong_settings_are_refused(wrong, told):
    with pytest.raises(UserError, match=told):
        small(**wrong)
