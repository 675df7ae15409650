"""Densities of features, one normalising flow for each class, all fitted at once."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
from jax.sharding import Mesh

from purify.core import devices, preemption
from purify.core.checkpoint import Checkpoints
from purify.core.errors import Preempted, UserError
from purify.core.files import write_json
from purify.core.progress import Bar
from purify.core.randomness import stream_key
from purify.core.types import Facts
from purify.core.writers import JsonLines, Writer
from purify.models.flow import CouplingFlow
from purify.train.class_batches import Classes, Fit, divide
from purify.train.cost import COST_FILE, Cost
from purify.train.flops import compile_counted
from purify.train.flows import ROWS, Flows, Layout
from purify.train.state import abstract_network

MOST_UPDATES = 128  # in one program's run, so that a stop is heeded soon


@dataclass(frozen=True)
class Densities:
    """What `fit_flows` found.

    Attributes:
      log_density: f32[n C], of every row under the flow of every class, in nats.
      held: bool[n], rows that their class's flow was not trained on.
      updates: i64[C], of each flow.
      best_epoch: the epoch whose parameters were kept.
    """

    log_density: np.ndarray
    held: np.ndarray
    updates: np.ndarray
    best_epoch: int


def fit_flows(
    features: np.ndarray, labels: np.ndarray, ids: np.ndarray, num_classes: int,
    flow: Mapping[str, Any], fit: Fit, seed: int, *, mesh: Mesh | None = None,
    cost: Cost | None = None, folder: Path | None = None, name: str = 'densities',
    save_every: int = 500, writers: Sequence[Writer] = (),
) -> Densities:  # fmt: skip
    """Fits flows to the features of each class, and tells how likely every row is under every one.

    Which rows are held out, the order of batches and the flows' beginnings are functions of (seed,
    class, ids); how many devices there are, and the order of the rows, change nothing but rounding.

    Args:
      features: f32[n d], standardised, on every host.
      labels: i32[n], as given.
      ids: i64[n].
      num_classes: C.
      flow: couplings, hidden, transform, mixing of `CouplingFlow`.
      fit: how.
      seed: of all that is drawn.
      mesh: all devices, over which the classes are spread; without one those of `global_mesh`.
      cost: running totals.
      folder: where checkpoints and metrics go; without one nothing is written.
      name: of the stage, for the bar and messages.
      save_every: updates between checkpoints.
      writers: copies of the metrics.

    Raises:
      UserError: for a class of fewer than 8 images or without an update, or when numbers stop being
        finite.
      Preempted: when SIGTERM came; after saving, if there is a folder.
    """
    place, cost = Layout(mesh or devices.global_mesh(), num_classes * fit.members), cost or Cost()
    classes = divide(labels, ids, num_classes, fit, seed)
    run = FlowFit(name, classes, place, dict(flow), features.astype(np.float32), cost)
    checkpoints = Checkpoints(folder / 'checkpoints') if folder else None
    try:
        done = run.restore(checkpoints) if checkpoints else 0
        _train(run, done, checkpoints, folder, save_every, writers)
    finally:
        if checkpoints:
            checkpoints.close()
    held = np.zeros(len(labels), bool)
    held[np.concatenate(classes.held)] = True
    whole = run.log_density().reshape(len(labels), num_classes, fit.members)
    updates = classes.until(classes.rounds)[:: fit.members]
    return Densities(whole.mean(-1), held, updates, run.best_epoch())


def _train(
    run: 'FlowFit', done: int, checkpoints: Checkpoints | None, folder: Path | None,
    save_every: int, writers: Sequence[Writer],
) -> None:  # fmt: skip
    """All updates after the first `done` pieces."""
    classes, cost, total = run.classes, run.cost, run.classes.rounds * run.pieces
    lead, since = devices.is_lead(), 0
    own = [JsonLines(folder / 'metrics.jsonl', done // run.pieces)] if folder and lead else []
    images = int(classes.until(classes.rounds).sum()) * classes.fit.batch
    try:
        with Bar(run.name, images, shown=lead) as bar:
            bar.skip(int(classes.until(done // run.pieces).sum()) * classes.fit.batch)
            for picks, live in run.batches(done):
                done += 1
                run.advance(picks, live)
                epoch, since, note = done // run.pieces, since + live.shape[1], ''
                if done % run.pieces == 0:
                    row = run.judge(epoch)
                    note = '  '.join(f'{key} {value:.3f}' for key, value in row.items())
                    for writer in [*own, *(writers if own else ())]:
                        writer.write(run.name, epoch, row)
                bar.advance(int(live.sum()) * classes.fit.batch, note)
                asked = devices.any_host(preemption.asked())
                if checkpoints and folder and (asked or since >= save_every or done == total):
                    state = run.narrow()
                    run.check(state['nll'], epoch)  # never save one that is not finite
                    if lead:
                        write_json(folder / COST_FILE, cost.totals())
                    checkpoints.save(done, state)
                    since = 0
                if asked:
                    raise Preempted
    finally:
        for writer in own:
            writer.close()


class FlowFit:
    """The state of a fit on the devices, and its programs, each compiled when first wanted.

    An epoch is worked through in `pieces` of `length` updates of every class that has so many.
    """

    def __init__(
        self, name: str, classes: Classes, place: Layout, flow: Facts, rows: np.ndarray, cost: Cost
    ):
        self.name, self.classes, self.place = name, classes, place
        self.features, self.cost = rows, cost
        self.pieces = math.ceil(classes.longest() / MOST_UPDATES)
        self.length = math.ceil(classes.longest() / self.pieces)
        build = lambda rngs: CouplingFlow(rows.shape[1], **flow, rngs=rngs)
        fit, spread = classes.fit, place.spread
        optimizer = optax.adam(fit.lr, fit.b1, fit.b2)
        flows = Flows(abstract_network(build)[0], optimizer, fit.hold_out > 0)
        first = jax.vmap(partial(jax.random.fold_in, stream_key(classes.seed, 'flows')))
        make = jax.jit(lambda labels: flows.start(build, first(labels)), out_shardings=spread)
        self.stats, self.state = make(place.put(np.arange(place.count)))
        # Rows of all classes: a copy for each would grow with the largest one.
        self.rows = devices.put_copy(rows, place.mesh)
        self.held, self.counts = map(place.put, classes.apart())
        copy = devices.replicated(place.mesh)
        self.functions = {
            'advance': jax.jit(place.each(flows.advance, shared=1), donate_argnums=0),
            'judge': jax.jit(place.each(flows.judge, shared=1), out_shardings=copy),
            'keep': jax.jit(flows.keep, donate_argnums=0, out_shardings=spread),
            'narrow': jax.jit(place.narrow, out_shardings=copy),
            'widen': jax.jit(place.widen, out_shardings=spread),
            'everywhere': jax.jit(place.each(flows.everywhere, shared=2), out_shardings=copy),
        }
        self.programs: dict[str, tuple[Any, float]] = {}

    def batches(self, done: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Picks i32[C length batch], live bool[C length] of each piece after the first `done`."""
        for epoch in range(done // self.pieces, self.classes.rounds):
            picks, live = self.classes.picks(epoch, self.pieces * self.length)
            first = done % self.pieces if epoch == done // self.pieces else 0
            for start in range(first * self.length, live.shape[1], self.length):
                yield picks[:, start : start + self.length], live[:, start : start + self.length]

    def advance(self, picks: np.ndarray, live: np.ndarray) -> None:
        """Trains all flows on one piece."""
        placed = self.place.put(picks), self.place.put(live, copies=False)
        self.state = self._call('advance', self.state, self.stats, *placed, self.rows)
        self.cost.images += int(live.sum()) * self.classes.fit.batch

    def judge(self, epoch: int) -> dict[str, float]:
        """Ends an epoch and returns its row of metrics, means over the updates and the classes.

        Raises `UserError` as `check` does.
        """
        params, own = self.state['params'], (self.held, self.counts)
        held = np.asarray(self._call('judge', params, self.stats, *own, self.rows), np.float64)
        mean = float(held[: self.place.count].mean())
        nll = self._look('nll').astype(np.float64)
        self.check(nll, epoch)
        numbers = devices.put_copy((np.float32(mean), np.int32(epoch)), self.place.mesh)
        self.state = self._call('keep', self.state, *numbers)
        updates = self.classes.until(epoch) - self.classes.until(epoch - 1)
        # What is left of an epoch may be less than half an update.
        row = {'loss': float(nll.sum() / max(1, updates.sum()))}
        return row | ({'held_out': mean} if self.classes.fit.hold_out else {})

    def check(self, nll: Any, epoch: int) -> None:
        """Raises `UserError` where the likelihood [C] of a class stopped being finite."""
        if not (finite := np.isfinite(np.asarray(nll))).all():
            raise UserError(
                f'{self.name}: the density of class'
                f' {int(np.argmin(finite)) // self.classes.fit.members} stopped being finite after'
                f' {epoch} epochs. Lower fit.lr, or reduce the features to fewer dimensions by'
                ' flows.reduce.'
            )

    def narrow(self) -> Any:
        """The state with one entry for each class, whatever the devices."""
        return self.functions['narrow'](self.state)

    def restore(self, checkpoints: Checkpoints) -> int:
        """Restores the newest checkpoint, if there is one; returns how many pieces it has done."""
        if checkpoints.latest() is None:
            return 0
        done, state = checkpoints.restore(self.narrow())
        self.state = self.functions['widen'](state)
        return done

    def best_epoch(self) -> int:
        """The epoch whose parameters were kept. Raises `UserError` where there was none."""
        best = int(self._look('epoch')[0])
        if not best:
            raise UserError(
                f'{self.name}: no epoch gave the images held out a finite density. '
                'Lower fit.lr, or reduce the features to fewer dimensions by flows.reduce.'
            )
        return best

    def log_density(self) -> np.ndarray:
        """Log densities f32[n C] of all rows under the kept flow of each class.

        Raises `UserError` for NaN, `Preempted` when SIGTERM came.
        """
        found = np.empty((len(self.features), self.place.count), np.float32)
        size = min(ROWS, len(self.features))
        for start in range(0, len(found), size):
            first = min(start, len(found) - size)  # the last rows go with some before them
            placed = devices.put_copy(np.int32(first), self.place.mesh)
            columns = self._call('everywhere', self.state['best'], self.stats, self.rows, placed)
            found[first : first + size] = np.asarray(columns)[: self.place.count].T
            if devices.any_host(preemption.asked()):
                raise Preempted
        if not (finite := np.isfinite(found)).all():
            row, label = np.argwhere(~finite)[0]
            raise UserError(
                f'{self.name}: {int((~finite).sum())} log densities are not finite, such as that of'
                f' image {row} under class {label // self.classes.fit.members}. Lower fit.lr or'
                ' flows.couplings, or reduce the features to fewer dimensions by flows.reduce.'
            )
        return found

    def _look(self, leaf: str) -> np.ndarray:
        """One small leaf of the state [C], without the rest of it."""
        return np.asarray(self.functions['narrow'](self.state[leaf]))

    def _call(self, name: str, *args: Any) -> Any:
        if name not in self.programs:
            with self.cost.timing('compile_seconds'):
                traced, size = self.functions[name].trace(*args), self.place.mesh.size
                self.programs[name] = compile_counted(traced, devices=size)
        program, flops = self.programs[name]
        self.cost.flops += flops
        return program(*args)
