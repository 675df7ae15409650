"""Priors: diffusion models as a function from images to variations of them.

A prior has a `model` (its name in `VARIATION_MODELS`), `channels`, `weights` (a pytree for the
device) and `vary(class_names, **settings)`, which returns

    (weights, images f32[b h w channels], labels i32[b], keys key[b]) -> f32[b s s channels]

of images in [-1, 1], in whatever size the model works: pure, row-wise and traceable.
`network_calls(**settings)` says how often its network is asked for one of them. The defences know
no more of it, so that a latent model takes a pixel model's place without a change to them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, cast

import jax
from flax import nnx

from purify.core.errors import UserError
from purify.core.types import Tree
from purify.diffusion.chain_step import Sampler
from purify.diffusion.run_chain import edit
from purify.diffusion.samplers import SAMPLERS
from purify.diffusion.schedules import Schedule
from purify.diffusion.timesteps import edit_timesteps
from purify.train.objectives.tasks import resize_to

Vary = Callable[[Any, jax.Array, jax.Array, jax.Array], jax.Array]

DISTILLED = '_distilled'  # of a prior's scheduler_config.json: whether it was, true or missing


class Prior(Protocol):
    """A diffusion model that varies images.

    Attributes:
      model: its name in `VARIATION_MODELS`.
      channels: of the images it varies.
      weights: its arrays, NumPy or as shapes.
    """

    model: ClassVar[str]
    channels: int
    weights: Any

    def vary(self, class_names: Sequence[str], **settings: Any) -> Vary:
        """Makes the function from images to variations."""
        ...

    def network_calls(self, **settings: Any) -> int:
        """Evaluations of its network for one image."""
        ...


@dataclass(frozen=True, eq=False)
class PixelPrior(Prior):
    """A DDPM on pixels; it varies an image by noising it part of the way and denoising it again.

    One that was `distilled` (`purify.train.objectives.consistency`) is asked by the sampler
    'consistency' alone.
    """

    graph: nnx.GraphDef
    weights: Tree
    schedule: Schedule
    size_px: int
    channels: int
    distilled: bool = False

    model: ClassVar[str] = 'pixel'

    def network_calls(self, **settings: Any) -> int:
        """One for each of the sampler's steps."""
        return self._chain(**settings).steps

    def check_sampler(self, sampler: str) -> None:
        """Raises `UserError` for a sampler that would make of this prior what it is not."""
        if self.distilled and sampler != 'consistency':
            raise UserError(
                f"this prior was distilled to few calls: sampler 'consistency' asks it, {sampler!r}"
                ' would not give what it has learned. Choose that sampler, or another prior.'
            )
        if sampler == 'consistency' and not self.distilled:
            raise UserError(
                "sampler 'consistency' needs a prior that was distilled for it"
                ' (configs/prior.py:distill=FOLDER); of another it gives the mean of all images.'
                ' Choose another sampler, or such a prior.'
            )

    def vary(
        self,
        class_names: Sequence[str],
        *,
        sampler: str,
        start: int,
        steps: int,
        eta: float | None = None,
        **options: Any,
    ) -> Vary:
        """Edits images (Meng 2022): noise to step `start`, back in `steps` calls of `sampler`.

        Images are resized to the prior's size first.

        Args:
          class_names: not looked at.
          sampler: one of `SAMPLERS`.
          start: how many of the schedule's steps are undone, 1 to its length; more changes more.
          steps: network calls, at most `start`.
          eta: share of DDPM's noise that DDIM draws, 0 to 1; other samplers do not look at it.
          **options: the sampler's own, such as `variance` and `clip_sample`.
        """
        chain = self._chain(sampler, start, steps, eta, **options)

        def vary(weights: Tree, images: jax.Array, labels: jax.Array, keys: jax.Array) -> jax.Array:
            network = nnx.merge(self.graph, weights['params'], weights['stats'])
            return cast(jax.Array, edit(chain, network, resize_to(images, self.size_px), keys))

        return vary

    def _chain(
        self, sampler: str, start: int, steps: int, eta: float | None = None, **options: Any
    ) -> Sampler:
        if not 1 <= start <= self.schedule.steps:
            raise UserError(
                f'vary.start={start}: the prior was trained with steps 1 to {self.schedule.steps}.'
            )
        self.check_sampler(sampler)
        if eta is not None and not 0 <= eta <= 1:
            raise UserError(f'vary.eta={eta} must lie between 0 and 1.')
        options |= {'eta': eta} if sampler == 'ddim' and eta is not None else {}
        timesteps = edit_timesteps(start, steps, sampler)
        return SAMPLERS.make(sampler, self.schedule, timesteps, **options)
