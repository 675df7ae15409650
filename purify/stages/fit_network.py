"""The settings of a training, and the one loop that trains every network on a dataset on disk."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import jax

from purify.core import devices
from purify.core.types import Facts, Settings, Tree
from purify.data.augment import AUGMENTATIONS
from purify.data.loader import Place, RandomTransform, Split, training_batches
from purify.engine.stage import Work
from purify.stages.networks_on_disk import starting_weights
from purify.train.loop import Plan, fit
from purify.train.objectives.semi_supervised import FitHead, head_only
from purify.train.objectives.tasks import Task
from purify.train.optim import make_optimizer, total_steps
from purify.train.state import Build, TrainState, make_state


def make_augmentations(settings: Settings) -> list[RandomTransform]:
    """Makes the transforms of the `augment` part of a config, in the order written there."""
    listed = lambda value: tuple(value) if isinstance(value, list) else value
    return [
        AUGMENTATIONS.make(name, **{k: listed(v) for k, v in options.items()})
        for name, options in settings.items()
    ]


def fit_network(
    work: Work,
    task: Task,
    build: Build,
    like: Tree,
    split: Split,
    transforms: list[RandomTransform],
    *,
    start: Tree = None,
) -> TrainState:
    """Trains a network in `work.folder` by `work.settings`, from the last checkpoint there, if any.

    Settings: epochs or steps, batch, accumulate, optim, seeds; with `part` (first, last), it does
    these updates of a longer run alone, with an optimiser of its own. `like` are its weights as
    shapes. A new training starts from the weights in the input `init`, else from `start`, else from
    fresh ones.
    """
    settings, run, mesh = work.settings, work.run, devices.global_mesh()
    steps = total_steps(settings['epochs'], settings['steps'], len(split), settings['batch'])
    optimizer = make_optimizer(steps, **settings['optim'])
    optimizer = head_only(optimizer) if isinstance(task, FitHead) else optimizer
    first, last = settings.get('part', (0, steps))
    seed = settings['seeds']
    init = (
        starting_weights(work.inputs['init'], build, like, seed['model'])
        if 'init' in work.inputs
        else start
    )
    keep_ema = task.ema_decay > 0
    state = make_state(
        build, optimizer, seed=seed['model'], keep_ema=keep_ema, mesh=mesh, init=init, step=first
    )
    plan = Plan(
        name=work.name,
        folder=work.folder,
        batch=settings['batch'],
        steps=last,
        accumulate=settings['accumulate'],
        seed=seed['model'],
        save_every=run['save_every'],
        log_every=run['log_every'],
        writers=work.writers,
        first=first,
        of=steps,
    )
    place = Place(jax.process_index(), jax.process_count())
    batches: Any = partial(_batches, split, settings['batch'], seed['data'], transforms, run, place)
    return fit(task, optimizer, state, batches, plan, mesh, work.cost)


def _batches(
    split: Split,
    batch: int,
    seed: int,
    transforms: list[RandomTransform],
    run: Facts,
    place: Place,
    start: int,
) -> Iterator[Any]:
    threads, workers = run['threads'], run['workers']
    return training_batches(
        split,
        batch=batch,
        seed=seed,
        start_step=start,
        place=place,
        transforms=transforms,
        threads=threads,
        workers=workers,
    )
