"""The settings of a training, and the one loop that trains every network on a dataset on disk."""

from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from purify.core import devices
from purify.core.randomness import stream_key, stream_rng
from purify.core.types import Facts, Tree
from purify.data.augment import make_augmentations
from purify.data.loader import Record
from purify.data.training_set import Place, RandomTransform, TrainingSet
from purify.engine.stage import Work
from purify.models.files.weights import abstract
from purify.stages.networks_on_disk import starting_weights
from purify.train.feed import Feed
from purify.train.loop import Plan, fit
from purify.train.objectives.semi_supervised import FitHead, head_only
from purify.train.objectives.tasks import Task
from purify.train.optim import make_optimizer, total_steps
from purify.train.state import Build, TrainState, make_state, split_network

FIT_IMAGES = 2000  # that layers which are made from images see


def fit_network(
    work: Work,
    task: Task,
    build: Build,
    like: Tree,
    data: TrainingSet,
    *,
    start: Tree = None,
) -> TrainState:
    """Trains a network in `work.folder` by `work.settings`, from the last checkpoint there, if any.

    Settings: epochs or steps, batch, accumulate, augment, optim, seeds; with `part` (first, last),
    it does these updates of a longer run alone, with an optimiser of its own. `like` are its
    weights as shapes. A new training starts from `start`, else from the weights in the input
    `init`, else from fresh ones, which see some of the images where a layer is made from these.
    """
    settings, run, mesh = work.settings, work.run, devices.global_mesh()
    length = settings['epochs'], settings['steps'], len(data.split), settings['batch']
    steps = total_steps(*length, settings.get('least_steps', 0))
    optimizer = make_optimizer(steps, **settings['optim'])
    optimizer = head_only(optimizer) if isinstance(task, FitHead) else optimizer
    first, last = settings.get('part', (0, steps))
    seeds, init = settings['seeds'], start
    if start is None and 'init' in work.inputs:
        init = starting_weights(work.inputs['init'], build, like, seeds['model'])
    if init is None:
        init = fit_fresh(build, data, seeds['model'])
    fresh = {'seed': seeds['model'], 'keep_ema': task.ema_decay > 0, 'init': init, 'step': first}
    state = make_state(build, optimizer, mesh=mesh, **fresh)
    sizes = {'batch': settings['batch'], 'accumulate': settings['accumulate']}
    every = {name: run[name] for name in ('save_every', 'log_every')}
    every['together'] = run['steps_together'] or (1 if devices.is_cpu(mesh) else 16)
    span = {'first': first, 'steps': last, 'of': steps}
    own = {'seed': seeds['model'], 'writers': work.writers}
    plan = Plan(work.name, work.folder, **sizes, **every, **span, **own)
    return fit(task, optimizer, state, make_feed(work, data, mesh), plan, mesh, work.cost)


def fit_fresh(build: Build, data: TrainingSet, seed: int) -> Tree:
    """Makes fresh weights of a network with parts that are fitted to images; None for others.

    Such a part has a method `fit_to`, which is given images u8[n h w c] from all over the dataset.
    """

    def fitted(network: nnx.Module) -> list[Any]:
        return [part for _, part in nnx.iter_modules(network) if hasattr(part, 'fit_to')]

    if not fitted(abstract(build)):
        return None
    network = build(nnx.Rngs(stream_key(seed, 'init')))
    count = len(data.split)
    places = np.linspace(0, count - 1, min(count, FIT_IMAGES), dtype=int)
    images = np.stack([data.split[place]['image'] for place in places.tolist()])
    for part in fitted(network):
        part.fit_to(images)
    _, params, stats = split_network(network)
    return jax.tree.map(np.asarray, {'params': params, 'stats': stats})


def make_feed(work: Work, data: TrainingSet, mesh: Mesh) -> Feed:
    """Makes the feed of a training: its images live on `mesh` if they fit in `resident_mb`.

    Settings: batch, augment, seeds.
    """
    settings, run = work.settings, work.run
    fits = data.bytes <= run['resident_mb'] * 2**20
    if not fits and run['resident_mb']:
        devices.say_once(
            f'{work.name}: {data.bytes / 2**20:,.0f} MiB of images are more than run.resident_mb ='
            f' {run["resident_mb"]:,}; they are read as they are needed'
        )
    resident = fits and not data.changes
    order: Facts = {'batch': settings['batch'], 'seed': settings['seeds']['data']}
    order |= {name: run[name] for name in ('threads', 'workers')} | {'numbers': resident}
    order['place'] = Place(jax.process_index(), jax.process_count())
    augmentations = make_augmentations(settings['augment'])
    order['epochs'] = any(augmentation.by_visit for augmentation in augmentations)
    batches = lambda step: data.batches(start_step=step, **order)
    seed = settings['seeds']['data']
    held = devices.put_copy(data.held(), mesh) if resident else {}
    feed = Feed(batches, held, augmentations, seed)
    if (poison := data.poison_last) is None:
        return feed
    return Feed(lambda step: poison_augmented(feed, poison, step))


def poison_augmented(feed: Feed, poison: RandomTransform, start: int) -> Iterator[Record]:
    """Yields the batches of `feed` from step `start` on, augmented here, and then poisoned."""
    change = jax.jit(feed.rows)
    for step, drawn in enumerate(feed.batches(start), start):
        rows = jax.tree.map(np.asarray, change({}, drawn, step))
        records = [
            {name: column[k] for name, column in rows.items()} for k in range(len(rows['id']))
        ]
        made = [
            poison.random_map(record, stream_rng(feed.seed, 'poison', step, int(record['id'])))
            for record in records
        ]
        yield {name: np.stack([np.asarray(record[name]) for record in made]) for name in made[0]}
