"""Whole chains in one program: sampling, and editing an image by noising and denoising it."""

from collections.abc import Callable, Sequence
from functools import partial

import jax
import jax.numpy as jnp

from purify.core.errors import UserError
from purify.diffusion.chain_step import Carry, Sampler
from purify.diffusion.predictions import split_variance, x0_and_eps

Predict = Callable[[jax.Array, jax.Array], jax.Array]
Stretch = tuple[int, Predict]  # so many calls of a chain, and what is asked at them
STATES = ('x_t', 'x0')
START_STREAM = 2**31 - 1  # of the first noise; steps count from 0 and never get there


def normal_for(keys: jax.Array, stream: int | jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """N(0, 1) noise f32[b *shape], in which row b is a function of (keys[b], stream) alone."""
    draw = lambda key: jax.random.normal(jax.random.fold_in(key, stream), shape, jnp.float32)
    return jax.vmap(draw)(keys)


def start_noise(keys: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """The noise f32[b *shape] that a chain starts from or `edit` adds to images; keys key[b]."""
    return normal_for(keys, START_STREAM, shape)


def sample(
    sampler: Sampler,
    predict: Predict | Sequence[Stretch],
    x: jax.Array,
    keys: jax.Array,
    *,
    record: int = 0,
    state: str = 'x_t',
) -> jax.Array | tuple[jax.Array, jax.Array]:
    """Runs the whole chain from x f32[b h w c] as one `lax.scan`, or one for each stretch.

    x is noise, or images noised to `sampler.timesteps[0]`; `predict(x, t [b])` is the network, or
    stretches say which is asked at so many calls.
    Image b draws its noise at call i from `fold_in(keys[b], i)`; samplers that are not stochastic
    draw none. Returns f32[b h w c]; with `record` = m also the states of the last m calls f32[m b h
    w c], oldest first: what the chain is after the call ('x_t'; the last of them is the result), or
    what the network took the clean image for at it ('x0', clipped as the sampler clips). Raises
    `UserError` when keys and x disagree, the chain is shorter than m, and for another `state`.
    """
    if keys.shape != x.shape[:1]:
        raise UserError(f'{x.shape[0]} images need one key per image, got keys {keys.shape}.')
    if not 0 <= record <= sampler.steps:
        raise UserError(f'cannot record {record} states: choose 0 to the {sampler.steps} calls.')
    if state not in STATES:
        raise UserError(f'unknown state {state!r} to record. Choose from: {", ".join(STATES)}.')

    stretches = [(sampler.steps, predict)] if callable(predict) else predict
    assert sum(calls for calls, _ in stretches) == sampler.steps, 'stretches make up the chain'

    def call(
        predict: Predict, held: tuple[Carry, jax.Array], i: jax.Array
    ) -> tuple[tuple[Carry, jax.Array], None]:
        carry, kept = held
        x, t = sampler.network_input(carry, i)
        output = predict(x, t)
        noise = normal_for(keys, i, x.shape[1:]) if sampler.stochastic else None
        carry = sampler.step(carry, i, output, noise)
        if record:  # a ring, so that a long chain holds m states and not all of them
            now = sampler.final(carry) if state == 'x_t' else _clean_image(sampler, x, i, output)
            kept = jax.lax.dynamic_update_index_in_dim(kept, now, i % record, 0)
        return (carry, kept), None

    held, done = (sampler.init(x), jnp.zeros((record, *x.shape), jnp.float32)), 0
    for calls, ask in stretches:
        held, _ = jax.lax.scan(partial(call, ask), held, jnp.arange(done, done + calls))
        done += calls
    carry, kept = held
    if not record:
        return sampler.final(carry)
    return sampler.final(carry), jnp.roll(kept, -(sampler.steps % record), axis=0)


def edit(
    sampler: Sampler,
    predict: Predict,
    images: jax.Array,
    keys: jax.Array,
    *,
    level: tuple[float, float] | None = None,
    record: int = 0,
    state: str = 'x_t',
) -> jax.Array | tuple[jax.Array, jax.Array]:
    """Noises images f32[b h w c] in [-1, 1] to `sampler.timesteps[0]` and denoises them again.

    Returns as `sample` does. What SDEdit (Meng et al. 2022, algorithm 1) and a round of DataElixir
    (Zhou et al. 2024) do; build it on `edit_timesteps(start, steps, name)`. The noise of image b
    comes from `fold_in(keys[b], START_STREAM)`; `level` = (alpha, sigma) noises to another level
    than the chain starts from, as DataElixir's released code does.
    """
    alpha, sigma = level or (sampler.at('alpha', 0), sampler.at('sigma', 0))
    noised = alpha * images + sigma * start_noise(keys, images.shape[1:])
    return sample(sampler, predict, noised, keys, record=record, state=state)


def _clean_image(sampler: Sampler, x: jax.Array, i: jax.Array, output: jax.Array) -> jax.Array:
    """x_0 f32[b h w c] that the network's output on x stands for at call i."""
    output, _ = split_variance(output, x.shape[-1])
    level = (jnp.asarray(table, jnp.float32)[i] for table in sampler.levels())
    x0, _ = x0_and_eps(sampler.prediction, output, x, *level)
    return x0 if sampler.clip is None else jnp.clip(x0, -sampler.clip, sampler.clip)
