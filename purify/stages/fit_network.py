"""The settings of a training, and the one loop that trains every network on a dataset on disk."""

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
    seeds, init = settings['seeds'], start
    if 'init' in work.inputs:
        init = starting_weights(work.inputs['init'], build, like, seeds['model'])
    fresh = {'seed': seeds['model'], 'keep_ema': task.ema_decay > 0, 'init': init, 'step': first}
    state = make_state(build, optimizer, mesh=mesh, **fresh)
    sizes = {'batch': settings['batch'], 'accumulate': settings['accumulate']}
    every = {name: run[name] for name in ('save_every', 'log_every')}
    span = {'first': first, 'steps': last, 'of': steps}
    own = {'seed': seeds['model'], 'writers': work.writers}
    plan = Plan(work.name, work.folder, **sizes, **every, **span, **own)
    order = {'batch': settings['batch'], 'seed': seeds['data'], 'transforms': transforms}
    hosts: Facts = {'place': Place(jax.process_index(), jax.process_count())}
    hosts |= {name: run[name] for name in ('threads', 'workers')}
    batches = lambda step: training_batches(split, start_step=step, **order, **hosts)
    return fit(task, optimizer, state, batches, plan, mesh, work.cost)
