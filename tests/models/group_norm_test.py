"""Group norm from the moments of channels is group norm."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from purify.models.group_norm import GroupNorm

EPSILON = 1e-5


def _exact(x, groups, scale, bias):
    """Float64, by the definition."""
    parts = x.astype(np.float64).reshape(len(x), -1, groups, x.shape[-1] // groups)
    mean, variance = parts.mean((1, 3), keepdims=True), parts.var((1, 3), keepdims=True)
    return ((parts - mean) / np.sqrt(variance + EPSILON)).reshape(x.shape) * scale + bias


@pytest.fixture
def layer():
    """8 channels in 4 groups, with a scale and a bias of their own."""
    made, rng = GroupNorm(8, 4, epsilon=EPSILON, rngs=nnx.Rngs(0)), np.random.default_rng(2)
    made.scale[...] = jnp.asarray(rng.standard_normal(8, np.float32))
    made.bias[...] = jnp.asarray(rng.standard_normal(8, np.float32))
    return made


@pytest.mark.parametrize('shape', [(3, 5, 4, 8), (2, 7, 8)])
def test_is_the_definition_far_from_zero_too(layer, shape):
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    x = x * np.arange(1, 9, dtype=np.float32) + np.float32(30)
    wanted = _exact(x, 4, np.asarray(layer.scale[...]), np.asarray(layer.bias[...]))
    np.testing.assert_allclose(layer(jnp.asarray(x)), wanted, atol=2e-5)


@pytest.mark.parametrize('size', [64, 512])
def test_a_pixel_far_from_all_others_costs_no_digits(layer, size):
    """Where a trigger may be: the corner."""
    x = np.random.default_rng(0).standard_normal((1, size, size, 8)).astype(np.float32)
    x[0, 0, 0] = 100
    wanted = _exact(x, 4, np.asarray(layer.scale[...]), np.asarray(layer.bias[...]))
    found = np.asarray(layer(jnp.asarray(x)))
    np.testing.assert_allclose(found[0, 1:], wanted[0, 1:], rtol=0, atol=2e-5)


def test_its_gradient_is_that_of_flax(layer):
    theirs = nnx.GroupNorm(8, 4, epsilon=EPSILON, use_fast_variance=False, rngs=nnx.Rngs(0))
    theirs.scale[...], theirs.bias[...] = layer.scale[...], layer.bias[...]
    rng = np.random.default_rng(1)
    x, given = (jnp.asarray(rng.standard_normal((3, 4, 5, 8), np.float32)) for _ in range(2))
    ours, right = (jax.vjp(norm, x)[1](given)[0] for norm in (layer, theirs))
    np.testing.assert_allclose(ours, right, atol=1e-5)


def test_answers_in_float32(layer):
    assert layer(jnp.ones((1, 2, 2, 8), jnp.bfloat16)).dtype == jnp.float32
