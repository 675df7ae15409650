r"""Short trainings of priors of small photographs, to choose how `photos32` is made.

    python tests/tools/prior_trials.py DIR NAME [setting=value ...] >> prior_trials.jsonl

DIR is what `purify run --config prior:photos32,source=arrays:...` takes. Trains on the first 29,000
images there and prints the error of one call at several timesteps on the next 1,000, of which no
study knows: a line of JSON. Settings: channels (such as 32-64-96-128), attention (levels),
prediction, optimizer, lr, batch, steps, below, share.
"""

import json
import sys
import time
from dataclasses import asdict
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from photo_prior import in_batches

from purify.core import devices
from purify.data.augment import Flip
from purify.diffusion import predictions
from purify.diffusion.schedules import add_noise
from purify.stages.diffusion_settings import (
    NoiseSchedule,
    PixelNetwork,
    Timesteps,
    TrainedPrior,
)
from purify.stages.pixel_denoiser import make_denoiser, prior_builder
from purify.train.feed import Feed
from purify.train.loop import compile_step, feed_step, make_step
from purify.train.optim import make_optimizer
from purify.train.state import abstract_network, make_state

TRAINED, HELD = 29_000, 1000
TIMESTEPS = (25, 50, 100, 150, 200, 300, 400, 700)
USUAL = {'channels': '32-64-96-128', 'attention': 2, 'prediction': 'v_prediction'}
USUAL |= {'optimizer': 'muon', 'lr': 0.02, 'batch': 32, 'steps': 400, 'below': 400, 'share': 0.9}


def decibels(network, schedule, images, timestep):
    """The PSNR of one call on images f32[b h w c] in [-1, 1]; the mean of the images' own."""

    def error(images, noise):
        t = jnp.full(len(images), timestep)
        noised = add_noise(schedule, images, noise, t)
        clean, _ = predictions.read_output(schedule, network(noised, t), noised, t)
        return jnp.square(jnp.clip(clean, -1, 1) - images).mean((1, 2, 3))

    noise = np.random.default_rng(timestep).normal(size=images.shape).astype(np.float32)
    errors = in_batches(jax.jit(error), images, noise)
    return round(float(np.mean(10 * np.log10(4 / errors))), 3)


def main(folder, name, changes):
    """Trains, measures, and prints a line."""
    chosen = USUAL | {key: type(USUAL[key])(value) for key, value in changes.items()}
    devices.start()
    mesh = devices.global_mesh()
    images = np.load(Path(folder) / 'train.npz')['images'][: TRAINED + HELD]
    width = tuple(map(int, chosen['channels'].split('-')))
    look = {'layers_per_block': 1, 'attention_levels': chosen['attention'], 'norm_num_groups': 8}
    prior = TrainedPrior(
        network=PixelNetwork(32, width, **look),
        optim={'name': chosen['optimizer'], 'lr': chosen['lr'], 'warmup': 0.02, 'clip': 1.0},
        steps=chosen['steps'],
        batch=chosen['batch'],
        ema_decay=0.99,
        schedule=NoiseSchedule(prediction=chosen['prediction']),
        timesteps=Timesteps(chosen['below'], chosen['share']),
    )
    settings = asdict(prior)
    _, build = prior_builder(settings['network'], 3)
    graph, like = abstract_network(build)
    task, _ = make_denoiser(settings, graph)
    optimizer = make_optimizer(prior.steps, **settings['optim'])
    state = make_state(build, optimizer, mesh=mesh, seed=0, keep_ema=True)
    columns = {'image': images[:TRAINED], 'id': np.arange(TRAINED, dtype=np.int32)}
    held = devices.put_copy({'position': columns}, mesh)
    feed = Feed(lambda step: iter(()), held, (Flip(),), 0)
    update = feed_step(make_step(task, optimizer, 1, 0, prior.steps), feed)
    order = np.random.default_rng(0).permuted(np.tile(np.arange(TRAINED), (99, 1)), axis=1)
    rows = order.ravel()[: prior.steps * prior.batch].reshape(prior.steps, -1).astype(np.int32)
    draw = lambda step: devices.put_batch({'position': rows[step]}, mesh)
    program, _ = compile_step(update, mesh, state, (), held, draw(0))
    started, spent = time.time(), time.process_time()
    for step in range(prior.steps):
        state, _ = program(state, (), held, draw(step))
    jax.block_until_ready(state)
    cost = {'seconds': time.time() - started, 'processor_seconds': time.process_time() - spent}
    signed = images[TRAINED:].astype(np.float32) / 127.5 - 1
    weights = state.weights()
    network = nnx.merge(graph, weights['params'], weights['stats'])
    found = {str(t): decibels(network, task.schedule, signed, t) for t in TIMESTEPS}
    count = sum(int(np.prod(x.shape)) for x in jax.tree.leaves(like['params']))
    row = {'name': name, 'parameters': count} | chosen | {'psnr': found}
    print(json.dumps(row | {key: round(value) for key, value in cost.items()}), flush=True)


if __name__ == '__main__':
    main(sys.argv[1], sys.argv[2], dict(word.split('=', 1) for word in sys.argv[3:]))
