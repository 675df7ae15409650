"""A guard in a file of its own: it hides the corner of every test image."""

from dataclasses import dataclass

import jax.numpy as jnp

from purify.defenses.method import Defense, Guard, Method, Outcome, Step


@dataclass(frozen=True)
class Cover(Guard, Defense):
    """Blackens an image's last `side_px` rows and columns where the classifier is sure of it."""

    side_px: int = 5

    def method(self, student):
        return Method((), Outcome(guard=Step('cover', 'guard', {'classifier': 'teacher'}, by=self)))

    def rule(self, models, context):
        height, width, _ = context.shape
        answer = models['classifier'].answer

        def cover(constants, rows):
            logits, _ = answer(constants['classifier'], rows['image'].astype(jnp.float32) / 255)
            above, left = (jnp.arange(size) < size - self.side_px for size in (height, width))
            inside = above[:, None] | left[None]
            image = jnp.where(inside[..., None], rows['image'], 0).astype(jnp.uint8)
            return {'image': image, 'finite': jnp.isfinite(logits).all(-1)}

        return cover
