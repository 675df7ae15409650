"""Trains classifiers on what a diffusion model of the poisoned data makes (Pan 2024, section 5)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Annotated, Any, cast

import jax
import jax.numpy as jnp

from purify.core.errors import UserError
from purify.core.limits import Limited, one_of
from purify.core.randomness import id_keys, stream_key
from purify.core.registry import make_part
from purify.core.types import Facts, Settings, Tree
from purify.defenses.filters.score_filter import score_steps
from purify.defenses.measures import Embeddings
from purify.defenses.method import Context, Defense, Measure, Method, Models, Outcome, Step
from purify.defenses.steps import encoder_step, student_step
from purify.diffusion.chain_step import Sampler
from purify.diffusion.guidance import Guidance
from purify.diffusion.run_chain import sample, start_noise
from purify.diffusion.samplers import SAMPLERS
from purify.diffusion.schedules import Schedule
from purify.diffusion.timesteps import edit_timesteps
from purify.generative.pixel_generator import Generator
from purify.train.inference import Rows, Rule
from purify.train.objectives.tasks import resize_to

COPIES = ('none', 'simclr', 'encoder')


@dataclass(frozen=True)
class Generate(Measure):
    """Generates images of given classes from pure noise: the rule of a 'generate' step.

    Attributes:
      sampler: `name`, one of `SAMPLERS`, and its own options (eta, variance, clip_sample).
      steps: timesteps of a chain, evenly spaced from the last of the schedule to its first.
      guidance: the scale s of e_u + s (e_c - e_u); 1 is without guidance, at half the work. Ho &
        Salimans' w is s - 1.
      guidance_interval: noise levels sigma/alpha (low, high) between which it guides; elsewhere the
        network is asked once. () is everywhere (`purify.diffusion.guidance.Guidance`).
      stream: names the noise, so that two sets of one generator differ.
      dtype: what the network computes in; its chain stays float32.
    """

    sampler: Settings
    steps: int
    guidance: float
    stream: str
    dtype: str = 'float32'
    guidance_interval: Sequence[float] = ()

    def __post_init__(self) -> None:
        Guidance(self.guidance, self.guidance_interval)

    def chain(self, schedule: Schedule) -> Sampler:
        """Makes the sampler of a whole chain, from noise to a clean image.

        Raises `UserError` for settings that do not go with the schedule.
        """
        # Stable Diffusion's would leave a little noise.
        schedule = replace(schedule, set_alpha_to_one=True)
        options = dict(self.sampler)
        name = options.pop('name')
        if name == 'consistency':
            raise UserError(
                "defense.sampling.sampler: 'consistency' asks distilled priors; a generator is"
                ' trained in the run. Choose another.'
            )
        times = edit_timesteps(schedule.steps, self.steps, name)
        return SAMPLERS.make(name, schedule, times, **options)

    def network_calls(self, models: Models) -> int:
        """Evaluations of the generator's network for one image; guided ones are two."""
        chain = self.chain(models['generator'].schedule)
        return Guidance(self.guidance, self.guidance_interval).calls(chain)

    def rule(self, models: Models, context: Context) -> Rule:
        """Makes a function of rows {'label', 'id' i32[b]} to {'image' u8[b h w c], 'finite'}.

        Row i's noise is a function of (seed, `stream`, id). Raises `UserError` for a generator of
        other classes or channels.
        """
        generator: Generator = models['generator']
        check_generator(generator, context.shape, context.class_names)
        chain = self.chain(generator.schedule)
        scales = Guidance(self.guidance, self.guidance_interval)

        def generate(weights: Tree, rows: Rows) -> Rows:
            keys = id_keys(stream_key(context.seed, f'generation {self.stream}'), rows['id'])
            noise = chain.start * start_noise(keys, generator.state_shape)
            ask = partial(generator.predictor, weights['generator'], rows['label'])
            states = cast(jax.Array, sample(chain, scales.stretches(chain, ask), noise, keys))
            x = resize_to(generator.decode(weights['generator'], states), context.shape[0])
            x = x.mean(-1, keepdims=True) if generator.channels > context.shape[2] else x
            image = jnp.clip(jnp.round((x + 1) * 127.5), 0, 255).astype(jnp.uint8)
            return {'image': image, 'finite': jnp.isfinite(x).all((1, 2, 3))}

        return generate


def check_generator(
    generator: Generator, shape: tuple[int, int, int], class_names: Sequence[str]
) -> None:
    """Raises `UserError` unless the generator fits the classes and the channels of a dataset."""
    if list(generator.class_names) != list(class_names):
        raise UserError(
            f'the generator was trained for classes {", ".join(generator.class_names[:10])}; this'
            f' dataset has {", ".join(list(class_names)[:10])}. Train it on this dataset.'
        )
    if generator.channels == 1 < shape[2]:
        raise UserError(
            'the generator makes grey images, but the dataset is in colour; train it on this'
            ' dataset.'
        )


def generator_step(part: Mapping[str, Any]) -> Step:
    """Step 'generator': trains a class-conditional diffusion model on the poisoned images.

    `part` holds its settings; a latent model starts from the config's prior.
    """
    start = {'prior': 'prior'} if part['objective']['name'] == 'latent' else {}
    return Step('generator', 'generator', {'data': 'poisoned'} | start, dict(part))


@dataclass(frozen=True)
class Generation(Limited, Defense, place='defense.'):
    """Trains a diffusion model on the poisoned dataset, and a student on what it generates.

    Attributes:
      generator: how the model is trained (`purify.stages.diffusion_settings.pixel_generator`,
        `latent_generator`).
      sampling: `sampler`, `steps`, `guidance` and `dtype` of `Generate`.
      images: how many are generated, of all classes in turn; 0 is as many as the poisoned dataset
        holds.
      probe: `labels`, classes of which `images` more are generated to be dissected; no images, no
        probe. It decides nothing.
      scores: detectors by name, measured on the poisoned and on the generated images
        (`purify.defenses.filters.score_filter.score`).
      copies: whose features tell how near a generation is to a training image: 'none', of an
        `encoder` trained in the run ('simclr'), or of a finished one, the config's part `encoder`
        ('encoder').
      encoder: of copies='simclr' (`purify.defenses.steps.Simclr`).
    """

    generator: Settings
    sampling: Settings
    images: int = 0
    probe: Settings = field(default_factory=lambda: {'labels': (), 'images': 0})
    scores: dict[str, Facts] = field(default_factory=dict)
    copies: Annotated[str, one_of(COPIES)] = 'none'
    encoder: Settings = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        if bool(self.encoder) != (self.copies == 'simclr'):
            raise UserError(
                "defense.encoder goes with copies='simclr', and with no other: this is"
                f' copies={self.copies!r}. Give both, or neither.'
            )

    def method(self, student: Settings) -> Method:
        """The steps: generator, generated images, (probe, scores, features of copies,) student."""
        steps = [generator_step(self.generator), self._generate('generated', self.images, ())]
        if self.probe['images']:
            steps.append(self._generate('probe', self.probe['images'], tuple(self.probe['labels'])))
        sets = {'given': 'poisoned', 'made': 'generated'}
        scored, scores = score_steps(self.scores, student, sets)
        steps += [*scored, *self._look_for_copies(), student_step(student, 'generated')]
        outcome = Outcome(
            classifier='student',
            generator='generator',
            generated='generated',
            probe='probe' if self.probe['images'] else None,
            scores=scores,
            copies=('generated_features', 'given_features') if self.copies != 'none' else None,
        )
        return Method(tuple(steps), outcome)

    def _generate(self, name: str, images: int, labels: tuple[int, ...]) -> Step:
        inputs = {'poisoned': 'poisoned', 'generator': 'generator'}
        generate = make_part('defense.sampling', Generate, **self.sampling, stream=name)
        return Step(name, 'generate', inputs, {'images': images, 'labels': labels}, generate)

    def _look_for_copies(self) -> list[Step]:
        if self.copies == 'none':
            return []
        own = [encoder_step(self.encoder)] if self.copies == 'simclr' else []
        for name, data in (('generated_features', 'generated'), ('given_features', 'poisoned')):
            inputs = {'poisoned': data, 'encoder': 'encoder'}
            own.append(Step(name, 'measure', inputs, by=Embeddings()))
        return own
