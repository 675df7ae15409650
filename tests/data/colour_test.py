import jax
import jax.numpy as jnp
import numpy as np
import pytest

from purify.data.colour import colour_transfer


def transfer64(variation, source):
    """Equation (1) for one image, channel by channel."""
    result = np.empty(variation.shape)
    for channel in range(variation.shape[-1]):
        new = variation[..., channel].astype(np.float64)
        old = source[..., channel].astype(np.float64)
        result[..., channel] = (new - new.mean()) / new.std() * old.std() + old.mean()
    return result


@pytest.mark.parametrize('channels', [1, 3])
@pytest.mark.parametrize('scale', [1.0, 255.0])
def test_agrees_with_equation_1(channels, scale):
    rng = np.random.default_rng(0)
    variation = (rng.random((3, 12, 9, channels)) ** 2 * scale).astype(np.float32)
    source = (rng.random((3, 7, 5, channels)) * 0.5 * scale).astype(np.float32)
    result = jax.jit(colour_transfer)(variation, source)
    assert result.shape == variation.shape
    assert result.dtype == jnp.float32
    for got, new, old in zip(np.asarray(result), variation, source, strict=True):
        np.testing.assert_allclose(got, transfer64(new, old), rtol=1e-5, atol=1e-5 * scale)
    np.testing.assert_allclose(result.mean((1, 2)), source.mean((1, 2)), rtol=1e-5)
    np.testing.assert_allclose(result.std((1, 2)), source.std((1, 2)), rtol=1e-5)


def test_statistics_of_one_image_do_not_reach_another():
    rng = np.random.default_rng(1)
    variation, source = rng.random((2, 4, 8, 8, 3), np.float32)
    alone = colour_transfer(variation[2], source[2])
    np.testing.assert_allclose(colour_transfer(variation, source)[2], alone, atol=1e-6)


def test_an_image_gives_itself_its_colours():
    image = np.random.default_rng(2).random((16, 16, 3), np.float32)
    np.testing.assert_allclose(colour_transfer(image, image), image, atol=1e-6)


@pytest.mark.parametrize('level', [0.0, 0.1, 0.3, 1.0])
@pytest.mark.parametrize('size', [4, 224])
def test_constant_channels_take_the_mean(level, size):
    source = np.random.default_rng(3).random((8, 8, 3), np.float32)
    variation = np.random.default_rng(4).random((size, size, 3), np.float32)
    variation[..., 1] = level
    result = np.asarray(jax.jit(colour_transfer)(variation, source))
    np.testing.assert_allclose(result[..., 1], source[..., 1].mean(), atol=1e-4)
    np.testing.assert_allclose(result[..., 0].std(), source[..., 0].std(), rtol=1e-4)


def test_a_constant_source_flattens():
    variation = np.random.default_rng(5).random((6, 6, 3), np.float32)
    found = colour_transfer(variation, np.full((4, 4, 3), 0.25, np.float32))
    np.testing.assert_allclose(found, 0.25, atol=1e-6)
