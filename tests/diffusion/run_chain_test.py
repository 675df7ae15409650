import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.sharding import NamedSharding, PartitionSpec
from support.meshes import mesh_of

from purify.core.errors import UserError
from purify.diffusion.run_chain import START_STREAM, edit, sample, start_noise
from purify.diffusion.samplers import SAMPLERS
from purify.diffusion.schedules import PREDICTIONS, make_noise_schedule
from purify.diffusion.timesteps import edit_timesteps

SHAPE = (4, 4, 3)
KEYS = jax.random.split(jax.random.key(7), 8)
IMAGES = jax.random.uniform(jax.random.key(8), (8, *SHAPE), minval=-1, maxval=1)
STOCHASTIC = [('ddpm', {'variance': 'fixed_large'}), ('ddim', {'eta': 0.7})]
DRAW = ('consistency', 'ddpm', 'sde')  # samplers that always draw noise
ALL = [(name, {}) for name in SAMPLERS] + STOCHASTIC


def oracle(schedule, x0):
    """The network that knows the clean images x0."""
    ratio = jnp.asarray(np.sqrt(1 / schedule.alphas_cumprod - 1), jnp.float32)

    def predict(x, t):
        r = jnp.interp(t.astype(jnp.float32), jnp.arange(schedule.steps, dtype=jnp.float32), ratio)[
            :, None, None, None
        ]
        alpha = 1 / jnp.sqrt(1 + r**2)
        eps = (x - alpha * x0) / (r * alpha)
        return {'epsilon': eps, 'sample': x0 + 0 * x, 'v_prediction': alpha * eps - r * alpha * x0}[
            schedule.prediction
        ]

    return predict


def wobble(x, t):
    """A network that is nothing special, row by row."""
    return jnp.tanh(x + 0.001 * t[:, None, None, None])


def build(name, options, timesteps, **schedule):
    schedule = make_noise_schedule('linear', 200, **schedule)
    return schedule, SAMPLERS.make(name, schedule, timesteps, **options)


def by_hand(sampler, predict, x, keys):
    """The chain call by call, all states; image b gets normal(fold_in(keys[b], i)) at call i.

    Compiles nothing as a whole.
    """
    states, carry = [], sampler.init(x)
    for i in range(sampler.steps):
        noise = (
            normal(jax.vmap(jax.random.fold_in, (0, None))(keys, i)) if sampler.stochastic else None
        )
        carry = sampler.step(carry, i, predict(*sampler.network_input(carry, i)), noise)
        states.append(sampler.final(carry))
    return jnp.stack(states)


normal = jax.jit(jax.vmap(lambda key: jax.random.normal(key, SHAPE)))


@pytest.mark.long
@given(
    st.sampled_from(ALL),
    st.sampled_from(PREDICTIONS),
    st.lists(st.integers(0, 199), min_size=1, max_size=6, unique=True).map(
        lambda t: sorted(t, reverse=True)
    ),
)
def test_perfect_networks_bring_the_image_back(case, prediction, timesteps):
    schedule, sampler = build(*case, timesteps, prediction=prediction)
    x = jax.random.normal(jax.random.key(1), IMAGES.shape)
    found = by_hand(sampler, oracle(schedule, IMAGES), x, KEYS)[-1]
    np.testing.assert_allclose(found, IMAGES, atol=2e-4)


@pytest.mark.long
def test_euler_between_timesteps_brings_the_image_back():
    schedule, sampler = build('euler', {}, np.linspace(199, 0, 6))
    assert sampler.timesteps.dtype == np.float32
    found = edit(sampler, oracle(schedule, IMAGES), IMAGES, KEYS)
    np.testing.assert_allclose(found, IMAGES, atol=2e-4)


@pytest.mark.long
@pytest.mark.parametrize('case', [(name, {}) for name in SAMPLERS if name not in DRAW])
def test_a_network_that_names_the_noise_undoes_the_edit(case):
    """Deterministic samplers walk back the line they came from; the noise is that of the stream
    START_STREAM, drawn per image.
    """
    _, sampler = build(*case, edit_timesteps(150, 6), clip_sample=False)
    noise = jnp.stack(
        [jax.random.normal(jax.random.fold_in(key, START_STREAM), SHAPE) for key in KEYS]
    )
    np.testing.assert_allclose(start_noise(KEYS, SHAPE), noise, atol=1e-6)
    np.testing.assert_allclose(edit(sampler, lambda x, t: noise, IMAGES, KEYS), IMAGES, atol=1e-4)


@pytest.mark.long
@pytest.mark.parametrize('case', ALL, ids=str)
def test_batches_change_nothing(case):
    _, sampler = build(*case, edit_timesteps(80, 5))
    run = jax.jit(functools.partial(edit, sampler, wobble))
    whole = run(IMAGES, KEYS)
    order = jnp.array([5, 2, 0])
    np.testing.assert_allclose(run(IMAGES[order], KEYS[order]), whole[order], atol=1e-6)
    assert np.abs(whole - IMAGES).max() > 1e-2


@pytest.mark.long
@pytest.mark.parametrize('case', ALL, ids=str)
def test_the_scan_is_the_chain_by_hand_and_keeps_its_last_states(case):
    _, sampler = build(*case, edit_timesteps(80, 7))
    states = by_hand(sampler, wobble, IMAGES, KEYS)
    out, kept = sample(sampler, wobble, IMAGES, KEYS, record=3)
    np.testing.assert_allclose(kept, states[-3:], atol=1e-5)
    np.testing.assert_array_equal(kept[-1], out)


@pytest.mark.long
@pytest.mark.parametrize('record', [1, 7])
def test_record_from_one_state_to_all(record):
    _, sampler = build('ddpm', {}, edit_timesteps(80, 7))
    out, kept = sample(sampler, wobble, IMAGES, KEYS, record=record)
    np.testing.assert_allclose(kept, by_hand(sampler, wobble, IMAGES, KEYS)[-record:], atol=1e-5)
    np.testing.assert_array_equal(sample(sampler, wobble, IMAGES, KEYS), out)


def clean_by_hand(case, schedule, sampler):
    """What the network takes the image for at each call: x_0 = (x - sigma eps) / alpha at the
    call's timestep, clipped.
    """
    seen, carry = [], sampler.init(3 * IMAGES)
    for i in range(sampler.steps):
        x, t = sampler.network_input(carry, i)
        bar = schedule.alphas_cumprod[int(t[0])]
        seen.append(
            np.clip(
                (np.asarray(x) - np.sqrt(1 - bar) * np.asarray(wobble(x, t))) / np.sqrt(bar), -1, 1
            )
        )
        noise = (
            normal(jax.vmap(jax.random.fold_in, (0, None))(KEYS, i)) if sampler.stochastic else None
        )
        carry = sampler.step(carry, i, wobble(x, t), noise)
    return seen


@pytest.mark.long
@pytest.mark.parametrize('case', ALL, ids=str)
def test_clean_images_can_be_kept_instead_of_states(case):
    schedule, sampler = build(*case, edit_timesteps(80, 5))
    out, kept = sample(sampler, wobble, 3 * IMAGES, KEYS, record=sampler.steps, state='x0')
    np.testing.assert_allclose(kept, clean_by_hand(case, schedule, sampler), atol=1e-5)
    np.testing.assert_array_equal(out, sample(sampler, wobble, 3 * IMAGES, KEYS))
    assert np.abs(kept).max() == 1


def test_clean_images_of_a_network_with_variance():
    """Channels for the variance are passed over; nothing is clipped where the sampler does not."""
    _, sampler = build('ddim', {'clip_sample': False}, [120, 60])
    _, kept = sample(
        sampler,
        lambda x, t: jnp.concatenate([wobble(x, t), 0 * x], -1),
        3 * IMAGES,
        KEYS,
        record=2,
        state='x0',
    )
    _, plain = sample(sampler, wobble, 3 * IMAGES, KEYS, record=2, state='x0')
    np.testing.assert_array_equal(kept, plain)
    assert np.abs(kept).max() > 1.5


@pytest.mark.long
@pytest.mark.parametrize('case', STOCHASTIC, ids=str)
def test_other_keys_other_noise(case):
    _, sampler = build(*case, edit_timesteps(80, 4))
    first, second = (sample(sampler, wobble, IMAGES, keys) for keys in (KEYS, KEYS[::-1]))
    assert np.abs(first - second).max() > 1e-2


@pytest.mark.parametrize('case', ALL, ids=str)
def test_the_network_is_in_the_program_once_and_random_bits_only_if_needed(case):
    _, sampler = build(*case, edit_timesteps(80, 40))
    text = str(jax.make_jaxpr(functools.partial(sample, sampler, wobble))(IMAGES, KEYS))
    assert text.count(' tanh ') == 1
    assert ('random_bits' in text) == (case in STOCHASTIC or case[0] in DRAW)


def test_edit_noises_to_the_first_timestep():
    schedule, sampler = build('ddim', {}, [120])
    seen = {}

    def predict(x, t):
        jax.debug.callback(lambda x, t: seen.update(x=x, t=t), x, t)
        return x

    jax.block_until_ready(edit(sampler, predict, IMAGES, KEYS))
    jax.effects_barrier()
    level = schedule.alphas_cumprod[120]
    np.testing.assert_array_equal(seen['t'], 120)
    expected = np.sqrt(level) * np.asarray(IMAGES) + np.sqrt(1 - level) * np.asarray(
        start_noise(KEYS, SHAPE)
    )
    np.testing.assert_allclose(seen['x'], expected, atol=1e-6)


@pytest.mark.long
def test_edit_noises_to_another_level_where_asked():
    """The released code of DataElixir noises one step further than the chain goes back."""
    _, sampler = build('ddpm', {'variance': 'fixed_large'}, edit_timesteps(80, 3))
    noised = 0.6 * np.asarray(IMAGES) + 0.8 * np.asarray(start_noise(KEYS, SHAPE))
    out, kept = edit(sampler, wobble, IMAGES, KEYS, level=(0.6, 0.8), record=2, state='x0')
    wanted, states = sample(sampler, wobble, jnp.asarray(noised), KEYS, record=2, state='x0')
    np.testing.assert_allclose(out, wanted, atol=1e-5)
    np.testing.assert_allclose(kept, states, atol=1e-5)
    assert np.abs(out - edit(sampler, wobble, IMAGES, KEYS)).max() > 1e-2


@pytest.mark.long
def test_sharded_chains_need_no_communication_and_agree():
    mesh = mesh_of(8)
    rows = NamedSharding(mesh, PartitionSpec('data'))
    _, sampler = build('ddpm', {}, edit_timesteps(80, 3))
    run = jax.jit(
        functools.partial(edit, sampler, wobble), in_shardings=(rows, rows), out_shardings=rows
    )
    images, keys = jax.device_put((IMAGES, KEYS), rows)
    text = run.lower(images, keys).compile().as_text()
    assert not any(
        word in text for word in ('all-gather', 'all-reduce', 'all-to-all', 'collective-permute')
    )
    np.testing.assert_allclose(run(images, keys), edit(sampler, wobble, IMAGES, KEYS), atol=1e-6)


def test_refusals():
    _, sampler = build('ddim', {}, [9, 3])
    with pytest.raises(UserError, match='one key per image'):
        sample(sampler, wobble, IMAGES, KEYS[:3])
    with pytest.raises(UserError, match='cannot record 3 states: choose 0 to the 2 calls'):
        sample(sampler, wobble, IMAGES, KEYS, record=3)
    with pytest.raises(UserError, match='x_t, x0'):
        sample(sampler, wobble, IMAGES, KEYS, record=1, state='eps')
