import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec
from support.meshes import mesh_of

from purify.core.errors import UserError
from purify.diffusion.guidance import guide, interleave

X = jax.random.normal(jax.random.key(0), (8, 2, 2, 3))
T = jnp.arange(8)
LABELS = jnp.arange(8.0)[:, None] + 10


def network(x, t, condition):
    return jnp.sin(x) * condition[:, :, None, None] + t[:, None, None, None]


def alone(condition):
    return network(X, T, jnp.broadcast_to(condition, (8, 1)))


@pytest.mark.long
@pytest.mark.parametrize('scale', [0.0, 1.0, 7.5])
def test_guidance_by_hand(scale):
    conditions = interleave(jnp.full((1, 1), 3.0), LABELS)
    guided = guide(lambda x, t: network(x, t, conditions), scale)(X, T)
    without, conditioned = alone(3.0), alone(LABELS)
    wanted = without + scale * (conditioned - without)
    np.testing.assert_allclose(guided, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.long
def test_weights_of_ho_and_salimans():
    w = 5.0
    conditions = interleave(jnp.full((1, 1), 3.0), LABELS)
    guided = guide(lambda x, t: network(x, t, conditions), 1 + w)(X, T)
    wanted = (1 + w) * alone(LABELS) - w * alone(3.0)
    np.testing.assert_allclose(guided, wanted, rtol=1e-5, atol=1e-4)


def test_pair_interleaves():
    np.testing.assert_array_equal(interleave(jnp.array([-1]), jnp.array([5, 6])), [-1, 5, -1, 6])
    np.testing.assert_array_equal(interleave(jnp.array([1, 2]), jnp.array([5, 6])), [1, 5, 2, 6])


def test_one_call_of_twice_the_batch():
    seen = []
    guide(lambda x, t: seen.append((x.shape, t.shape)) or x, 2.0)(X, T)
    assert seen == [((16, 2, 2, 3), (16,))]


def test_learned_variance_is_taken_from_the_conditioned_row():
    conditions = interleave(jnp.full((1, 1), 3.0), LABELS)

    def both(x, t):
        return jnp.concatenate([network(x, t, conditions), 2 * network(x, t, conditions)], axis=-1)

    guided = guide(both, 3.0)(X, T)
    found = guided[..., :3]
    np.testing.assert_allclose(found, guide(lambda x, t: network(x, t, conditions), 3.0)(X, T))
    np.testing.assert_allclose(guided[..., 3:], 2 * alone(LABELS), rtol=1e-6)


def test_bfloat16_outputs_are_mixed_in_float32():
    out = guide(lambda x, t: x.astype(jnp.bfloat16), 7.5)(X, T)
    assert out.dtype == jnp.float32


def test_sharded_batches_stay_where_they_are():
    rows = NamedSharding(mesh_of(8), PartitionSpec('data'))

    @functools.partial(jax.jit, in_shardings=rows, out_shardings=rows)
    def run(x, t, labels):
        return guide(lambda x, t: network(x, t, interleave(jnp.zeros((1, 1)), labels)), 2.0)(x, t)

    inputs = jax.device_put((X, T, LABELS), rows)
    text = run.lower(*inputs).compile().as_text()
    assert not any(
        word in text for word in ('all-gather', 'all-reduce', 'all-to-all', 'collective-permute')
    )
    np.testing.assert_allclose(
        run(*inputs), alone(0.0) + 2 * (alone(LABELS) - alone(0.0)), rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize('scale', [math.nan, math.inf])
def test_scales_that_are_no_numbers(scale):
    with pytest.raises(UserError, match='finite'):
        guide(lambda x, t: x, scale)
