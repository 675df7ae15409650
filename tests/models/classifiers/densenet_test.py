import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from models.classifiers.resnet_test import conv64, images, norm64, relu64, shuffle_values
from numpy.lib.stride_tricks import sliding_window_view

from purify.core.errors import UserError
from purify.models.classifiers.densenet import DenseNet
from purify.models.classifiers.registry import NETWORKS
from purify.models.files.weights import abstract


def small(seed=0, **settings):
    defaults = {'stages': (1, 2), 'num_classes': 3, 'channels': 3, 'growth': 3, 'bottleneck': 2}
    return DenseNet(**(defaults | settings), rngs=nnx.Rngs(seed))


# A second opinion in float64, written from the paper.


def forward64(network, x, train=False):
    """The maps after each stage, the features, the logits."""
    x = conv64(x.astype(np.float64), network.stem, 1 if network.stem_norm is None else 2)
    if network.stem_norm is not None:
        x = relu64(norm64(x, network.stem_norm, train))
        x = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=-np.inf)
        x = sliding_window_view(x, (3, 3), (1, 2))[:, ::2, ::2].max((-1, -2))
    stages, layer = [], 0
    for number, depth in enumerate(network.stages):
        if number:
            transition = network.transitions[number - 1]
            x = conv64(relu64(norm64(x, transition.norm, train)), transition.conv, 1)
            height, width = (side // 2 for side in x.shape[1:3])
            x = (
                x[:, : 2 * height, : 2 * width]
                .reshape(len(x), height, 2, width, 2, -1)
                .mean((2, 4))
            )
        for _ in range(depth):
            y = x
            for norm, conv in zip(
                network.blocks[layer].norms, network.blocks[layer].convs, strict=True
            ):
                y = conv64(relu64(norm64(y, norm, train)), conv, 1)
            x, layer = np.concatenate([x, y], -1), layer + 1
        stages.append(x)
    stages[-1] = relu64(norm64(x, network.last_norm, train))
    features = stages[-1].mean((1, 2))
    return (
        stages,
        features,
        features @ np.asarray(network.head.kernel[...], np.float64)
        + np.asarray(network.head.bias[...]),
    )


@pytest.mark.long
@pytest.mark.parametrize(
    ('stem', 'norm', 'train', 'size', 'compression'),
    [
        ('small', 'batch', True, 7, 0.5),
        ('imagenet', 'batch', False, 18, 0.5),
        ('imagenet', 'group', True, 16, 1.0),
    ],
)
def test_forward_agrees_with_float64(stem, norm, train, size, compression):
    network = small(stem=stem, norm=norm, compression=compression)
    shuffle_values(network)
    stages, features, logits = forward64(network, images(3, size), train)
    run = nnx.jit(
        lambda network, x: (*network.answer(x, train=train), network.features(x, train=train))
    )
    groups, got, read = run(network, images(3, size))
    # 6 + 3, then its share + 2 x 3
    assert [x.shape[-1] for x in groups] == ([9, 10] if compression == 0.5 else [9, 15])
    for ours, wanted in zip((*groups, read, got), (*stages, features, logits), strict=True):
        np.testing.assert_allclose(ours, wanted, rtol=2e-5, atol=2e-5)


@pytest.mark.long
@pytest.mark.parametrize(
    ('settings', 'count'),
    [
        ({'stem': 'imagenet', 'num_classes': 1000}, 7_978_856),  # torchvision
        # Of DenseNet-BC with depth 100 and growth 12 on CIFAR-10: the paper's table 2 says .8
        # million.
        ({'stages': (16, 16, 16), 'growth': 12, 'num_classes': 10}, 769_162),
    ],
)
def test_parameter_counts_are_the_published_ones(settings, count):
    name = 'densenet' if 'stages' in settings else 'densenet121'
    network = abstract(lambda rngs: NETWORKS.make(name, channels=3, **settings, rngs=rngs))
    found = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(nnx.state(network, nnx.Param)))
    assert found == count


@pytest.mark.long
def test_initial_values_are_he_normal_by_the_fan_in_and_torch_linear():
    network = small(stages=(2,), growth=16, bottleneck=6, num_classes=50)
    for conv, fan in ((network.blocks[1].convs[0], 48), (network.blocks[1].convs[1], 96 * 9)):
        kernel = np.asarray(conv.kernel[...])
        assert kernel.std() == pytest.approx(math.sqrt(2 / fan), rel=0.04)
        assert abs(kernel.mean()) < 0.1 * kernel.std()
    kernel = np.abs(network.head.kernel[...])
    assert 0.98 / 8 < kernel.max() <= 1 / 8  # 32 + 2 x 16 features
    assert not np.any(network.head.bias[...])


@pytest.mark.long
def test_bfloat16_computes_low_and_answers_in_float32():
    exact, low = small(stem='imagenet'), small(stem='imagenet', dtype='bfloat16')
    shuffle_values(exact)
    shuffle_values(low)
    assert {leaf.dtype for leaf in jax.tree.leaves(nnx.state(low))} == {jnp.dtype('float32')}
    x = images(4, 16)
    run = nnx.jit(lambda network, x: network.answer(x, train=True))
    groups, logits = run(low, x)
    assert {value.dtype for value in (*groups, logits)} == {jnp.dtype('float32')}
    found = nnx.eval_shape(lambda: low.blocks[0](jnp.ones((1, 4, 4, 6), jnp.bfloat16), False)).dtype
    assert found == jnp.bfloat16
    reference = np.asarray(run(exact, x)[1])
    assert 0 < np.abs(np.asarray(logits) - reference).max() / np.abs(reference).max() < 0.05


@pytest.mark.parametrize(('stem', 'smallest'), [('small', 4), ('imagenet', 13)])
def test_images_that_vanish_are_refused_and_no_larger_ones(stem, smallest):
    network = small(stages=(1, 1, 1), stem=stem)
    assert nnx.jit(lambda network, x: network.maps(x, train=False))(
        network, images(1, smallest)
    ).shape[1:3] == (1, 1)
    said = f'{smallest - 1} x {smallest - 1} px are too small .* Use images of {smallest} px'
    with pytest.raises(UserError, match=said):
        nnx.eval_shape(lambda: network(images(1, smallest - 1), train=False))


@pytest.mark.parametrize(
    ('wrong', 'told'),
    [
        ({'stem': 'large'}, 'imagenet, small'),
        ({'norm': 'layer'}, 'batch, group'),
        ({'stages': (1, 0)}, r'stages=\(1, 0\)'),
        ({'compression': 0.0}, 'compression=0.0'),
        ({'growth': 0}, 'growth=0'),
        ({'compression': 'x'}, "compression='x'"),
        ({'stages': 3}, 'stages=3'),
    ],
)
def test_wrong_settings_are_refused(wrong, told):
    with pytest.raises(UserError, match=told):
        small(**wrong)
