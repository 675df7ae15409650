"""Generators: class-conditional diffusion models, which defences sample from and classify with.

A generator has `class_names`, `weights` (a pytree for the device), the noise `schedule` of its
chains, the `state_shape` (h, w, c) of what it denoises, and

    predictor(weights, labels i32[b], guidance) -> (x f32[b h w c], t i32[b]) -> f32[b h w c]
    encode(weights, images f32[b h w channels] in [-1, 1], keys key[b]) -> states f32[b h w c]
    decode(weights, states) -> images in [-1, 1]

A predictor gives what `schedule.prediction` says. States are variance preserving, alpha x_0 + sigma
eps. `guidance` is the scale s of e_u + s (e_c - e_u), whose 1 is the plain network under its
condition; Ho & Salimans' weight w is s - 1.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NotRequired, Protocol, TypedDict

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from purify.core.errors import UserError
from purify.core.files import read_json
from purify.core.types import Settings, Tree
from purify.diffusion.guidance import guide, interleave
from purify.diffusion.preconditioning import Preconditioning
from purify.diffusion.run_chain import Predict
from purify.diffusion.schedules import Schedule, make_noise_schedule
from purify.models.diffusers.unet2d import UNet2DModel
from purify.models.files.weights import load_model
from purify.train.objectives.tasks import resize_to
from purify.train.state import split_network

NOTE = 'generator.json'  # in a generator's folder: its objective, its classes


class Levels(TypedDict):
    """The noise schedule of an objective 'ddpm'."""

    name: str
    steps: int
    prediction: str


class Objective(TypedDict):
    """What a generator was trained for, and how often it was told no class."""

    name: Literal['ddpm', 'edm', 'latent']
    drop: float
    schedule: NotRequired[Levels]
    p_mean: NotRequired[float]
    p_std: NotRequired[float]
    sigma_data: NotRequired[float]
    sigma_min: NotRequired[float]
    sigma_max: NotRequired[float]
    rho: NotRequired[float]
    levels: NotRequired[int]
    caption: NotRequired[str]
    size_px: NotRequired[int]


class Note(TypedDict):
    """The file generator.json."""

    objective: Objective
    class_names: list[str]


class Generator(Protocol):
    """A diffusion model that makes images of a class.

    Attributes:
      class_names: the classes it can be asked for.
      weights: its arrays, NumPy or as shapes.
      schedule: the noise of its chains.
      channels: of its images.
    """

    class_names: list[str]
    weights: Any
    schedule: Schedule
    channels: int

    @property
    def state_shape(self) -> tuple[int, int, int]:
        """The shape (h, w, c) of what it denoises."""
        ...

    @property
    def deviation(self) -> float:
        """The deviation of the states of clean images, roughly."""
        ...

    def predictor(self, weights: Tree, labels: jax.Array, guidance: float) -> Predict:
        """The network under its condition, guided."""
        ...

    def encode(self, weights: Tree, images: jax.Array, keys: jax.Array) -> jax.Array:
        """Turns images into states."""
        ...

    def decode(self, weights: Tree, states: jax.Array) -> jax.Array:
        """Turns states into images."""
        ...


@dataclass(frozen=True, eq=False)
class PixelGenerator(Generator):
    """A class-conditional UNet on pixels; the last row of its table stands for no class.

    Attributes:
      graph: its structure.
      weights: {'params', 'stats'}.
      schedule: of its chains.
      size_px: of its images.
      channels: likewise.
      class_names: see the top of this file.
      guidable: whether it has learned to be told no class.
      edm: how it was preconditioned; None for a network that was trained on `schedule` itself.
    """

    graph: nnx.GraphDef
    weights: Tree
    schedule: Schedule
    size_px: int
    channels: int
    class_names: list[str]
    guidable: bool = True
    edm: Preconditioning | None = None

    @property
    def state_shape(self) -> tuple[int, int, int]:
        """The shape of an image."""
        return self.size_px, self.size_px, self.channels

    @property
    def deviation(self) -> float:
        """EDM's deviation of images, .5 in [-1, 1]."""
        return (self.edm or Preconditioning()).sigma_data

    def predictor(self, weights: Tree, labels: jax.Array, guidance: float) -> Predict:
        """See `Generator`."""
        network = nnx.merge(self.graph, weights['params'], weights['stats'])
        if guidance == 1:
            return lambda x, t: self._ask(network, x, t, labels)
        if not self.guidable:
            raise UserError(
                f'guidance={guidance} needs a generator that was told no class now and then: train'
                ' it with generator.objective.drop above 0, or set guidance to 1.'
            )
        both = interleave(jnp.full((1,), len(self.class_names), labels.dtype), labels)
        return guide(lambda x, t: self._ask(network, x, t, both), guidance)

    def encode(self, weights: Tree, images: jax.Array, keys: jax.Array) -> jax.Array:
        """The images themselves, in the network's size."""
        return resize_to(images, self.size_px)

    def decode(self, weights: Tree, states: jax.Array) -> jax.Array:
        """The images themselves."""
        return states

    def _ask(self, network: Any, x: jax.Array, t: jax.Array, labels: jax.Array) -> jax.Array:
        if self.edm is None:
            return network(x, t, labels)
        sigma = jnp.asarray(self.edm.sigmas(), jnp.float32)[t]
        unscaled = x * jnp.sqrt(1 + sigma**2)[:, None, None, None]
        ask = lambda noised, level: network(noised, level, labels)
        return self.edm.denoise(ask, unscaled, sigma)


def open_generator(
    folder: Path, *, dtype: str = 'float32', vae_slice: int = 0, weights: bool = True
) -> Generator:
    """Opens the generator in a finished stage's folder.

    Args:
      folder: in diffusers' format, with a generator.json.
      dtype: what its networks compute in.
      vae_slice: images a VAE takes at once on one device, 0 for all.
      weights: False puts shapes in place of the weights.

    Raises:
      UserError: for a folder that holds none.
    """
    note: Any = read_json(Path(folder) / NOTE, Note)
    objective = note['objective']
    needed = {'ddpm': ('schedule',), 'edm': (), 'latent': ('caption', 'size_px')}[objective['name']]
    if missing := [name for name in needed if name not in objective]:
        raise UserError(
            f'{folder}: its {NOTE} says nothing of {", ".join(missing)}. Give a generator stage.'
        )
    if objective['name'] == 'latent':
        from purify.generative.latent_generator import LatentGenerator

        return LatentGenerator.from_folder(
            Path(folder), note, dtype=dtype, vae_slice=vae_slice, weights=weights
        )
    network = load_model(UNet2DModel, folder, subfolder='unet', dtype=dtype, weights=weights)
    graph, params, stats = split_network(network)
    arrays = {'params': params, 'stats': stats}
    arrays = jax.tree.map(np.asarray, arrays) if weights else arrays
    size_px, channels = network.config['sample_size'], network.config['in_channels']
    return make_pixel_generator(graph, arrays, objective, size_px, channels, note['class_names'])


def make_pixel_generator(
    graph: nnx.GraphDef,
    weights: Tree,
    objective: Settings,
    size_px: int,
    channels: int,
    class_names: list[str],
) -> PixelGenerator:
    """The generator of a network that was trained for an `objective`, 'ddpm' or 'edm'."""
    edm = make_preconditioning(objective) if objective['name'] == 'edm' else None
    schedule = edm.schedule() if edm else read_schedule(objective['schedule'])
    told = objective['drop'] > 0
    return PixelGenerator(graph, weights, schedule, size_px, channels, class_names, told, edm)


def make_preconditioning(objective: Settings) -> Preconditioning:
    """The `objective` part of an EDM generator."""
    own = {name: value for name, value in objective.items() if name not in ('name', 'drop')}
    try:
        return Preconditioning(**own)
    except TypeError as error:
        raise UserError(f'objective edm: {error}.') from error


def read_schedule(settings: Settings) -> Schedule:
    """The `schedule` part of a prior or of a generator's objective."""
    prediction = settings['prediction']
    return make_noise_schedule(settings['name'], settings['steps'], prediction=prediction)
