"""Image variations and knowledge distillation (Struppek 2023, section 3)."""

from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp

from purify.core.errors import UserError
from purify.core.limits import Count, Limited, Positive
from purify.core.randomness import id_keys, stream_key
from purify.core.types import Facts, Settings, Tree
from purify.data.colour import colour_transfer
from purify.defenses.method import Context, Defense, Method, Models, Outcome, Purifier, Step
from purify.defenses.needs import Needs, Presets
from purify.defenses.steps import student_step
from purify.generative.open_prior import VARIATION_MODELS, variation
from purify.generative.pixel_prior import Prior
from purify.train.inference import Rows, Rule
from purify.train.objectives.tasks import resize_to, signed_images


@dataclass(frozen=True)
class Variations(Limited, Purifier, Defense, place='defense.'):
    """Replaces every image, clean or not, by variations under its label, and trains a student.

    Attributes:
      vary: `model`, one of `VARIATION_MODELS`, and the settings of its `vary` (see `variation`).
      copies: variations per image (k in the paper, there 1).
      colour_transfer: give each variation the channel means and deviations of its original (eq. 1).
      epsilon: kept away from zero in eq. (1), where a channel is constant.
      dtype: what the prior computes in; its chain stays float32.
    """

    vary: Settings
    copies: Count = 1
    colour_transfer: bool = True
    epsilon: Positive = 1e-6
    dtype: str = 'float32'

    needs: ClassVar[Needs] = Needs(prior=True, dataset=True)
    presets: ClassVar[Presets] = {
        'digits': {
            'vary': variation('pixel', sampler='sde', start=300, steps=6),
            'copies': 3,
            'colour_transfer': False,
        },
        'small': {
            'vary': variation('pixel', sampler='sde', start=120, steps=3),
            'copies': 2,
            'colour_transfer': False,
        },
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        VARIATION_MODELS[self.vary.get('model', '')]  # raises for an unknown one, with the choices

    def method(self, student: Settings) -> Method:
        """The steps: purified dataset, student."""
        purified = Step('purified', 'purify', {'poisoned': 'poisoned', 'prior': 'prior'}, by=self)
        outcome = Outcome(purified='purified', classifier='student')
        return Method((purified, student_step(student, 'purified')), outcome)

    def number(self) -> int:
        """How many variations are made of each image."""
        return self.copies

    def network_calls(self, models: Models) -> int:
        """Evaluations of the prior's network for one variation; guided ones are two."""
        return models['prior'].network_calls(**self._options())

    def _options(self) -> Facts:
        return {name: value for name, value in self.vary.items() if name != 'model'}

    def rule(self, models: Models, context: Context) -> Rule:
        """See `Purifier`; needs the model 'prior', whose NaN are not `finite`.

        Row i's noise is a function of (seed, id, variation). The prior works in its own size and
        channels; the colour transfer comes before the way back, between two images of different
        size, as in the paper.
        """
        prior: Prior = models['prior']
        size_px, _, channels = context.shape
        if prior.channels == 1 and channels == 3:
            raise UserError(
                'the prior makes grey images, but the dataset is in colour; choose a prior with 3'
                ' channels.'
            )
        if prior.model != self.vary['model']:
            raise UserError(
                f'defense.vary.model={self.vary["model"]!r}, but the prior is a {prior.model!r}'
                ' model. Name that one, or load another prior.'
            )
        vary = prior.vary(context.class_names, **self._options())

        def purify(weights: Tree, rows: Rows) -> Rows:
            key = stream_key(context.seed, 'variations')
            keys = jax.vmap(jax.random.fold_in)(id_keys(key, rows['id']), rows['variation'])
            images = signed_images(rows['image'])
            x = jnp.broadcast_to(images, (*images.shape[:3], prior.channels))
            x = vary(weights['prior'], x, rows['label'], keys)
            x = x.mean(-1, keepdims=True) if prior.channels > channels else x
            x = colour_transfer(x, images, self.epsilon) if self.colour_transfer else x
            x = resize_to(x, size_px)
            image = jnp.clip(jnp.round((x + 1) * 127.5), 0, 255).astype(jnp.uint8)
            return {'image': image, 'finite': jnp.isfinite(x).all((1, 2, 3))}

        return purify
