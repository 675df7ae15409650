import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from purify.core.errors import UserError
from purify.diffusion.predictions import read_output, split_variance, target, x0_and_eps
from purify.diffusion.schedules import PREDICTIONS, add_noise, make_noise_schedule

X0, NOISE = np.random.default_rng(0).normal(size=(2, 2, 3, 3, 1)).astype(np.float32)


@given(st.sampled_from(PREDICTIONS), st.integers(1, 999), st.integers(1, 999))
def test_the_target_reads_back_as_image_and_noise(prediction, first, second):
    schedule = make_noise_schedule('linear', 1000, prediction=prediction)
    t = jnp.array([first, second])
    x = add_noise(schedule, X0, NOISE, t)
    x0, eps = read_output(schedule, target(schedule, X0, NOISE, t), x, t)
    worst = float(
        max(
            np.sqrt(1 / schedule.alphas_cumprod[max(first, second)]),
            1 / np.sqrt(schedule.betas[0] * min(first, second)),
        )
    )
    np.testing.assert_allclose(x0, X0, atol=1e-6 * worst)
    np.testing.assert_allclose(eps, NOISE, atol=1e-6 * worst)


def test_v_by_hand_in_float64():
    schedule = make_noise_schedule('scaled_linear', 1000, prediction='v_prediction')
    t = 321
    a, s = np.sqrt(schedule.alphas_cumprod[t]), np.sqrt(1 - schedule.alphas_cumprod[t])
    v = target(schedule, X0, NOISE, jnp.full(2, t))
    np.testing.assert_allclose(v, a * NOISE.astype(np.float64) - s * X0, atol=1e-6)
    x = a * X0 + s * NOISE
    x0, eps = x0_and_eps('v_prediction', v, jnp.asarray(x), a, s)
    np.testing.assert_allclose(x0, a * x - s * np.asarray(v), atol=1e-6)
    np.testing.assert_allclose(eps, s * x + a * np.asarray(v), atol=1e-6)


@pytest.mark.parametrize('prediction', PREDICTIONS)
def test_bfloat16_outputs_are_read_in_float32(prediction):
    output = jnp.asarray(NOISE, jnp.bfloat16)
    x0, eps = x0_and_eps(prediction, output, jnp.asarray(X0), 0.6, 0.8)
    assert x0.dtype == eps.dtype == jnp.float32
    expected = x0_and_eps(prediction, output.astype(jnp.float32), jnp.asarray(X0), 0.6, 0.8)
    np.testing.assert_array_equal(x0, expected[0])


def test_split_variance():
    output = jnp.arange(6.0).reshape(1, 1, 1, 6)
    mean, variance = split_variance(output, 3)
    np.testing.assert_array_equal(mean[0, 0, 0], [0, 1, 2])
    np.testing.assert_array_equal(variance[0, 0, 0], [3, 4, 5])
    assert split_variance(output, 6)[1] is None
    with pytest.raises(UserError, match='should be 4, or 8'):
        split_variance(output, 4)


def test_unknown_predictions_are_refused():
    with pytest.raises(UserError, match='epsilon, sample, v_prediction'):
        x0_and_eps('flow', jnp.zeros(1), jnp.zeros(1), 1.0, 0.0)


def test_under_jit_the_same():
    schedule = make_noise_schedule('linear', 1000, prediction='v_prediction')
    t = jnp.array([10, 900])
    found = jax.jit(lambda a, b: target(schedule, a, b, t))(X0, NOISE)
    np.testing.assert_allclose(found, target(schedule, X0, NOISE, t), rtol=1e-6)
