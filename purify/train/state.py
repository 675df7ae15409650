"""What training carries from step to step."""

from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.sharding import Mesh

from purify.core.devices import is_cpu, replicated
from purify.core.randomness import stream_key
from purify.core.types import Tree
from purify.models.files.weights import abstract

Build = Callable[[nnx.Rngs], nnx.Module]


@flax.struct.dataclass
class TrainState:
    """The state of training as one pytree, saved and restored whole.

    Attributes:
      step: i32[], updates done.
      params: the trainable variables (f32), a plain nested dict.
      stats: everything else the network keeps (batch statistics).
      opt_state: optax's.
      ema: exponential moving average of params, or None where the task keeps none.
    """

    step: jax.Array
    params: Tree
    stats: Tree
    opt_state: optax.OptState
    ema: Tree | None

    def weights(self) -> dict[str, Tree]:
        """The weights of the finished network: the average if there is one, else the parameters."""
        return {'params': self.params if self.ema is None else self.ema, 'stats': self.stats}


def split_network(network: nnx.Module) -> tuple[nnx.GraphDef, Tree, Tree]:
    """Splits a network into structure, trainable variables and the rest, for `nnx.merge`."""
    graph, params, stats = nnx.split(network, nnx.Param, ...)
    return graph, nnx.to_pure_dict(params), nnx.to_pure_dict(stats)


def abstract_network(build: Build) -> tuple[nnx.GraphDef, dict[str, Tree]]:
    """Structure and weights {'params', 'stats'} as `ShapeDtypeStruct`s; makes no arrays."""
    graph, params, stats = split_network(abstract(build))
    return graph, {'params': params, 'stats': stats}


def state_maker(
    build: Build,
    optimizer: optax.GradientTransformation,
    *,
    seed: int,
    keep_ema: bool,
    step: int = 0,
) -> Callable[[Tree], TrainState]:
    """Makes a pure function from weights {'params', 'stats'} to a fresh state.

    Of None it makes weights of its own, from the stream 'init' of `seed`. The state is that after
    `step` updates that others have done.
    """

    def make(weights: Tree) -> TrainState:
        if weights is None:
            _, params, stats = split_network(build(nnx.Rngs(stream_key(seed, 'init'))))
        else:
            params, stats = weights['params'], weights['stats']
        ema = jax.tree.map(jnp.copy, params) if keep_ema else None
        return TrainState(jnp.int32(step), params, stats, optimizer.init(params), ema)

    return make


def make_state(
    build: Build,
    optimizer: optax.GradientTransformation,
    *,
    mesh: Mesh,
    init: Tree = None,
    **how: Any,
) -> TrainState:
    """A fresh state on every device of `mesh`, from the weights `init`; `how` as `state_maker`."""
    # It runs once: what LLVM takes longer for at its usual level would not pay.
    quick = {'xla_backend_optimization_level': 1} if is_cpu(mesh) else None
    make = state_maker(build, optimizer, **how)
    return jax.jit(make, out_shardings=replicated(mesh), compiler_options=quick)(init)
