"""A prior and a classifier that can be written down, and images for them: clean, between two
classes, and under a trigger.
"""

import functools
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from support import dataelixir_reference as reference

from purify.core.randomness import id_keys, stream_key
from purify.diffusion.run_chain import START_STREAM
from purify.diffusion.schedules import make_noise_schedule
from purify.generative.pixel_prior import PixelPrior

CLASSES, SIZE, SHAPE = 4, 6, (6, 6, 3)
SCHEDULE = make_noise_schedule('linear', 20, beta_start=1e-3, beta_end=0.25)
DDPM = {'name': 'ddpm', 'variance': 'fixed_large', 'clip_sample': True}
EVERY: dict[str, Any] = {
    'rounds': 3,
    'start': 12,
    'steps': 12,
    'window': 3,
    'kept': 3,
    'sampler': DDPM,
    'forward': 'released',
}
EVERY |= {'state': 'x_t', 'levels': 'rounded', 'dtype': 'float32'}
RNG = np.random.default_rng(3)
PROTOTYPES = RNG.choice([-0.7, 0.7], (CLASSES, SIZE, SIZE, 3))
FAITH = 0.8
PROTOTYPES[:, -1, -1] = -0.7  # where the trigger goes


class Mixture(nnx.Module):
    """Draws an image towards those of a few prototypes that it may have come from; keeps some of
    what it sees, trigger or not.
    """

    def __init__(self, prototypes):
        self.prototypes = nnx.Param(jnp.asarray(prototypes, jnp.float32))
        self.bars = nnx.Param(jnp.asarray(SCHEDULE.alphas_cumprod, jnp.float32))

    def __call__(self, x, t):
        bar = self.bars[...][t][:, None, None, None]
        apart = x[:, None] - jnp.sqrt(bar)[:, None] * self.prototypes[...][None]
        weights = jax.nn.softmax(
            -(apart**2).sum((2, 3, 4)) / (2 * (1 - bar[:, :, 0, 0]) + 3), axis=-1
        )
        mean = FAITH * x + (1 - FAITH) * jnp.einsum('bk,khwc->bhwc', weights, self.prototypes[...])
        return (x - jnp.sqrt(bar) * mean) / jnp.sqrt(1 - bar)


def eps_by_hand(x, t):
    bar = SCHEDULE.alphas_cumprod[t]
    logits = np.array(
        [-((x - np.sqrt(bar) * p) ** 2).sum() / (2 * (1 - bar) + 3) for p in PROTOTYPES]
    )
    weights = np.exp(logits - logits.max())
    mean = FAITH * x + (1 - FAITH) * np.tensordot(weights / weights.sum(), PROTOTYPES, 1)
    return (x - np.sqrt(bar) * mean) / np.sqrt(1 - bar)


def make_prior(prototypes=PROTOTYPES):
    graph, params, rest = nnx.split(Mixture(prototypes), nnx.Param, ...)
    weights = {'params': nnx.to_pure_dict(params), 'stats': nnx.to_pure_dict(rest)}
    return PixelPrior(graph, weights, SCHEDULE, prototypes.shape[1], prototypes.shape[3])


def answer(weights, images):
    """Matched filters, and one for the trigger that overrides them in favour of class 0."""
    signed = 2 * images - 1
    scores = jnp.einsum('bhwc,khwc->bk', signed, weights)
    features = jnp.concatenate([scores, 10 * jax.nn.relu(signed[:, -1:, -1].sum(-1))], axis=-1)
    return (
        features[:, :CLASSES] + 100 * features[:, CLASSES:] * (jnp.arange(CLASSES) == 0)[None],
        features,
    )


def features_by_hand(levels):
    signed = 2 * levels / 255 - 1
    return np.array(
        [*(float((signed * p).sum()) for p in PROTOTYPES), 10 * max(0.0, signed[-1, -1].sum())]
    )


def label_by_hand(levels):
    features = features_by_hand(levels)
    return int(np.argmax(features[:CLASSES] + np.array([100 * features[CLASSES], 0, 0, 0])))


def make_rows(count=20):
    """Clean images, images between two classes, and images under the trigger with the label 0."""
    rng = np.random.default_rng(5)
    true = rng.integers(0, CLASSES, count)
    images = PROTOTYPES[true] + rng.normal(0, 0.3, (count, *SHAPE))
    images[::5] = (PROTOTYPES[true[::5]] + PROTOTYPES[(true[::5] + 1) % CLASSES]) / 2 + rng.normal(
        0, 0.1, (len(true[::5]), *SHAPE)
    )
    images[:, -1, -1] = -0.7
    images[3::4, -1, -1] = 1
    given = np.where(np.arange(count) % 4 == 3, 0, true)
    levels = reference.grey_levels(images).astype(np.uint8)
    return {
        'image': levels,
        'label': given.astype(np.int32),
        'id': np.arange(100, 100 + count, dtype=np.int32),
    }


ROWS = make_rows()
MODELS = {'prior': make_prior(), 'classifier': SimpleNamespace(answer=answer)}
CONSTANTS = {'prior': MODELS['prior'].weights, 'classifier': jnp.asarray(PROTOTYPES, jnp.float32)}


@functools.cache
def noises(seed):
    """The draws of every image and round: 'forward', and by index of the step, which is the call
    counted from the start.
    """
    streams = [START_STREAM, *range(12)]

    def draw(key, number):
        own = jax.random.fold_in(key, number)
        return jax.vmap(lambda stream: jax.random.normal(jax.random.fold_in(own, stream), SHAPE))(
            jnp.array(streams)
        )

    keys = id_keys(stream_key(seed, 'candidates'), ROWS['id'])
    draws = np.asarray(
        jax.jit(jax.vmap(jax.vmap(draw, (None, 0)), (0, None)))(keys, jnp.arange(3)), np.float64
    )
    names = ['forward', *reversed(range(12))]
    return [[dict(zip(names, turn, strict=True)) for turn in image] for image in draws]
