"""Candidates: states of an image that is noised and denoised in rounds (Zhou 2024, section 3.2)."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Annotated, Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from purify.core.errors import UserError
from purify.core.limits import Count, Limited, one_of
from purify.core.randomness import id_keys, stream_key
from purify.core.types import Facts, Settings, Tree
from purify.defenses.dataelixir.label_changes import place_of
from purify.defenses.method import Context, Measure, Models, Purifier
from purify.diffusion.chain_step import Sampler
from purify.diffusion.run_chain import STATES, edit
from purify.diffusion.samplers import SAMPLERS
from purify.diffusion.schedules import Schedule, make_noise_schedule
from purify.diffusion.timesteps import window_timesteps
from purify.generative.pixel_prior import PixelPrior
from purify.metrics.images import ssim_uniform_of
from purify.train.inference import Rows, Rule
from purify.train.objectives.tasks import resize_to, signed_images

FORWARD = ('matched', 'released')
LEVELS = ('rounded', 'truncated')
SMALLEST = 1e-8  # length of a feature vector that cosines divide by

# What is kept of a round: its states' grey levels f32[m b h w c] -> a pytree of arrays.
Reading = Callable[[jax.Array], Any]


@dataclass(frozen=True)
class CandidateChain(Limited, place='defense.'):
    """The way from an image to its candidates: rounds x kept of them, in order of time.

    Attributes:
      rounds: n, how often the image is noised and denoised, each time from where the last round
        ended (clipped to [-1, 1], not rounded).
      start: T, the steps of the prior's schedule that are undone.
      steps: network calls a round.
      window: candidates are kept from the calls at timesteps below it.
      kept: m, how many candidates are kept in a round (`timesteps.window_timesteps`).
      sampler: `name`, one of `SAMPLERS`, and its own settings. 'pndm' is none of them: it calls
        once more than it has timesteps, and its averages are for evenly spaced ones.
      forward: noise to the timestep of the first call ('matched'), or to the next noisier one, as
        the released code does (index 150 forward, then calls at 149 ... 0).
      state: candidates are the chain's states after those calls ('x_t', as released), with what is
        left of the noise, or the clean images the network sees in them ('x0').
      levels: how states become 8-bit images: to the nearest level ('rounded'), or to the one below,
        as in the released code ('truncated'), where the image they are compared with takes the same
        way there and back. An image that stays in the dataset stays as it is.
      dtype: what the prior computes in; the chain stays float32.
    """

    rounds: Count = 5
    start: int = 150
    steps: int = 15
    window: int = 10
    kept: int = 5
    sampler: Settings = field(default_factory=lambda: {'name': 'ddim', 'eta': 1.0})
    forward: Annotated[str, one_of(FORWARD)] = 'matched'
    state: Annotated[str, one_of(STATES)] = 'x_t'
    levels: Annotated[str, one_of(LEVELS)] = 'rounded'
    dtype: str = 'float32'

    def __post_init__(self) -> None:
        super().__post_init__()
        # The prior's schedule is not known yet; what is wrong shows on any.
        likely = make_noise_schedule('linear', max(1000, self.start))
        _make_sampler(likely, self._timesteps(), self.sampler)

    def network_calls(self, models: Models) -> int:
        """Counts evaluations of the prior's network for one image."""
        return self.rounds * self.steps

    def remake(self) -> 'Remake':
        """Makes the rule that makes one of these candidates once more."""
        return Remake(**self.chain())

    def chain(self) -> Facts:
        """Lists the settings of the chain alone."""
        return {field.name: getattr(self, field.name) for field in fields(CandidateChain)}

    def _timesteps(self) -> np.ndarray:
        return window_timesteps(self.start, self.steps, self.window, self.kept)

    def _sampler(self, prior: PixelPrior) -> tuple[Sampler, tuple[float, float] | None]:
        """The sampler of a round, and the (alpha, sigma) it noises to where that is not its own."""
        last = prior.schedule.steps - (self.forward == 'released')
        if self.start > last:
            raise UserError(
                f'defense.start={self.start}: the prior was trained with {prior.schedule.steps}'
                f' steps; choose 1 to {last}.'
            )
        prior.check_sampler(self.sampler['name'])
        sampler = _make_sampler(prior.schedule, self._timesteps(), self.sampler)
        if self.forward == 'matched':
            return sampler, None
        alpha, sigma = prior.schedule.alpha_sigma(np.array([self.start]))
        return sampler, (float(alpha[0]), float(sigma[0]))

    def _grey(self, x: jax.Array) -> jax.Array:
        """[-1, 1] -> grey levels, whole numbers 0 ... 255, f32."""
        if self.levels == 'rounded':
            return jnp.clip(jnp.round((x + 1) * 127.5), 0, 255)
        return jnp.trunc(jnp.clip((x + 1) * 0.5, 0, 1) * 255)

    def _compared(self, images: jax.Array) -> jax.Array:
        """Images u8 -> the grey levels f32 that candidates are compared with.

        Truncated, 63 of the 256 come back from [-1, 1] one lower: rounding errors of float32, so
        they are looked up.
        """
        if self.levels == 'rounded':
            return images.astype(jnp.float32)
        signed = np.arange(256, dtype=np.float32) / np.float32(255) * np.float32(2) - np.float32(1)
        back = np.trunc((signed + np.float32(1)) * np.float32(0.5) * np.float32(255))
        return jnp.asarray(back)[images.astype(jnp.int32)]

    def _walk(self, models: Models, context: Context) -> Callable[..., tuple[Any, jax.Array]]:
        """Makes (weights, rows, read) -> (what `read` gave [n ...], bool[b]: all are numbers).

        Round r of image b draws its noise from fold_in(key of (seed, id), r): a function of (seed,
        id, round) alone. States are looked at in the dataset's size and channels, as 8-bit images.
        """
        prior = models['prior']
        if prior.model != 'pixel':
            raise UserError(
                f'defense.name=dataelixir needs a prior on pixels; this one is {prior.model!r}.'
            )
        size_px, _, channels = context.shape
        if prior.channels == 1 and channels == 3:
            raise UserError(
                'the prior makes grey images, but the dataset is in colour; choose a prior with 3'
                ' channels.'
            )
        sampler, level = self._sampler(prior)

        def seen(states: jax.Array) -> jax.Array:
            """States f32[m b s s c'] -> grey levels f32[m b h w c], whole numbers."""
            flat = states.reshape(-1, *states.shape[2:])
            flat = flat.mean(-1, keepdims=True) if prior.channels > channels else flat
            levels = self._grey(resize_to(flat, size_px))
            return levels.reshape(*states.shape[:2], *levels.shape[1:])

        def walk(weights: Tree, rows: Rows, read: Reading) -> tuple[Any, jax.Array]:
            network = nnx.merge(prior.graph, weights['params'], weights['stats'])
            keys = id_keys(stream_key(context.seed, 'candidates'), rows['id'])
            images = signed_images(rows['image'])
            x = jnp.broadcast_to(images, (*images.shape[:3], prior.channels))

            def turn(x: jax.Array, number: jax.Array) -> tuple[jax.Array, tuple[Any, jax.Array]]:
                own = jax.vmap(jax.random.fold_in, (0, None))(keys, number)
                how = {'level': level, 'record': self.kept, 'state': self.state}
                x, states = cast(Any, edit(sampler, network, x, own, **how))
                finite = jnp.isfinite(x).all((1, 2, 3)) & jnp.isfinite(states).all((0, 2, 3, 4))
                return jnp.clip(x, -1, 1), (read(seen(states)), finite)

            x = resize_to(x, prior.size_px)
            _, (found, finite) = jax.lax.scan(turn, x, jnp.arange(self.rounds))
            return found, finite.all(0)

        return walk


@dataclass(frozen=True)
class Candidates(CandidateChain, Measure):
    """Measures a classifier's labels of an image and its candidates, in one program.

    Columns: `raw` i32[b] the label of the image itself, `candidates` i32[b rounds*kept] of the
    candidates, `distance` f32[b rounds*kept] of each from the image: eq. 5, turned round as in the
    released code so that more is more different,

        (1 - (SSIM + 1) / 2) / 2 + (1 - (cos + 1) / 2) / 2,

    of 8-bit pixels (`ssim_uniform_of`) and of the classifier's features.
    """

    def rule(self, models: Models, context: Context) -> Rule:
        """See `Measure`."""
        walk, answer = self._walk(models, context), models['classifier'].answer

        def measure(constants: Tree, rows: Rows) -> Rows:
            raw, compare = _comparer(answer, constants['classifier'], self._compared(rows['image']))
            read = lambda states: jax.lax.map(compare, states)
            found, finite = walk(constants['prior'], rows, read)
            labels, distance, sound = (column.reshape(-1, len(raw)).T for column in found)
            columns = {'raw': raw, 'candidates': labels, 'distance': distance}
            return columns | {'finite': finite & sound.all(1)}

        return measure

    def chosen(self, models: Models, context: Context, rank: float, count_raw: bool) -> Rule:
        """Makes a function of rows to chosen candidates {'image' u8[b h w c], 'finite' bool[b]}.

        For images that were never measured: all candidates of a batch are held until their
        distances are known. All are allowed (`choose_candidate`): the image has no verdict.
        """
        walk, answer = self._walk(models, context), models['classifier'].answer
        place = int(place_of(rank, np.array(self.rounds * self.kept + count_raw))) - count_raw

        def choose(constants: Tree, rows: Rows) -> Rows:
            _, compare = _comparer(answer, constants['classifier'], self._compared(rows['image']))

            def read(states: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
                _, distance, sound = jax.lax.map(compare, states)
                return distance, sound, states.astype(jnp.uint8)

            found, finite = walk(constants['prior'], rows, read)
            distance, sound, images = (x.reshape(-1, *x.shape[2:]) for x in found)
            which = jnp.argsort(distance, axis=0, stable=True)[max(place, 0)]
            image = jnp.take_along_axis(images, which[None, :, None, None, None], axis=0)[0]
            image = image if place >= 0 else rows['image']
            return {'image': image, 'finite': finite & sound.all(0)}

        return choose


@dataclass(frozen=True)
class Remake(CandidateChain, Purifier):
    """Makes a candidate once more: it was not stored, being a function of (seed, id, round)."""

    def number(self) -> int:
        """How many images are made of each."""
        return 1

    def rule(self, models: Models, context: Context) -> Rule:
        """See `Purifier`; 'variation' is the candidate's number from 0, or -1 for the image."""
        walk = self._walk(models, context)

        def remake(constants: Tree, rows: Rows) -> Rows:
            number = jnp.maximum(rows['variation'], 0)
            place = jnp.arange(len(number))

            def read(states: jax.Array) -> jax.Array:
                return states[number % self.kept, place].astype(jnp.uint8)

            images, finite = walk(constants['prior'], rows, read)
            made = images[number // self.kept, place]
            image = jnp.where((rows['variation'] < 0)[:, None, None, None], rows['image'], made)
            return {'image': image, 'finite': finite}

        return remake


def _make_sampler(schedule: Schedule, timesteps: np.ndarray, settings: Settings) -> Sampler:
    """A round's sampler; raises `UserError` for a name or an option that it cannot have."""
    options = dict(settings)
    name = options.pop('name', '')
    make, usable = SAMPLERS[name], sorted(SAMPLERS.keys() - {'pndm'})
    if name not in usable:
        raise UserError(
            f'defense.sampler.name={name!r} needs evenly spaced timesteps: choose from'
            f' {", ".join(usable)}.'
        )
    known = list(inspect.signature(make).parameters)[2:]  # after the schedule and the timesteps
    if unknown := sorted(options.keys() - set(known)):
        raise UserError(
            f'defense.sampler.{unknown[0]}: {name!r} has no such option; it has {", ".join(known)}.'
        )
    try:
        return make(schedule, timesteps, **options)
    except TypeError as error:
        wrong = f'defense.sampler={dict(settings)}: {name!r} cannot take that ({error}).'
        raise UserError(wrong) from error


def _comparer(
    answer: Callable[..., Any], weights: Tree, originals: jax.Array
) -> tuple[jax.Array, Callable[..., Any]]:
    """Labels i32[b] of grey levels f32[b h w c], and the function that compares others with them.

    It gives their labels i32[b], distances f32[b], and bool[b]: whether the distance and all
    logits, of both images, are numbers.
    """
    logits, features = answer(weights, originals / 255)

    def compare(levels: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        their_logits, theirs = answer(weights, levels / 255)
        lengths = jnp.linalg.norm(features, axis=-1) * jnp.linalg.norm(theirs, axis=-1)
        cosine = (features * theirs).sum(-1) / jnp.maximum(lengths, SMALLEST)
        similar = jax.vmap(lambda a, b: ssim_uniform_of(jnp, a, b))(originals, levels)
        distance = 0.5 * (1 - (similar + 1) / 2) + 0.5 * (1 - (cosine + 1) / 2)
        finite = jnp.isfinite(logits).all(-1) & jnp.isfinite(their_logits).all(-1)
        sound = jnp.isfinite(distance) & finite
        return their_logits.argmax(-1).astype(jnp.int32), distance, sound

    return logits.argmax(-1).astype(jnp.int32), compare
