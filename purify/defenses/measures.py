"""Measures of images by a network: a classifier's answers, losses and features, or an encoder's."""

from dataclasses import dataclass
from typing import Annotated

import jax.numpy as jnp

from purify.core.errors import UserError
from purify.core.limits import Limited, one_of
from purify.core.types import Tree
from purify.defenses.method import Context, Measure, Models
from purify.train.inference import Rows, Rule
from purify.train.objectives.losses import (
    check_symmetric,
    cross_entropies,
    symmetric_cross_entropies,
)
from purify.train.objectives.tasks import unit_images

LOSSES = ('ce', 'sce')


@dataclass(frozen=True)
class Predictions(Limited, Measure, place='predictions: '):
    """Measures a classifier's predicted label of every image, and its loss on the given one.

    Columns: `label` i32[b], `loss` f32[b], `finite` bool[b]. Images are seen without augmentation.

    Attributes:
      loss: 'ce', cross-entropy, or 'sce', the symmetric one of `alpha` and `beta`.
      alpha: weight of the cross-entropy in 'sce'; stays 0 with 'ce', as `beta`.
      beta: weight of the reverse cross-entropy in 'sce'.
    """

    loss: Annotated[str, one_of(LOSSES)] = 'ce'
    alpha: float = 0.0
    beta: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.loss == 'sce':
            check_symmetric("predictions: loss 'sce'", self.alpha, self.beta)
        elif self.alpha or self.beta:
            raise UserError(
                f"predictions: alpha={self.alpha} and beta={self.beta} are of the loss 'sce'; leave"
                " them out of 'ce'."
            )

    def rule(self, models: Models, context: Context) -> Rule:
        """See `Measure`; needs the model 'classifier'."""
        answer = models['classifier'].answer

        def measure(constants: Tree, rows: Rows) -> Rows:
            logits, _ = answer(constants['classifier'], unit_images(rows))
            if self.loss == 'ce':
                loss = cross_entropies(logits, rows['label'])
            else:
                loss = symmetric_cross_entropies(logits, rows['label'], self.alpha, self.beta)
            finite = jnp.isfinite(logits).all(-1) & jnp.isfinite(loss)
            return {'label': logits.argmax(-1).astype(jnp.int32), 'loss': loss, 'finite': finite}

        return measure


@dataclass(frozen=True)
class Features(Measure):
    """Measures what a classifier's head reads, `features` f32[b d], and its `label` i32[b]."""

    def rule(self, models: Models, context: Context) -> Rule:
        """See `Measure`; needs the model 'classifier'."""
        answer = models['classifier'].answer

        def measure(constants: Tree, rows: Rows) -> Rows:
            logits, features = answer(constants['classifier'], unit_images(rows))
            features, label = features.astype(jnp.float32), logits.argmax(-1).astype(jnp.int32)
            finite = jnp.isfinite(features).all(-1) & jnp.isfinite(logits).all(-1)
            return {'features': features, 'label': label, 'finite': finite}

        return measure


@dataclass(frozen=True)
class Embeddings(Measure):
    """Measures an encoder's `features` f32[b d] of every image."""

    def rule(self, models: Models, context: Context) -> Rule:
        """See `Measure`; needs the model 'encoder'."""
        embed = models['encoder'].embed

        def measure(constants: Tree, rows: Rows) -> Rows:
            features = embed(constants['encoder'], unit_images(rows))
            return {'features': features, 'finite': jnp.isfinite(features).all(-1)}

        return measure
