import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from models.classifiers.resnet_test import conv64, images, norm64, shuffle_values

from purify.core.errors import UserError
from purify.models.classifiers import efficientnet
from purify.models.classifiers.efficientnet import EfficientNet, widened
from purify.models.classifiers.registry import NETWORKS
from purify.models.files.weights import abstract


@pytest.fixture
def short(monkeypatch):
    """Three blocks in place of seven stages."""
    monkeypatch.setattr(efficientnet, 'STAGES', ((1, 3, 1, 32, 1), (6, 5, 2, 64, 2)))


def small(seed=0, **settings):
    return EfficientNet(
        **({'num_classes': 3, 'channels': 3, 'width': 0.25} | settings), rngs=nnx.Rngs(seed)
    )


def evaluate(network, x, train=False):
    run = nnx.jit(
        lambda network, x: (
            network.groups(x, train=train),
            network.features(x, train=train),
            network(x, train=train),
        )
    )
    groups, features, logits = run(network, x)
    return *groups, features, logits


# A second opinion in float64, written from the papers.


def silu64(x):
    return x / (1 + np.exp(-x))


def depthwise64(x, conv, stride):
    kernel = np.asarray(conv.kernel[...], np.float64)
    pad = kernel.shape[0] // 2
    x = np.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(x, kernel.shape[:2], (1, 2))[
        :, ::stride, ::stride
    ]
    return np.einsum('bhwcij,ijc->bhwc', windows, kernel[:, :, 0])


def gate64(x, gate):
    y = x.mean((1, 2), keepdims=True)
    y = silu64(conv64(y, gate.squeeze, 1) + np.asarray(gate.squeeze.bias[...]))
    return x / (1 + np.exp(-conv64(y, gate.excite, 1) - np.asarray(gate.excite.bias[...])))


def forward64(network, x, strides, train=False):
    x = silu64(norm64(conv64(x.astype(np.float64), network.stem, 2), network.stem_norm, train))
    blocks = []
    for block, stride in zip(network.blocks, strides, strict=True):
        y = x
        if len(block.widen):
            y = silu64(norm64(conv64(y, block.widen[0], 1), block.widen_norms[0], train))
        y = silu64(norm64(depthwise64(y, block.depthwise, stride), block.depthwise_norm, train))
        y = norm64(conv64(gate64(y, block.gate), block.project, 1), block.project_norm, train)
        x = x + y if stride == 1 and x.shape == y.shape else y
        blocks.append(x)
    maps = silu64(norm64(conv64(x, network.last, 1), network.last_norm, train))
    features = maps.mean((1, 2))
    return (
        blocks[0],
        maps,
        features,
        features @ np.asarray(network.head.kernel[...], np.float64)
        + np.asarray(network.head.bias[...]),
    )


@pytest.mark.long
@pytest.mark.usefixtures('short')
@pytest.mark.parametrize('train', [False, True])
def test_forward_agrees_with_float64(train):
    network = small(dropout=0.0, drop_path=0.0)
    shuffle_values(network)
    x = images(5, 18)
    wanted = forward64(network, x, (1, 2, 1), train)
    assert wanted[1].shape == (5, 5, 5, 4 * 16)
    for got, value in zip(evaluate(network, x, train), wanted, strict=True):
        np.testing.assert_allclose(got, value, rtol=1e-4, atol=1e-4 * np.abs(value).max())


@pytest.mark.long
@pytest.mark.parametrize(
    ('name', 'count'), [('efficientnet_b0', 5_288_548), ('efficientnet_b4', 19_341_616)]
)
def test_parameter_counts_are_the_published_ones(name, count):  # torchvision
    network = abstract(lambda rngs: NETWORKS.make(name, num_classes=1000, channels=3, rngs=rngs))
    found = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(nnx.state(network, nnx.Param)))
    assert found == count


def test_channels_are_multiples_of_eight_that_lose_no_tenth():
    # Of B4, from its published channels; 32 * .25 is 8 itself, 16 * .7 = 11.2 would be 8: too few.
    wanted = [48, 24, 32, 56, 112, 160, 272, 448]
    assert [widened(channels, 1.4) for channels in (32, 16, 24, 40, 80, 112, 192, 320)] == wanted
    assert widened(32, 0.25) == 8
    assert widened(16, 0.7) == 16


@pytest.mark.long
@pytest.mark.usefixtures('short')
def test_training_drops_and_evaluation_does_not():
    network = small(dropout=0.5, drop_path=0.9)
    x = images(2, 16)
    with pytest.raises(ValueError, match='needs a key'):
        network(x, train=True)
    run = nnx.jit(lambda network, key: network.features(x, train=False, key=key))
    found = run(network, jax.random.key(0))
    np.testing.assert_allclose(found, evaluate(network, x)[2], rtol=1e-5, atol=1e-6)
    run = nnx.jit(lambda key: nnx.clone(network).features(x, train=True, key=key))
    one, same, other = (np.asarray(run(jax.random.key(seed))) for seed in (0, 0, 1))
    np.testing.assert_array_equal(one, same)
    assert not np.array_equal(one, other)
    assert 0.3 < (one == 0).mean() < 0.7  # of the features
    assert [block.rate for block in network.blocks] == pytest.approx([0.0, 0.3, 0.6])


@pytest.mark.long
@pytest.mark.usefixtures('short')
def test_a_branch_is_dropped_from_whole_images():
    block = small().blocks[2]
    assert block.adds
    block.rate = 0.5
    x = jnp.asarray(
        np.random.default_rng(0).normal(size=(64, 4, 4, block.project.out_features)), jnp.float32
    )
    moved = np.abs(np.asarray(block(x, True, jax.random.key(0)) - x)).max((1, 2, 3))
    assert 16 < (moved == 0).sum() < 48
    branch = (
        np.asarray(block(x, True, jax.random.key(1)) - x)[3],
        np.asarray(block(x, True, jax.random.key(0)) - x)[3],
    )
    block.rate = 0.0
    whole = np.asarray(block(x, True, None) - x)[3]
    for kept in branch:
        assert not kept.any() or np.allclose(kept, 2 * whole, rtol=1e-4, atol=1e-5)


@pytest.mark.long
@pytest.mark.usefixtures('short')
def test_bfloat16_computes_low_and_answers_in_float32():
    network = small(dtype='bfloat16')
    x = images(2, 16)
    assert {x.dtype for x in evaluate(network, x)} == {jnp.dtype('float32')}
    assert {leaf.dtype for leaf in jax.tree.leaves(nnx.state(network))} == {jnp.dtype('float32')}
    assert network.blocks[0].gate(jnp.ones((1, 2, 2, 8), jnp.bfloat16)).dtype == jnp.bfloat16


@pytest.mark.parametrize(
    ('wrong', 'told'),
    [
        ({'width': 0.0}, 'width=0.0'),
        ({'depth': '1'}, "depth='1'"),
        ({'drop_path': 1.0}, r'\[0, 1\)'),
        ({'std': (0.0,)}, 'above 0'),
    ],
)
def test_wrong_settings_are_refused(wrong, told):
    with pytest.raises(UserError, match=told):
        small(**wrong)
