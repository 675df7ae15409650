"""Consistency distillation, on a network whose answers are known."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from purify.core.errors import UserError
from purify.diffusion.predictions import read_output
from purify.diffusion.run_chain import sample
from purify.diffusion.samplers import SAMPLERS
from purify.diffusion.schedules import add_noise, make_noise_schedule
from purify.train.objectives.consistency import SOFT, Consistency
from purify.train.state import split_network

SCHEDULE = make_noise_schedule('linear', 1000, clip_sample=False)
GREY = {'image': np.full((512, 4, 4, 1), 191, np.uint8)}  # .498 in [-1, 1]
MEAN, DEVIATION = 0.5, 0.3


class Normal(nnx.Module):
    """The best denoiser of pixels N(MEAN, DEVIATION^2), with a factor and a shift to be learned."""

    def __init__(self, factor=1.0, shift=0.0):
        self.alphas = nnx.data(jnp.asarray(SCHEDULE.alphas_cumprod, jnp.float32))
        self.factor, self.shift = nnx.Param(jnp.float32(factor)), nnx.Param(jnp.float32(shift))

    def __call__(self, x, t, *, key=None):
        a = self.alphas[t][:, None, None, None]
        variance = a * DEVIATION**2 + 1 - a
        eps = jnp.sqrt(1 - a) * (x - jnp.sqrt(a) * MEAN) / variance
        return self.factor[...] * eps + self.shift[...]


class Says(nnx.Module):
    """Names the noise that leads to one and the same clean image, whatever it sees."""

    def __init__(self, clean):
        self.alphas = nnx.data(jnp.asarray(SCHEDULE.alphas_cumprod, jnp.float32))
        self.clean = nnx.Param(jnp.float32(clean))

    def __call__(self, x, t, *, key=None):
        a = self.alphas[t][:, None, None, None]
        return (x - jnp.sqrt(a) * self.clean[...]) / jnp.sqrt(1 - a)


def loss_of(network, finished, stride=20, batch=GREY, key=0, schedule=SCHEDULE):
    graph, params, stats = split_network(network)
    theirs = dict(zip(('params', 'stats'), split_network(finished)[1:], strict=True))
    task = Consistency(graph, schedule, 4, 0.9, stride, theirs)
    return task(params, stats, theirs, batch, jax.random.key(key))


def test_who_always_sees_the_clean_image_is_consistent_with_a_finished_model_that_does():
    loss, (_, metrics) = loss_of(Says(191 / 127.5 - 1), Says(191 / 127.5 - 1))
    assert float(loss) < 1e-2
    assert float(metrics['distance']) < 1e-5


def test_the_loss_by_hand():
    """One image, at the timestep that its key draws; numbers from the definition, in float64."""
    key, stride = jax.random.key(5), 20
    batch = {'image': GREY['image'][:1]}
    time_key, noise_key, _ = jax.random.split(key, 3)
    t = int(jax.random.randint(time_key, (1,), 0, 1000)[0])
    assert t >= stride
    noise = np.asarray(jax.random.normal(noise_key, (1, 4, 4, 1)), np.float64)
    alpha, sigma = (table.astype(np.float64) for table in SCHEDULE.alpha_sigma(np.arange(1000)))
    x = alpha[t] * (191 / 127.5 - 1) + sigma[t] * noise

    def answer(x, t, factor):
        variance = alpha[t] ** 2 * DEVIATION**2 + sigma[t] ** 2
        return factor * sigma[t] * (x - alpha[t] * MEAN) / variance

    clean = lambda x, t, eps: (x - sigma[t] * eps) / alpha[t]
    eps, s = answer(x, t, 1.0), t - stride
    near = alpha[s] * clean(x, t, eps) + sigma[s] * eps
    apart = clean(x, t, answer(x, t, 0.7)) - clean(near, s, answer(near, s, 0.7))
    soft = SOFT * 4
    wanted = (np.sqrt((apart**2).sum() + soft**2) - soft) / (
        sigma[t] / alpha[t] - sigma[s] / alpha[s]
    )
    found, _ = loss_of(Normal(0.7), Normal(), stride, batch, 5)
    np.testing.assert_allclose(float(found), wanted, rtol=1e-4)


def test_nothing_flows_back_through_the_target_or_the_finished_model():
    """The gradient is that of the same loss with a target that was worked out before."""
    key, stride = jax.random.key(5), 20
    batch = {'image': GREY['image'][:1]}
    graph, params, stats = split_network(Normal(0.7))
    theirs = dict(zip(('params', 'stats'), split_network(Normal())[1:], strict=True))
    task = Consistency(graph, SCHEDULE, 4, 0.9, stride, theirs)
    time_key, noise_key, _ = jax.random.split(key, 3)
    t = jax.random.randint(time_key, (1,), 0, 1000)
    assert int(t[0]) >= stride
    x0 = jnp.asarray(batch['image'], jnp.float32) / 127.5 - 1
    x = add_noise(SCHEDULE, x0, jax.random.normal(noise_key, x0.shape), t)
    clean, eps = read_output(SCHEDULE, Normal()(x, t), x, t)
    near = add_noise(SCHEDULE, clean, eps, t - stride)
    goal = read_output(SCHEDULE, Normal(0.7)(near, t - stride), near, t - stride)[0]
    alpha, sigma = (table[t[0]] for table in SCHEDULE.alpha_sigma(np.arange(1000)))
    below, above = (table[t[0] - stride] for table in SCHEDULE.alpha_sigma(np.arange(1000)))

    def known(params):
        network = nnx.merge(graph, params, stats)
        apart = read_output(SCHEDULE, network(x, t), x, t)[0] - goal
        soft = SOFT * 4
        distance = jnp.sqrt(jnp.square(apart).sum() + soft**2) - soft
        return distance / (sigma / alpha - above / below)

    loss = lambda params, frozen: task(params, stats, frozen, batch, key)[0]
    of_mine, of_theirs = jax.grad(loss, (0, 1))(params, theirs)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3), of_mine, jax.grad(known)(params)
    )
    assert all(float(jnp.abs(x).max()) == 0 for x in jax.tree.leaves(of_theirs))
    assert all(float(jnp.abs(x).max()) > 0 for x in jax.tree.leaves(of_mine))


def test_what_lies_beyond_white_is_clipped_and_learns_all_the_same():
    clipping = make_noise_schedule('linear', 1000, clip_sample=True)
    graph, params, stats = split_network(Says(1.3))  # beyond white
    theirs = dict(zip(('params', 'stats'), split_network(Says(-1.0))[1:], strict=True))
    task = Consistency(graph, clipping, 4, 0.9, 999, theirs)  # nearly all steps lead to the image
    loss = lambda params: task(params, stats, theirs, GREY, jax.random.key(0))[0]
    found, slope = jax.value_and_grad(loss)(params)
    assert float(slope['clean']) > 0
    plain = Consistency(graph, SCHEDULE, 4, 0.9, 999, theirs)
    unclipped = plain(params, stats, theirs, GREY, jax.random.key(0))[0]
    assert float(found) == pytest.approx(float(unclipped) * 2.0 / 2.3, rel=0.02)


def test_one_call_of_what_was_distilled_is_the_chain_of_the_finished_model():
    """The chain of the best denoiser turns N(0, 1) into the pixels; one call of it only into MEAN.

    A network that may scale and shift its answer at each noise level can learn the chain's end.
    """

    class Learns(Normal):
        def __init__(self):
            super().__init__()
            self.scales = nnx.Param(jnp.zeros(11))

        def __call__(self, x, t, *, key=None):
            scale = jnp.interp(t, jnp.linspace(0, 999, 11), self.scales[...])
            return super().__call__(x, t) * (1 + scale[:, None, None, None])

    rng = np.random.default_rng(0)
    images = np.clip(127.5 * (1 + MEAN + DEVIATION * rng.standard_normal((256, 4, 4, 1))), 0, 255)
    batch = {'image': images.astype(np.uint8)}
    graph, params, stats = split_network(Learns())
    theirs = dict(zip(('params', 'stats'), (params, stats), strict=True))
    task = Consistency(graph, SCHEDULE, 4, 0.9, 100, theirs)
    optimizer = optax.adam(optax.cosine_decay_schedule(1e-2, 400))

    @jax.jit
    def update(params, state, key):
        grads = jax.grad(lambda p: task(p, stats, theirs, batch, key)[0])(params)
        changes, state = optimizer.update(grads, state)
        return optax.apply_updates(params, changes), state

    state = optimizer.init(params)
    for step in range(400):
        params, state = update(params, state, jax.random.key(step))
    keys = jax.random.split(jax.random.key(1), 512)
    start = jax.random.normal(jax.random.key(2), (512, 4, 4, 1))
    once = SAMPLERS.make('consistency', SCHEDULE, [700])
    whole = SAMPLERS.make('ddim', SCHEDULE, range(700, -1, -100))
    alpha, sigma = (float(table[0]) for table in SCHEDULE.alpha_sigma(np.array([700])))
    noised = alpha * MEAN + np.sqrt(alpha**2 * DEVIATION**2 + sigma**2) * start  # q(x_700)
    end = lambda chain, weights: sample(chain, nnx.merge(graph, weights, stats), noised, keys)
    wanted = end(whole, theirs['params'])
    assert float(jnp.std(wanted)) > 0.5 * DEVIATION
    apart = lambda found: float(jnp.sqrt(jnp.square(found - wanted).mean()))
    assert apart(end(once, theirs['params'])) > 0.5 * DEVIATION  # the mean of all there may be
    assert apart(end(once, params)) < 0.15 * DEVIATION


@pytest.mark.parametrize('stride', [0, -1, 1.5, 1000, 5000])
def test_strides_that_are_none(stride):
    with pytest.raises(UserError, match='stride'):
        Consistency(None, SCHEDULE, 4, 0.9, stride)
