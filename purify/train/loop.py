"""The one training loop."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from purify.core import devices, preemption
from purify.core.checkpoint import Checkpoints
from purify.core.errors import Preempted, UserError
from purify.core.files import write_json
from purify.core.progress import Bar
from purify.core.randomness import stream_key
from purify.core.types import Tree
from purify.core.writers import JsonLines, Writer
from purify.data.training_set import Held
from purify.train.cost import COST_FILE, Cost
from purify.train.feed import Feed
from purify.train.flops import compile_counted
from purify.train.objectives.tasks import Batch, Metrics, Task
from purify.train.state import TrainState

Update = Callable[[TrainState, Any, Batch], tuple[TrainState, Metrics]]
FedUpdate = Callable[[TrainState, Any, Held, Batch], tuple[TrainState, Metrics]]


@dataclass(frozen=True)
class Plan:
    """How a training stage runs.

    Only `batch`, `steps`, `accumulate`, `seed`, `first` and `of` change its result.

    Attributes:
      name: the stage's, for bars and logs.
      folder: where its checkpoints and metrics go.
      batch: images per step, over all hosts.
      steps: updates in all; of a part of a longer run, those that are done after it.
      accumulate: pieces a batch is worked through in, their gradients averaged (memory for time).
      seed: of dropout, diffusion steps and noise.
      save_every: steps between checkpoints.
      log_every: steps between metric rows.
      writers: copies of the metrics (TensorBoard, W&B).
      first: updates that the parts before this one have done; the state begins with as many.
      of: updates of the longer run, of which tasks are told the share that is done; 0: `steps`.
      together: the most updates that one program makes, where the rows live on the devices.
    """

    name: str
    folder: Path
    batch: int
    steps: int
    accumulate: int
    seed: int
    save_every: int
    log_every: int
    writers: Sequence[Writer] = ()
    first: int = 0
    of: int = 0
    together: int = 1

    def at_once(self) -> int:
        """The most updates of one program, so that it ends wherever rows or states are saved."""
        every = math.gcd(self.save_every, self.log_every)
        return max(steps for steps in range(1, self.together + 1) if every % steps == 0)


def make_step(
    task: Task, optimizer: optax.GradientTransformation, accumulate: int, seed: int, steps: int = 1
) -> Update:
    """Makes a pure function of one update, whose randomness depends on (seed, step, piece) alone.

    `steps` are those of the whole run. Tasks find the share of the run that is done as
    `batch['progress']` f32[], from 0 to 1.
    """
    gradient = jax.value_and_grad(task, has_aux=True)

    def update(state: TrainState, frozen: Tree, batch: Batch) -> tuple[TrainState, Metrics]:
        key = jax.random.fold_in(stream_key(seed, 'train'), state.step)
        progress = jnp.minimum(state.step / steps, 1.0)

        def piece(carry: Tree, part: tuple[jax.Array, Batch]) -> tuple[Any, Any]:
            stats, total = carry
            own, rows = jax.random.fold_in(key, part[0]), part[1] | {'progress': progress}
            (loss, (stats, metrics)), grads = gradient(state.params, stats, frozen, rows, own)
            return (stats, jax.tree.map(jnp.add, total, grads)), metrics | {'loss': loss}

        carry = state.stats, jax.tree.map(jnp.zeros_like, state.params)
        if accumulate == 1:  # a loop of one would cost XLA's CPU backend its threads
            carry, metrics = piece(carry, (jnp.int32(0), batch))
        else:
            # Piece j takes rows j, j + accumulate, ...: each device's rows stay on it.
            split = lambda x: x.reshape(-1, accumulate, *x.shape[1:]).swapaxes(0, 1)
            pieces = jnp.arange(accumulate), jax.tree.map(split, batch)
            carry, metrics = jax.lax.scan(piece, carry, pieces)
        stats, total = carry
        grads = jax.tree.map(lambda g: g / accumulate, total)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        ema = state.ema
        if ema is not None:  # a short memory at first, or the random start would linger
            decay = jnp.minimum(task.ema_decay, (1.0 + state.step) / (10.0 + state.step))
            ema = optax.incremental_update(params, ema, 1 - decay)
        means = jax.tree.map(jnp.mean, metrics) | {'gradient_norm': optax.tree.norm(grads)}
        return TrainState(state.step + 1, params, stats, opt_state, ema), means

    return update


def feed_step(update: Update, feed: Feed) -> FedUpdate:
    """Makes an update that gets what `feed` draws: (state, frozen, held, drawn)."""

    def fed(state: TrainState, frozen: Any, held: Held, drawn: Batch) -> tuple[TrainState, Metrics]:
        return update(state, frozen, feed.rows(held, drawn, state.step))

    return fed


def repeat_step(update: FedUpdate) -> FedUpdate:
    """Makes an update for several batches [steps b ...] in one program; metrics are the last's."""

    def many(state: TrainState, frozen: Any, held: Held, drawn: Batch) -> Any:
        state, metrics = jax.lax.scan(
            lambda state, one: update(state, frozen, held, one), state, drawn
        )
        return state, jax.tree.map(lambda x: x[-1], metrics)

    return many


def compile_step(update: FedUpdate, mesh: Mesh, *args: Any) -> tuple[Any, float]:
    """Compiles an update of (state, frozen, held, drawn) for this mesh; counts its FLOPs.

    The state is replicated and donated.
    """
    copy = devices.replicated(mesh)
    traced = jax.jit(update, donate_argnums=0, out_shardings=(copy, copy)).trace(*args)
    return compile_counted(traced, devices=mesh.size)


class _Log:
    """Rows of metrics, read from the device one interval late so that reading never holds it up."""

    def __init__(self, plan: Plan, start: int, lead: bool):
        self.own = [JsonLines(plan.folder / 'metrics.jsonl', start)] if lead else []
        self.plan, self.writers = plan, [*self.own, *(plan.writers if lead else ())]
        self.waiting: tuple[int, dict[str, jax.Array]] | None = None
        self.note = ''

    def put(self, step: int, metrics: dict[str, jax.Array]) -> None:
        self.flush()
        self.waiting = (step, metrics)

    def flush(self) -> None:
        if self.waiting is None:
            return
        step, metrics = self.waiting
        self.waiting = None
        row = {name: float(value) for name, value in metrics.items()}
        if not all(math.isfinite(value) for value in row.values()):
            first = max(step - self.plan.log_every, 0)
            raise UserError(
                f'{self.plan.name}: the loss or its gradient stopped being finite between steps'
                f' {first} and {step} ({row}). Lower optim.lr, set optim.clip, or train in float32;'
                ' the last checkpoint is kept.'
            )
        accuracy = f'  accuracy {row["accuracy"]:.3f}' if 'accuracy' in row else ''
        self.note = f'loss {row["loss"]:.3f}{accuracy}'
        for writer in self.writers:
            writer.write(self.plan.name, step, row)

    def close(self) -> None:
        self.flush()
        for writer in self.own:  # the copies serve the stages after this one too
            writer.close()


def fit(
    task: Task, optimizer: optax.GradientTransformation, state: TrainState,
    feed: Feed, plan: Plan, mesh: Mesh, cost: Cost,
) -> TrainState:  # fmt: skip
    """Trains until `plan.steps`, from the newest checkpoint in the folder if there is one.

    Args:
      task: what is minimised.
      optimizer: optax's.
      state: the fresh state; its layout says how a checkpoint is restored.
      feed: where the batches come from; what it holds is on the devices.
      plan: how long, how often, where.
      mesh: all devices of all hosts.
      cost: running totals.

    Raises:
      Preempted: after saving, when SIGTERM came.
      UserError: when the numbers stop being finite, or the batch does not split over devices.
    """
    _check_batch(plan, mesh)
    cost.devices = mesh.size
    checkpoints = Checkpoints(plan.folder / 'checkpoints')
    start, totals = plan.first, plan.folder / COST_FILE
    if checkpoints.latest() is not None:
        start, state = checkpoints.restore(state)
    log = _Log(plan, start, devices.is_lead())
    update = make_step(task, optimizer, plan.accumulate, plan.seed, plan.of or plan.steps)
    programs = _Programs(feed_step(update, feed), task, feed, mesh, cost)
    together = plan.at_once() if feed.held else 1

    def save(step: int) -> None:
        if devices.is_lead():
            write_json(totals, cost.totals())
        checkpoints.save(step, state)

    try:
        with Bar(plan.name, (plan.steps - plan.first) * plan.batch, shown=devices.is_lead()) as bar:
            bar.skip((start - plan.first) * plan.batch)
            stream = feed.batches(start) if start < plan.steps else iter(())
            done = start
            while done < plan.steps:
                whole = done % together == 0 and done + together <= plan.steps
                state, metrics, steps = programs.run(state, stream, together if whole else 1)
                done += steps
                cost.images += plan.batch * steps
                bar.advance(plan.batch * steps, log.note)
                if done % plan.log_every == 0 or done == plan.steps:
                    log.put(done, metrics)
                if _must_stop(done, plan.log_every):
                    log.flush()
                    save(done)
                    raise Preempted
                if done % plan.save_every == 0 or done == plan.steps:
                    log.flush()  # never save a state that is not finite
                    save(done)
    finally:
        checkpoints.close()
        log.close()
    return state


def _check_batch(plan: Plan, mesh: Mesh) -> None:
    if plan.batch % (mesh.size * plan.accumulate):
        raise UserError(
            f'{plan.name}: batch={plan.batch} does not split over {mesh.size} devices x'
            f' accumulate={plan.accumulate}; choose a multiple.'
        )


class _Programs:
    """The compiled updates, by how many steps they make."""

    def __init__(self, update: FedUpdate, task: Task, feed: Feed, mesh: Mesh, cost: Cost):
        self.update, self.task, self.mesh, self.cost = update, task, mesh, cost
        self.held = feed.held
        self.compiled: dict[int, tuple[Any, float]] = {}

    def run(
        self, state: TrainState, stream: Iterator[Any], steps: int
    ) -> tuple[TrainState, dict[str, jax.Array], int]:
        """Makes so many updates; returns the state, the last one's metrics, and how many."""
        with self.cost.timing('wait_seconds'):
            drawn = next(stream)
            if steps > 1:
                rest = [next(stream) for _ in range(steps - 1)]
                drawn = jax.tree.map(lambda *rows: np.stack(rows), drawn, *rest)
            drawn = devices.put_batch(drawn, self.mesh, axis=int(steps > 1))
        args = state, self.task.frozen, self.held, drawn
        if steps not in self.compiled:
            with self.cost.timing('compile_seconds'):
                update = repeat_step(self.update) if steps > 1 else self.update
                self.compiled[steps] = compile_step(update, self.mesh, *args)
        program, flops = self.compiled[steps]
        state, metrics = program(*args)
        self.cost.flops += flops
        return state, metrics, steps


def _must_stop(step: int, every: int) -> bool:
    """Whether to leave now. Hosts decide together, every few steps; a lone host at once."""
    if jax.process_count() == 1:
        return preemption.asked()
    return step % every == 0 and devices.any_host(preemption.asked())
