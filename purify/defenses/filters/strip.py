"""STRIP: an answer that stays sure under any overlay comes from a trigger (arXiv:1902.06531)."""

from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp

from purify.core.limits import Count, Limited, Positive
from purify.core.types import Tree
from purify.defenses.method import Context, Measure, Models
from purify.defenses.needs import Presets
from purify.train.inference import Rows, Rule
from purify.train.objectives.tasks import unit_images


@dataclass(frozen=True)
class Strip(Limited, Measure, place='strip: '):
    """Scores images by the mean entropy of answers to them under other images (Gao et al. 2019).

    Every image is superimposed with each of the same images, drawn from those that are measured, as
    clip(image x + overlay u, 0, 1). `score` f32[b] is minus the mean entropy (eqs. 3 and 4), in
    nats: bigger means likelier poisoned.

    Attributes:
      draws: how many are laid over it; 100 in the paper. The stage draws them by its seed.
      image: weight of the image; 1 in the authors' code (OpenCV's `addWeighted`, which cuts to the
        range too).
      overlay: weight of what is laid over it; 1 there.
    """

    draws: Count = 100
    image: Positive = 1.0
    overlay: Positive = 1.0

    presets: ClassVar[Presets] = {'small': {'draws': 32}}

    def drawn(self) -> int:
        """How many images are laid over each one."""
        return self.draws

    def rule(self, models: Models, context: Context) -> Rule:
        """See `Measure`; needs the models 'classifier' and 'drawn', images u8[draws h w c]."""
        answer = models['classifier'].answer

        def measure(constants: Tree, rows: Rows) -> Rows:
            images, overlays = unit_images(rows), constants['drawn'][: self.draws]

            def under(total: jax.Array, overlay: jax.Array) -> tuple[jax.Array, None]:
                laid = self.overlay * unit_images({'image': overlay[None]})
                mixed = jnp.clip(self.image * images + laid, 0, 1)
                return total + entropies(answer(constants['classifier'], mixed)[0]), None

            # One at a time, to save memory.
            total, _ = jax.lax.scan(under, jnp.zeros(len(images)), overlays)
            score = -total / len(overlays)
            return {'score': score, 'finite': jnp.isfinite(score)}

        return measure


def entropies(logits: jax.Array) -> jax.Array:
    """Computes entropies f32[b] of the softmax of logits f32[b k], in nats."""
    logs = jax.nn.log_softmax(logits.astype(jnp.float32))
    p = jnp.exp(logs)
    return -jnp.where(p == 0, 0, p * logs).sum(-1)  # NaN is not 0 and stays
