"""Flows of many classes at once: their places on the devices, how they are trained and judged."""

import math
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from purify.core.types import Facts, Tree
from purify.train.state import split_network

ROWS = 1024  # at a time under one flow


@dataclass(frozen=True)
class Layout:
    """How the flows of `count` classes are spread over the devices, as many on each.

    Where the classes do not split evenly, some devices have copies of classes that nobody looks at.
    """

    mesh: Mesh
    count: int

    @property
    def order(self) -> np.ndarray:
        """Which class each place holds."""
        return np.arange(math.ceil(self.count / self.mesh.size) * self.mesh.size) % self.count

    @property
    def spread(self) -> NamedSharding:
        """The sharding of arrays with one entry for each class."""
        return NamedSharding(self.mesh, PartitionSpec('data'))

    def put(self, array: np.ndarray, *, copies: bool = True) -> jax.Array:
        """Places values [C ...] that every host has; without `copies` spare places hold zeros."""
        whole = array[self.order]
        if not copies:
            whole[self.count :] = 0
        return jax.make_array_from_callback(whole.shape, self.spread, lambda where: whole[where])

    def widen(self, tree: Tree) -> Any:
        """Repeats entries of arrays [C ...] until every place has one; the outputs are `spread`."""
        return jax.tree.map(lambda x: x[self.order], tree)

    def narrow(self, tree: Tree) -> Any:
        """Undoes `widen`, so that what is kept on disk does not depend on the devices."""
        return jax.tree.map(lambda x: x[: self.count], tree)

    def each(self, function: Any, *, shared: int = 0) -> Any:
        """Runs a function of arrays [C ...] by devices; all share its `shared` last arguments."""
        spec, whole = PartitionSpec('data'), PartitionSpec()

        def call(*args: Any) -> Any:
            specs = (spec,) * (len(args) - shared) + (whole,) * shared
            return jax.shard_map(
                function, mesh=self.mesh, in_specs=specs, out_specs=spec, check_vma=False
            )(*args)

        return call


@dataclass(frozen=True)
class Flows:
    """The flows of all classes as pure functions; states hold one entry for each class."""

    graph: nnx.GraphDef
    optimizer: optax.GradientTransformation
    keep_best: bool

    def start(self, build: Any, keys: jax.Array) -> tuple[Tree, Facts]:
        """Makes fresh flows from keys [C]: what no update changes (orders), and their state."""
        params, stats = jax.vmap(lambda key: split_network(build(nnx.Rngs(key)))[1:])(keys)
        count, opt = len(keys), jax.vmap(self.optimizer.init)(params)
        none = {'nll': jnp.zeros(count), 'held': jnp.full(count, jnp.inf)}
        none |= {'epoch': jnp.zeros(count, jnp.int32)}
        return stats, {'params': params, 'best': jax.tree.map(jnp.copy, params), 'opt': opt} | none

    def log_density(self, params: Tree, stats: Tree, rows: jax.Array) -> jax.Array:
        """Log densities f32[b] of rows f32[b d] under one flow."""
        return nnx.merge(self.graph, params, stats).log_density(rows)

    def advance(
        self, state: Tree, stats: Tree, picks: jax.Array, live: jax.Array, features: jax.Array
    ) -> Any:
        """Updates of all flows side by side, adding up `nll` of the live ones.

        picks i32[C k batch] are rows of `features` f32[n d], which all flows share; live bool[C k].
        """

        def loss(params: Tree, stats: Tree, batch: jax.Array) -> jax.Array:
            return -self.log_density(params, stats, batch).mean()

        def update(stats: Tree, carry: Tree, now: tuple[jax.Array, ...]) -> tuple[Any, None]:
            (params, opt, total), (chosen, live) = carry, now
            nll, grads = jax.value_and_grad(loss)(params, stats, features[chosen])
            changes, new_opt = self.optimizer.update(grads, opt, params)
            new = optax.apply_updates(params, changes), new_opt, total + nll
            return jax.tree.map(partial(jnp.where, live), new, carry), None

        def one(carry: Tree, stats: Tree, picks: jax.Array, live: jax.Array) -> Any:
            return jax.lax.scan(partial(update, stats), carry, (picks, live))[0]

        carry = state['params'], state['opt'], state['nll']
        params, opt, nll = jax.vmap(one)(carry, stats, picks, live)
        return state | {'params': params, 'opt': opt, 'nll': nll}

    def judge(
        self, params: Tree, stats: Tree, held: jax.Array, counts: jax.Array, features: jax.Array
    ) -> jax.Array:
        """Mean negative log-likelihoods f32[C] of classes' first `counts` rows `held` i32[C h]."""

        def mean(one: tuple[Tree, Tree, jax.Array, jax.Array]) -> jax.Array:
            params, stats, rows, count = one
            log_density = lambda row: self.log_density(params, stats, features[row])
            found = -jax.lax.map(log_density, rows, batch_size=ROWS)
            counted = jnp.where(jnp.arange(len(rows)) < count, found, 0.0)
            return counted.sum() / jnp.maximum(count, 1)

        return jax.lax.map(mean, (params, stats, held, counts))

    def keep(self, state: Tree, held: jax.Array, epoch: jax.Array) -> Any:
        """Keeps the best parameters so far: these, if held-out rows, `held` f32[], are likelier.

        Ends an epoch. All flows keep those of one epoch: a class that stopped sooner would have a
        flatter density than the others, and be told from them by that.
        """
        better = held < state['held'][0] if self.keep_best else jnp.array(True)
        take = lambda new, old: jnp.where(better, new, old)
        best = jax.tree.map(take, state['params'], state['best'])
        held = take(jnp.full_like(state['held'], held), state['held'])
        epoch = take(jnp.full_like(state['epoch'], epoch), state['epoch'])
        kept = {'best': best, 'held': held, 'epoch': epoch}
        return state | kept | {'nll': jnp.zeros_like(state['nll'])}

    def everywhere(
        self, params: Tree, stats: Tree, features: jax.Array, first: jax.Array
    ) -> jax.Array:
        """Computes the log densities of a block of features under every flow, f32[C b].

        The block is `ROWS` features from `first` on, or all where there are fewer.

        One flow after another, so that memory does not grow with C.
        """
        rows = jax.lax.dynamic_slice_in_dim(features, first, min(ROWS, len(features)))
        return jax.lax.map(lambda flow: self.log_density(flow[0], flow[1], rows), (params, stats))
