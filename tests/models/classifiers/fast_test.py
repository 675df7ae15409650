import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from models.classifiers.resnet_test import conv64, images

from purify.core.errors import UserError
from purify.models.classifiers.fast import FLOOR, FastNet, halve, identity, largest


def small(seed=0, **settings):
    defaults = {'num_classes': 3, 'channels': 3, 'width': 4, 'widths': (1, 2)}
    return FastNet(**(defaults | settings), rngs=nnx.Rngs(seed))


def gelu64(x):
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def forward64(network, x):
    """In evaluation, from the paper's listing."""
    kernel = np.asarray(network.whitening.kernel[...], np.float64)
    windows = np.lib.stride_tricks.sliding_window_view(x.astype(np.float64), (2, 2), (1, 2))
    whitened = np.einsum('bhwcij,ijco->bhwo', windows, kernel)
    x = gelu64(whitened + np.asarray(network.whitening.bias[...]))
    for group in network.blocks:
        for number, (conv, norm) in enumerate(zip(group.convs, group.norms, strict=True)):
            x = conv64(x, conv, 1)
            if not number:
                high, wide = (side // 2 for side in x.shape[1:3])
                x = x[:, : 2 * high, : 2 * wide]
                x = x.reshape(len(x), high, 2, wide, 2, -1).max((2, 4))
            mean, variance = (np.asarray(v[...], float) for v in (norm.layer.mean, norm.layer.var))
            x = gelu64((x - mean) / np.sqrt(variance + FLOOR) + 8 * np.asarray(norm.bias[...]))
    return x.max((1, 2)) / 9 @ np.asarray(network.head.kernel[...], np.float64)


def test_forward_agrees_with_float64():
    network, x = small(), images(3, 13)
    rng = np.random.default_rng(0)
    draw = lambda v: jnp.asarray(rng.uniform(0.2, 1.0, v.shape) / math.sqrt(v.size), jnp.float32)
    nnx.update(network, jax.tree.map(draw, nnx.state(network)))
    np.testing.assert_allclose(network(x, train=False), forward64(network, x), rtol=1e-4, atol=1e-5)


def test_fitted_to_images_its_first_layer_gives_uncorrelated_values_of_variance_one():
    """Of smooth images, whose neighbouring pixels are much alike; and the same with a minus."""
    rng = np.random.default_rng(0)
    smooth = rng.random((50, 12, 12, 3)).cumsum(1).cumsum(2)
    pixels = np.uint8(255 * smooth / smooth.max())
    network = small(mean=(0.3, 0.3, 0.3), std=(0.01, 0.01, 0.01))
    network.fit_to(pixels)
    x = network.normalise(jnp.asarray(pixels / 255, jnp.float32))
    values = np.asarray(network.whitening(x), np.float64)
    half = values[..., :12].reshape(-1, 12)
    np.testing.assert_allclose(half.T @ half / len(half), np.eye(12), atol=0.05)
    np.testing.assert_allclose(values[..., 12:], -values[..., :12], atol=1e-4)


def test_grey_images_in_three_channels_do_not_become_rounding():
    """A third of the directions occur; the rest is left at zero, and changes nothing."""
    rng = np.random.default_rng(0)
    smooth = rng.random((50, 12, 12, 1)).cumsum(1).cumsum(2)
    pixels = np.uint8(255 * smooth / smooth.max()).repeat(3, -1)
    network = small()
    network.fit_to(pixels)
    lengths = np.linalg.norm(np.asarray(network.whitening.kernel[...]).reshape(12, 24), axis=0)
    assert (lengths > 0).sum() == 8
    x = pixels[:10] / 255.0
    tinted = x + 1e-6 * rng.normal(size=x.shape)
    # by the statistics of the batch, which would divide rounding by its own deviation
    plain, other = (network(jnp.asarray(x, jnp.float32), train=True) for x in (x, tinted))
    np.testing.assert_allclose(plain, other, atol=1e-3)


def test_the_fitted_layer_is_not_learned():
    params = nnx.to_flat_state(nnx.state(small(), nnx.Param))
    assert ('whitening', 'kernel') not in [path for path, _ in params]
    assert ('whitening', 'bias') in [path for path, _ in params]


@pytest.mark.parametrize(('inputs', 'outputs'), [(3, 5), (5, 3)])
def test_a_fresh_convolution_hands_on_what_it_reads(inputs, outputs):
    kernel, x = identity(jax.random.key(0), (3, 3, inputs, outputs)), images(2, 6, inputs)
    conv = type('Conv', (), {'kernel': nnx.Param(kernel)})
    same = min(inputs, outputs)
    np.testing.assert_allclose(conv64(x, conv, 1)[..., :same], x[..., :same], atol=1e-6)
    assert np.abs(kernel[..., same:]).max(initial=0) <= (9 * inputs) ** -0.5


def test_halving_takes_the_largest_and_leaves_out_an_odd_last_row():
    x = np.arange(2 * 5 * 4, dtype=np.float32).reshape(2, 5, 4, 1)
    expected = nnx.max_pool(jnp.asarray(x), (2, 2), strides=(2, 2))
    np.testing.assert_array_equal(halve(jnp.asarray(x)), expected)


@pytest.mark.parametrize('place', [(0, 0), (0, 1), (1, 0), (1, 1)])
@pytest.mark.parametrize('reduce', [halve, largest])
def test_the_largest_of_pixels_of_which_one_is_nan_is_nan(reduce, place):
    x = jnp.arange(4.0).reshape(1, 2, 2, 1).at[(0, *place)].set(jnp.nan)
    assert jnp.isnan(reduce(x)).all()


@pytest.mark.parametrize('reduce', [halve, largest])
def test_the_gradient_goes_to_the_largest_without_a_test_of_equality(reduce):
    """A value that is computed twice may be rounded otherwise, and is then equal to nothing."""
    x = jnp.asarray(np.random.default_rng(0).permutation(2 * 6 * 4 * 3).reshape(2, 6, 4, 3) * 1.0)
    slope = jax.grad(lambda x: reduce(x).sum())
    np.testing.assert_array_equal(slope(x), np.isin(x, reduce(x)))
    assert not re.search(r'\beq\b', str(jax.make_jaxpr(slope)(x)))


def test_a_bias_learns_64_times_faster_than_its_parameter_says():
    """Its gradient is 8 times that of what is added, which then moves 8 times as far."""
    norm = small().blocks[0].norms[0]
    graph, params, rest = nnx.split(norm, nnx.Param, ...)
    x = jnp.asarray(images(4, 5, 4))
    out = lambda params: nnx.merge(graph, params, rest, copy=True)(x, True).sum()
    slope = jax.grad(out)(params)
    moved = jax.tree.map(lambda value, slope: value - 0.1 * slope, params, slope)
    change = nnx.merge(graph, moved, rest, copy=True)(x, True) - nnx.merge(
        graph, params, rest, copy=True
    )(x, True)
    np.testing.assert_allclose(change, -0.1 * 64 * x.size / 4, rtol=1e-4)


def test_images_that_are_too_small_are_refused_with_the_size_that_is_not():
    small()(images(1, 5), train=False)
    with pytest.raises(UserError, match=r'4 x 4 pixels are too few\. Give images of 5 px or more'):
        small()(images(1, 4), train=False)
