"""Feature consistency towards transformations (FCT).

Chen et al. 2022, "Effective backdoor defense by exploiting sensitivity".
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar

import jax
import jax.numpy as jnp

from purify.core.errors import UserError
from purify.core.limits import Count, Limited, ShareOrZero, number
from purify.core.randomness import id_keys, stream_key
from purify.core.types import Settings, Tree
from purify.data.changes import rotate
from purify.defenses.method import Context, Measure, Models, Step
from purify.defenses.needs import Presets
from purify.defenses.steps import train_part
from purify.train.inference import Rows, Rule
from purify.train.objectives.registry import OBJECTIVES
from purify.train.objectives.tasks import unit_images

EARLY, SPREAD = 'fct_early', 'fct_spread'


@dataclass(frozen=True)
class FeatureConsistency(Limited, Measure, place='fct: '):
    """Scores images by how far their features move when they are turned and shifted.

    `score` f32[b] is the mean over `times` random views t of mean (f(x) - f(t(x)))^2, over what the
    head reads (eq. 2; the authors take one view). A trigger does not survive being moved, clean
    images do: bigger means likelier poisoned. That holds as far as the network keeps clean images
    close to their views. On small images it may not: of the digits with a patch, `network_steps`'
    network scores the clean ones higher (AUROC .2), while a teacher trained on shifted images tells
    them under smaller turns.

    Attributes:
      rotation: degrees by which an image turns at most, either way; bilinear, black coming in.
      shift: share of a side by which it moves at most afterwards, each way along both sides, in
        whole pixels.
      times: how many views are averaged.
    """

    rotation: Annotated[float, number(least=0, most=180)] = 180.0
    shift: ShareOrZero = 0.2
    times: Count = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (self.rotation or self.shift):
            raise UserError(
                f'fct: rotation={self.rotation} and shift={self.shift} must not both be 0.'
            )

    def rule(self, models: Models, context: Context) -> Rule:
        """See `Measure`; needs the model 'classifier'."""
        answer = models['classifier'].answer

        def measure(constants: Tree, rows: Rows) -> Rows:
            images = unit_images(rows)
            keys = id_keys(stream_key(context.seed, 'feature consistency'), rows['id'])

            def look(images: jax.Array) -> jax.Array:
                return answer(constants['classifier'], images)[1].astype(jnp.float32)

            wanted = look(images)

            def once(total: jax.Array, number: jax.Array) -> tuple[jax.Array, None]:
                own = jax.vmap(jax.random.fold_in, (0, None))(keys, number)
                views = jax.vmap(self._view)(images, own)
                return total + jnp.square(look(views) - wanted).mean(-1), None

            total, _ = jax.lax.scan(once, jnp.zeros(len(images)), jnp.arange(self.times))
            score = total / self.times
            return {'score': score, 'finite': jnp.isfinite(score)}

        return measure

    def _view(self, image: jax.Array, key: jax.Array) -> jax.Array:
        turn_key, shift_key = jax.random.split(key)
        angle = jax.random.uniform(turn_key, minval=-self.rotation, maxval=self.rotation)
        most = self.shift * jnp.array(image.shape[:2])
        by = jnp.round(jax.random.uniform(shift_key, (2,), minval=-most, maxval=most))
        return move(rotate(image, jnp.deg2rad(angle)), by.astype(jnp.int32))


@dataclass(frozen=True)
class Fct(FeatureConsistency):
    """The settings of the score: how it looks, and by which `network`.

    Attributes:
      network: 'own', which is trained as `network_steps` says, or 'teacher', the poisoned
        classifier, as Pan 2024 looks; then there are no `early` and `spread`.
      early: `epochs` and SGD's rate `lr` of the network's first training (see `network_steps`).
      spread: `epochs` and SGD's rate `lr` of its second one, which draws classes apart, and the
        `weight` of the cross-entropy in it.
    """

    network: str = 'own'
    early: Settings = field(default_factory=lambda: {'epochs': 2.0, 'lr': 0.01})
    spread: Settings = field(default_factory=lambda: {'epochs': 10.0, 'lr': 0.01, 'weight': 0.0})

    # A digit upside down is another one. An own network, trained for so few steps, scores the clean
    # ones higher (AUROC .2).
    presets: ClassVar[Presets] = {
        'small': {'network': 'teacher', 'early': None, 'spread': None}
        | {'rotation': 30.0, 'shift': 0.1, 'times': 8}
    }


def move(image: jax.Array, by: jax.Array) -> jax.Array:
    """Moves an image f32[h w c] i32[2] pixels (down, right), less than a side; black comes in."""
    height, width, _ = image.shape
    padded = jnp.pad(image, ((height, height), (width, width), (0, 0)))
    return jax.lax.dynamic_slice(padded, (height - by[0], width - by[1], 0), image.shape)


def network_steps(
    early: Mapping[str, Any], spread: Mapping[str, Any], student: Settings
) -> tuple[Step, ...]:
    """Lists steps that train FCT's own network, and drive its class centres apart (section 3.2).

    Both see the poisoned dataset without augmentation, at a constant rate, with the student's
    network, batch and optimiser.

    Args:
      early: `epochs` (2) and `lr` (.01, SGD's) of the cross-entropy.
      spread: `epochs` (10) and `lr` of `purify.train.objectives.spread.Spread`, and its `weight`.
      student: config of the classifier that is trained last.
    """
    bare = student | {'augment': {}}
    apart = {'name': 'spread', 'weight': spread['weight']}
    first = train_part(bare, dict(early), OBJECTIVES.part('classify'), constant=True)
    last = train_part(bare, dict(spread), apart, constant=True)
    start = {'data': 'poisoned', 'init': EARLY}
    own = Step(EARLY, 'classifier', {'data': 'poisoned'}, first)
    return own, Step(SPREAD, 'classifier', start, last)
