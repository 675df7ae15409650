"""Cognitive distillation: how little of an image is needed (Huang 2023, arXiv:2301.10908)."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import jax
import jax.numpy as jnp
import optax

from purify.core.limits import Count, Limited, NotNegative, Positive, one_of
from purify.core.randomness import id_keys, stream_key
from purify.core.types import Tree
from purify.defenses.method import Context, Measure, Models
from purify.defenses.needs import Presets
from purify.train.inference import Rows, Rule
from purify.train.objectives.tasks import unit_images

OUTPUTS = ('logits', 'features')
MOMENTS = 0.1  # both of Adam's, in the authors' code


@dataclass(frozen=True)
class CognitiveDistillation(Limited, Measure, place='cognitive_distillation: '):
    """Scores images by the smallest mask f32[h w] that keeps the classifier's answer.

    The mask m [h w 1] in (0, 1) is fitted by Adam from .88 everywhere: what it hides of an image is
    one random colour, drawn anew for each image and step, and the loss of an image is

        mean |f(m x + (1 - m) colour) - f(x)| + gamma ||m||_1 + beta TV(m) / (h w),

    TV the sum of squared differences of neighbours (eqs. 1 and 2). A trigger is small: the score is
    -||m||_1, so that bigger means likelier poisoned. The authors' code normalises images for f(x)
    alone; here the network does it, for both.

    Attributes:
      on: what f gives, 'logits' or 'features' (what the head reads).
      gamma: weight of the mask's size; .01 on logits, .001 on features. It is a sum over pixels.
      beta: weight of its roughness; 1 in the code, 10 in its README.
      steps: of Adam.
      lr: Adam's; .1.
    """

    on: Annotated[str, one_of(OUTPUTS)] = 'logits'
    gamma: Positive = 0.01
    beta: NotNegative = 1.0
    steps: Count = 100
    lr: Positive = 0.1

    presets: ClassVar[Presets] = {'small': {'steps': 20, 'lr': 0.5}}

    def rule(self, models: Models, context: Context) -> Rule:
        """See `Measure`; needs the model 'classifier'."""
        answer = models['classifier'].answer

        def measure(constants: Tree, rows: Rows) -> Rows:
            keys = id_keys(stream_key(context.seed, 'cognitive distillation'), rows['id'])

            def look(images: jax.Array) -> jax.Array:
                logits, features = answer(constants['classifier'], images)
                return (logits if self.on == 'logits' else features).astype(jnp.float32)

            mask = self._distil(look, unit_images(rows), keys)
            score = -mask.sum((1, 2, 3))
            return {'score': score, 'finite': jnp.isfinite(score)}

        return measure

    def _distil(
        self, look: Callable[[jax.Array], jax.Array], images: jax.Array, keys: jax.Array
    ) -> jax.Array:
        """Masks f32[b h w 1] of images f32[b h w c] in [0, 1]; `look` and Adam are row-wise."""
        wanted = look(images)
        adam = optax.adam(self.lr, MOMENTS, MOMENTS)

        def loss(raw: jax.Array, colours: jax.Array) -> jax.Array:
            mask = to_mask(raw)
            away = jnp.abs(look(mask * images + (1 - mask) * colours) - wanted).mean(-1)
            # A sum: each image's gradient is its own, whatever else is in the batch.
            return (away + self.gamma * mask.sum((1, 2, 3)) + self.beta * roughness(mask)).sum()

        def step(carry: Tree, number: jax.Array) -> tuple[Any, None]:
            raw, state = carry
            own = jax.vmap(jax.random.fold_in, (0, None))(keys, number)
            colours = jax.vmap(lambda key: jax.random.uniform(key, (1, 1, images.shape[-1])))(own)
            updates, state = adam.update(jax.grad(loss)(raw, colours), state)
            return (optax.apply_updates(raw, updates), state), None

        raw = jnp.ones((*images.shape[:3], 1))
        (raw, _), _ = jax.lax.scan(step, (raw, adam.init(raw)), jnp.arange(self.steps))
        return to_mask(raw)


def to_mask(raw: jax.Array) -> jax.Array:
    """Maps any numbers to shares between 0 and 1."""
    return (jnp.tanh(raw) + 1) / 2


def roughness(mask: jax.Array) -> jax.Array:
    """Measures how rough masks f32[b h w 1] are: squared differences of neighbours, f32[b]."""
    down, right = (jnp.square(jnp.diff(mask, axis=axis)).sum((1, 2, 3)) for axis in (1, 2))
    return (down + right) / (mask.shape[1] * mask.shape[2])
