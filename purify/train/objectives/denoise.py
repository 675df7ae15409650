"""Objectives of diffusion models on pixels: the noise of DDPM, the preconditioned image of EDM."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import nnx

from purify.core.errors import UserError
from purify.core.limits import Limited, Natural, ShareOrZero
from purify.core.types import Tree
from purify.diffusion import predictions
from purify.diffusion.preconditioning import Preconditioning
from purify.diffusion.schedules import Schedule, add_noise
from purify.train.objectives.tasks import Batch, Key, Result, Task, resize_to, signed_images
from purify.train.state import split_network


@dataclass(frozen=True, eq=False)
class Denoise(Limited, Task, place='generator.objective.'):
    """Mean squared error of a network's prediction at a random step (Ho 2020, eq. 14).

    Steps are uniform, as there, unless some are drawn more often. Images of another size than the
    network's `size_px` are resized on the device.

    Attributes:
      graph: the network's structure.
      schedule: of the noise.
      size_px: of the network's images.
      ema_decay: see `Task`.
      classes: how many there are; 0 for a network that is told none. One more than the last stands
        for no class.
      drop: chance that an image's class is not told, for guidance (Ho & Salimans 2022, algorithm
        1).
      below: timesteps under this one have the `share` of all draws, and those from it on the rest;
        0: all are alike.
      share: see `below`.
    """

    graph: nnx.GraphDef
    schedule: Schedule
    size_px: int
    ema_decay: float
    classes: int = 0
    drop: ShareOrZero = 0.0
    frozen: Tree = ()
    below: Natural = 0
    share: ShareOrZero = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.below >= self.schedule.steps:
            raise UserError(
                f'prior.timesteps.below={self.below}: the schedule has {self.schedule.steps}'
                ' timesteps; choose fewer, or 0 to draw all alike.'
            )
        if (self.below > 0) != (self.share > 0):
            raise UserError(
                f'prior.timesteps: below={self.below} and share={self.share} go together: give'
                ' both, or 0 for both.'
            )

    def draw(self, key: jax.Array, count: int) -> jax.Array:
        """Draws timesteps i32[count]."""
        if not self.below:
            return jax.random.randint(key, (count,), 0, self.schedule.steps)
        under, over, which = jax.random.split(key, 3)
        low = jax.random.randint(under, (count,), 0, self.below)
        high = jax.random.randint(over, (count,), self.below, self.schedule.steps)
        return jnp.where(jax.random.bernoulli(which, self.share, (count,)), low, high)

    def __call__(self, params: Tree, stats: Tree, frozen: Tree, batch: Batch, key: Key) -> Result:
        """See `Task`."""
        images = resize_to(signed_images(batch['image']), self.size_px)
        time_key, noise_key, dropout_key = jax.random.split(key, 3)
        t = self.draw(time_key, len(images))
        noise = jax.random.normal(noise_key, images.shape)
        network = nnx.merge(self.graph, params, stats)
        told = told_classes(batch, self.classes, self.drop, key)
        output = network(add_noise(self.schedule, images, noise, t), t, *told, key=dropout_key)
        goal = predictions.target(self.schedule, images, noise, t)
        loss = jnp.square(output.astype(jnp.float32) - goal).mean()
        return loss, (split_network(network)[2], {})


@dataclass(frozen=True, eq=False)
class DenoisePreconditioned(Limited, Task, place='generator.objective.'):
    """Weighted error of the clean image at log-normal noise (Karras et al. 2022, eq. 2, table 1).

    Attributes: `edm` the preconditioning, the others as of `Denoise`.
    """

    graph: nnx.GraphDef
    edm: Preconditioning
    size_px: int
    ema_decay: float
    classes: int = 0
    drop: ShareOrZero = 0.0
    frozen: Tree = ()

    def __call__(self, params: Tree, stats: Tree, frozen: Tree, batch: Batch, key: Key) -> Result:
        """See `Task`."""
        images = resize_to(signed_images(batch['image']), self.size_px)
        level_key, noise_key, dropout_key = jax.random.split(key, 3)
        sigma = self.edm.draw(level_key, len(images))
        level = sigma[:, None, None, None]
        noised = images + level * jax.random.normal(noise_key, images.shape)
        network = nnx.merge(self.graph, params, stats)
        told = told_classes(batch, self.classes, self.drop, key)
        clean = self.edm.denoise(lambda x, t: network(x, t, *told, key=dropout_key), noised, sigma)
        loss = (self.edm.weight(level) * jnp.square(clean - images)).mean()
        return loss, (split_network(network)[2], {})


def told_classes(batch: Batch, classes: int, drop: float, key: jax.Array) -> tuple[jax.Array, ...]:
    """The labels that a network is told, (i32[b],), hidden at chance `drop`; () without classes."""
    if not classes:
        return ()
    labels = batch['label']
    hidden = jax.random.bernoulli(jax.random.fold_in(key, 3), drop, labels.shape)
    return (jnp.where(hidden, classes, labels),)
