"""Consistency distillation (Song et al. 2023): a diffusion model that needs one to four calls."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from purify.core.errors import UserError
from purify.core.limits import Count, Limited
from purify.core.types import Tree
from purify.diffusion.predictions import read_output, split_variance
from purify.diffusion.schedules import Schedule, per_image
from purify.train.objectives.tasks import Batch, Key, Result, Task, resize_to, signed_images
from purify.train.state import split_network

SOFT = 0.00054  # c of the pseudo-Huber distance, times the root of the number of values


@dataclass(frozen=True, eq=False)
class Consistency(Limited, Task, place='prior.'):
    """Distance between the clean images that a network sees at two neighbouring noise levels.

    The finished model (`frozen`) takes a step of DDIM from timestep t to t - `stride`; the network
    must see the same clean image in both states, as in consistency distillation (Song et al. 2023,
    algorithm 2). The target is the network itself without an average, and the distance
    pseudo-Huber, weighted by one over the step in sigma/alpha (Song & Dhariwal 2024, sections 3.1
    to 3.3). The network starts from the finished model, of whose structure it is: what it predicts
    (`schedule.prediction`) gives the clean image.

    Where the schedule clips clean images, the network is held to what is clipped, and its gradient
    is that of what is not: else a pixel beyond white could not learn to be black.

    Attributes:
      graph: of both networks.
      schedule: of the noise.
      size_px: of the network's images.
      ema_decay: see `Task`.
      stride: timesteps between the two states, fewer than the schedule has; steps below `stride`
        go to the clean image.
      frozen: the finished model's {'params', 'stats'}.
    """

    graph: nnx.GraphDef
    schedule: Schedule
    size_px: int
    ema_decay: float
    stride: Count
    frozen: Tree = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.stride >= self.schedule.steps:
            raise UserError(
                f'prior.stride={self.stride}: the schedule has {self.schedule.steps} timesteps;'
                ' choose fewer, such as a fiftieth of them.'
            )

    def __call__(self, params: Tree, stats: Tree, frozen: Tree, batch: Batch, key: Key) -> Result:
        """See `Task`."""
        images = resize_to(signed_images(batch['image']), self.size_px)
        time_key, noise_key, dropout_key = jax.random.split(key, 3)
        t = jax.random.randint(time_key, images.shape[:1], 0, self.schedule.steps)
        noise = jax.random.normal(noise_key, images.shape)
        later, goal_t = t - self.stride, jnp.maximum(t - self.stride, 0)
        alpha, sigma, level = (per_image(table, t, images) for table in self._levels())
        to_alpha, to_sigma, to_level = (
            jnp.where(_wide(later) < 0, clean, per_image(table, goal_t, images))
            for table, clean in zip(self._levels(), (1.0, 0.0, 0.0), strict=True)
        )
        x = alpha * images + sigma * noise
        finished = nnx.merge(self.graph, frozen['params'], frozen['stats'])
        clean, eps = self._read(finished(x, t), x, t)
        near = jax.lax.stop_gradient(to_alpha * clean + to_sigma * eps)
        network = nnx.merge(self.graph, params, stats)
        mine, _ = self._read(network(x, t, key=dropout_key), x, t)
        itself = nnx.merge(self.graph, jax.lax.stop_gradient(params), stats)
        theirs, _ = self._read(itself(near, goal_t, key=dropout_key), near, goal_t)
        goal = jax.lax.stop_gradient(jnp.where(_wide(later) < 0, near, theirs))
        soft = SOFT * np.sqrt(np.prod(images.shape[1:]))
        apart = jnp.sqrt(jnp.square(mine - goal).sum((1, 2, 3)) + soft**2) - soft
        loss = (apart / (level - to_level)[:, 0, 0, 0]).mean()
        return loss, (split_network(network)[2], {'distance': apart.mean()})

    def _levels(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The tables alpha, sigma and sigma/alpha f64[T]."""
        alpha, sigma = self.schedule.alpha_sigma(np.arange(self.schedule.steps))
        return alpha, sigma, sigma / alpha

    def _read(self, output: jax.Array, x: jax.Array, t: jax.Array) -> tuple[jax.Array, jax.Array]:
        """The clean image, clipped where the schedule says so, and the noise that goes with it."""
        output, _ = split_variance(output, x.shape[-1])
        clean, eps = read_output(self.schedule, output, x, t)
        if not self.schedule.clip_sample:
            return clean, eps
        inside = jnp.clip(clean, -self.schedule.clip_range, self.schedule.clip_range)
        clean = clean + jax.lax.stop_gradient(inside - clean)
        alpha, sigma, _ = (per_image(table, t, x) for table in self._levels())
        return clean, (x - alpha * clean) / sigma


def _wide(values: jax.Array) -> jax.Array:
    return values[:, None, None, None]
