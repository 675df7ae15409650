import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec
from support.meshes import mesh_of

from purify.core.errors import UserError
from purify.diffusion.guidance import Guidance, guide, interleave
from purify.diffusion.run_chain import sample, start_noise
from purify.diffusion.samplers import SAMPLERS
from purify.diffusion.schedules import make_noise_schedule
from purify.train.flops import count_flops

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
        Guidance(scale)


SCHEDULE = make_noise_schedule('linear', 1000)
CHAIN = SAMPLERS.make('dpmpp_2m', SCHEDULE, np.arange(20)[::-1] * 50 + 10)
LEVELS = np.divide(*reversed(SCHEDULE.alpha_sigma(CHAIN.timesteps)))


def ask(scale):
    """A predictor with a product in it, so that calls can be counted."""
    both = interleave(jnp.full((1, 1), 0.3), LABELS / 20)
    call = lambda x, t, condition: (
        x @ jnp.eye(3) * condition[:, :, None, None] + t[:, None, None, None] / 1e4
    )
    if scale == 1:
        return lambda x, t: call(x, t, LABELS / 20)
    return guide(lambda x, t: call(x, t, both), scale)


def by_calls(scale, interval):
    """Call by call, without scans."""
    carry, low, high = CHAIN.init(X), *interval
    for i in range(CHAIN.steps):
        x, t = CHAIN.network_input(carry, i)
        now = scale if low <= LEVELS[i] <= high else 1
        carry = CHAIN.step(carry, i, ask(now)(x, t), None)
    return CHAIN.final(carry)


@pytest.mark.parametrize('interval', [(0.3, 3.0), (0.0, 1.0), (2.0, math.inf), (0.05, 200.0)])
def test_a_chain_is_guided_between_two_noise_levels_and_asked_once_elsewhere(interval):
    keys, own = jax.random.split(jax.random.key(1), 8), Guidance(4.0, interval)
    run = lambda x: sample(CHAIN, own.stretches(CHAIN, ask), x, keys)
    inside = (interval[0] <= LEVELS) & (interval[1] >= LEVELS)
    np.testing.assert_array_equal(own.guided(CHAIN), inside)
    assert own.calls(CHAIN) == CHAIN.steps + inside.sum()
    np.testing.assert_allclose(run(X), by_calls(4.0, interval), rtol=1e-4, atol=1e-4)
    one = count_flops(jax.jit(lambda x: ask(1)(x, T)).trace(X).jaxpr)
    assert count_flops(jax.jit(run).trace(X).jaxpr) == one * own.calls(CHAIN)


@pytest.mark.parametrize(('scale', 'calls'), [(1.0, 20), (4.0, 40)])
def test_without_an_interval_a_chain_is_guided_everywhere_or_nowhere(scale, calls):
    own = Guidance(scale)
    assert own.calls(CHAIN) == calls
    assert [count for count, _ in own.stretches(CHAIN, ask)] == [20]


def test_noise_and_recorded_states_go_on_over_stretches():
    chain = SAMPLERS.make('ddim', SCHEDULE, np.arange(9)[::-1] * 100, eta=1.0)
    keys = jax.random.split(jax.random.key(2), 8)
    noise = start_noise(keys, X.shape[1:])
    whole = sample(chain, ask(1), noise, keys, record=5)
    parts = sample(chain, [(3, ask(1)), (2, ask(1)), (4, ask(1))], noise, keys, record=5)
    for one, other in zip(whole, parts, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)


def test_an_interval_that_no_call_lies_in_is_refused():
    with pytest.raises(UserError, match='holds none of the chain, whose noise levels are'):
        Guidance(2.0, (500.0, 600.0)).calls(CHAIN)


@pytest.mark.parametrize(
    'interval',
    [(1.0,), (3.0, 0.3), (-1.0, 2.0), (1.0, 1.0), (math.nan, 2.0), 5.0, ('a', 'b')],
)
def test_intervals_that_are_none(interval):
    with pytest.raises(UserError, match='two noise levels'):
        Guidance(2.0, interval)
