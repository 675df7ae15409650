"""Classifies images with a class-conditional diffusion model (Pan 2024, appendix I).

An image x_0 gets the class under which the model denoises it best: x_0 + s n, for `draws` levels s
and noises n, which are the same for all classes y. The squared error of an element, |D(x_0 + s n;
y) - x_0|^2, is large in a trigger under all classes but the one that the poison aims at; leaving
out the largest share p_filter of the elements, for each class and draw, takes most of it away.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np

from purify.core.errors import UserError
from purify.core.limits import Count, Limited, Natural, NotNegative, one_of
from purify.core.randomness import id_keys, stream_key
from purify.core.types import Facts, Settings, Tree
from purify.defenses.castle_walls.generation import check_generator, generator_step
from purify.defenses.method import Context, Defense, Measure, Method, Models, Outcome
from purify.diffusion.predictions import read_output
from purify.diffusion.schedules import Schedule, add_noise
from purify.generative.pixel_generator import Generator
from purify.train.inference import Rows, Rule
from purify.train.objectives.tasks import signed_images

WEIGHTINGS = ('edm', 'epsilon', 'none')
# Of `DiffusionClassifier`: read by the stage that asks the generator.
STAGE_SETTINGS = ('images', 'dtype')


@dataclass(frozen=True)
class DenoisingErrors(Limited, Measure, place='diffusion classifier: '):
    """Measures how well a generator denoises an image under each class; the best is its answer.

    Columns: `predictions` i32[b p], `errors` f32[b k p], `finite` bool[b], for every p of
    `p_filters` and class k.

    Levels s = sigma / alpha are log-normal and rounded to the nearest of the generator's schedule,
    on a logarithmic scale; a row's are a function of (seed, id, draw) alone. Errors are of x_0, per
    element of all of its state, means over the draws.

    Attributes:
      draws: how many levels and noises.
      p_mean: of log s; -1.2 is EDM's, for images in [-1, 1].
      p_std: its deviation, likewise 1.2.
      p_filter: the headline, one of `p_filters`; classes are eliminated by it.
      p_filters: shares of the elements, of each class and draw those with the largest errors, that
        are left out; [0, 1).
      weighting: of a draw's errors: 'edm' (s^2 + d^2) / (d s)^2 with d the deviation of states (.5
        of pixels, 1 of latents), 'epsilon' 1 / s^2, which makes them the noise's, or 'none'.
      clip: whether a denoised image is clipped to [-1, 1], as pixels are and latents are not.
      rounds: ((draws, classes that stay), ...): after so many draws more only the classes of the
        smallest errors go on. The others' errors are means over the draws they had, and they are no
        predictions. () eliminates none.
    """

    draws: Count
    p_mean: float
    p_std: NotNegative
    p_filter: float
    p_filters: Sequence[float]
    weighting: Annotated[str, one_of(WEIGHTINGS)]
    clip: bool
    rounds: Sequence[Sequence[int]]

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.p_filters or not all(0 <= share < 1 for share in self.p_filters):
            raise UserError(
                f'diffusion classifier: p_filters={list(self.p_filters)} must be shares in [0, 1),'
                ' such as [0, .05].'
            )
        if self.p_filter not in self.p_filters:
            raise UserError(
                f'diffusion classifier: p_filter={self.p_filter} is none of'
                f' p_filters={list(self.p_filters)}; add it.'
            )
        if any(len(pair) != 2 or min(pair) < 1 for pair in self.rounds) or self._last < 1:
            raise UserError(
                f'diffusion classifier: rounds={[list(pair) for pair in self.rounds]} must be pairs'
                f' (draws, classes that stay) of fewer draws together than draws={self.draws},'
                ' or ().'
            )
        stay = [classes for _, classes in self.rounds]
        if any(later >= earlier for earlier, later in itertools.pairwise(stay)) or 1 in stay:
            raise UserError(
                f'diffusion classifier: {stay} classes stay after the rounds; give numbers that'
                ' fall, the last 2 or more.'
            )

    @property
    def _last(self) -> int:
        """Draws after all rounds."""
        return self.draws - sum(draws for draws, _ in self.rounds)

    def calls(self, classes: int) -> int:
        """Counts evaluations of the network for one image.

        Raises `UserError` for rounds that keep more classes than there are.
        """
        stay = [classes, *(stay for _, stay in self.rounds)]
        if max(stay) > classes:
            raise UserError(
                f'diffusion classifier: rounds keep {max(stay)} of {classes} classes; give numbers'
                f' up to {classes}.'
            )
        counts = [*(draws for draws, _ in self.rounds), self._last]
        return sum(draws * kept for draws, kept in zip(counts, stay, strict=True))

    def rule(self, models: Models, context: Context) -> Rule:
        """See `Measure`; needs the model 'generator', of the same classes."""
        generator: Generator = models['generator']
        check_generator(generator, context.shape, context.class_names)
        self.calls(len(context.class_names))

        def measure(constants: Tree, rows: Rows) -> Rows:
            weights, images = constants['generator'], signed_images(rows['image'])
            images = jnp.broadcast_to(images, (*images.shape[:3], generator.channels))
            key = stream_key(context.seed, 'diffusion classifier latents')
            x0 = generator.encode(weights, images, id_keys(key, rows['id'])).astype(jnp.float32)
            keys = id_keys(stream_key(context.seed, 'diffusion classifier'), rows['id'])

            def ask(classes: jax.Array, draw: jax.Array) -> jax.Array:
                return self._errors_of(generator, weights, x0, keys, classes, draw)

            predictions, errors = self._compare(ask, len(rows['id']), len(context.class_names))
            finite = jnp.isfinite(errors).all((1, 2))
            return {'predictions': predictions, 'errors': errors, 'finite': finite}

        return measure

    def _errors_of(
        self,
        generator: Generator,
        weights: Tree,
        x0: jax.Array,
        keys: jax.Array,
        classes: jax.Array,
        draw: jax.Array,
    ) -> jax.Array:
        """Weighted errors f32[b k p] of one draw, for states x0 f32[b h w c], classes i32[b k]."""
        schedule = generator.schedule
        pairs = jax.vmap(lambda key: jax.random.split(jax.random.fold_in(key, draw)))(keys)
        normal = jax.vmap(jax.random.normal)(pairs[:, 0])
        t = nearest_levels(schedule, self.p_mean + self.p_std * normal)
        noise = jax.vmap(lambda key: jax.random.normal(key, x0.shape[1:]))(pairs[:, 1])
        x = add_noise(schedule, x0, noise, t)
        weight = jnp.asarray(self._weights(schedule, generator.deviation), jnp.float32)[t]
        size = math.prod(x0.shape[1:])
        kept = [max(1, int(round((1 - share) * size, 6))) for share in self.p_filters]

        def under(labels: jax.Array) -> jax.Array:
            clean, _ = read_output(schedule, generator.predictor(weights, labels, 1.0)(x, t), x, t)
            clean = jnp.clip(clean, -1, 1) if self.clip else clean
            errors = jnp.sort(jnp.square(clean - x0).reshape(len(x0), size), -1)
            return jnp.stack([errors[:, :count].mean(-1) for count in kept], -1)

        return jnp.moveaxis(jax.lax.map(under, classes.T), 0, 1) * weight[:, None, None]

    def _weights(self, schedule: Schedule, deviation: float) -> np.ndarray:
        """The weight of errors of x_0 at every level of the schedule, f64[t]."""
        level = level_ratios(schedule)
        if self.weighting == 'edm':
            return (level**2 + deviation**2) / (level * deviation) ** 2
        return level**-2.0 if self.weighting == 'epsilon' else np.ones_like(level)

    def _compare(self, ask: Any, count: int, classes: int) -> tuple[jax.Array, jax.Array]:
        """Predictions i32[b p], errors f32[b k p], by `ask(classes i32[b j], draw)` f32[b j p]."""
        left = jnp.broadcast_to(jnp.arange(classes, dtype=jnp.int32), (count, classes))
        shape = (count, classes, len(self.p_filters))
        headline = list(self.p_filters).index(self.p_filter)
        total, means, done = jnp.zeros(shape), jnp.zeros(shape), 0
        each = jnp.arange(count)[:, None]
        for draws, stay in (*self.rounds, (self._last, 0)):
            add = lambda total, draw, left=left: (total + ask(left, draw), None)
            total, _ = jax.lax.scan(add, total, jnp.arange(done, done + draws))
            done += draws
            means = means.at[each, left].set(total / done)
            if stay:
                # In the order of their numbers, so that ties go as without rounds.
                best = jnp.sort(jnp.argsort(total[..., headline], 1)[:, :stay], 1)
                left = jnp.take_along_axis(left, best, 1)
                total = jnp.take_along_axis(total, best[..., None], 1)
        return jnp.take_along_axis(left, jnp.argmin(total, 1), 1), means


def level_ratios(schedule: Schedule) -> np.ndarray:
    """Computes the level of noise of every timestep: s = sigma / alpha, f64[t], ascending."""
    return np.sqrt(1 / schedule.alphas_cumprod - 1)


def nearest_levels(schedule: Schedule, log_level: jax.Array) -> jax.Array:
    """Finds the timesteps i32[b] whose log s is nearest to those given, f32[b]."""
    logs = np.log(level_ratios(schedule))
    between = jnp.asarray((logs[1:] + logs[:-1]) / 2, jnp.float32)
    return jnp.searchsorted(between, log_level).astype(jnp.int32)


@dataclass(frozen=True)
class DiffusionClassifier(Limited, Defense, place='diffusion classifier: '):
    """Trains a diffusion model on the poisoned dataset as its only classifier.

    Attributes:
      generator: how it is trained (`purify.defenses.castle_walls.generation.generator_step`).
      images: how many test images are classified, drawn by the seed; 0 for all.
      dtype: what the generator computes in; errors are float32.
      Others: see `DenoisingErrors`.
    """

    generator: Settings
    draws: int = 100
    p_mean: float = -1.2
    p_std: float = 1.2
    p_filter: float = 0.05
    p_filters: Sequence[float] = (0.0, 0.01, 0.05, 0.1)
    weighting: str = 'edm'
    clip: bool = False
    rounds: Sequence[Sequence[int]] = ()
    images: Natural = 0
    dtype: str = 'float32'

    def __post_init__(self) -> None:
        super().__post_init__()
        errors_rule(self._settings())

    def _settings(self) -> Facts:
        return {name: value for name, value in asdict(self).items() if name != 'generator'}

    def method(self, student: Settings) -> Method:
        """The only step: the generator."""
        outcome = Outcome(generator='generator', diffusion=self._settings())
        return Method((generator_step(self.generator),), outcome)


def errors_rule(settings: Mapping[str, Any]) -> DenoisingErrors:
    """Makes the rule that the settings `Outcome.diffusion` describe.

    Raises `UserError` for settings that do not fit together.
    """
    own = {name: value for name, value in settings.items() if name not in STAGE_SETTINGS}
    return DenoisingErrors(**own)
