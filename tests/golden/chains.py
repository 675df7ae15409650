"""Whole chains of every scheduler, without a network: its answers are arrays of noise, so a chain
is the scheduler's arithmetic.

`theirs` runs diffusers' scheduler as its pipelines do (needs torch and diffusers), `ours` the
sampler for the same file.
"""

from dataclasses import dataclass
from typing import Any
from unittest import mock

import numpy as np
from golden.settings import PUBLISHED, STABLE_DIFFUSION

SPACINGS = ('leading', 'linspace', 'trailing')
PREDICTIONS = ('epsilon', 'v_prediction', 'sample')
CLASSES: dict[str, dict[str, Any]] = {
    # the variance that tells whether noise ends a chain
    'DDPMScheduler': {'variance_type': 'fixed_large', 'clip_sample': True},
    'DDIMScheduler': {'clip_sample': False},
    'PNDMScheduler': {'skip_prk_steps': True},
    'DPMSolverMultistepScheduler': {},
    'EulerDiscreteScheduler': {},
}
SHAPE = (1, 2, 3, 1)  # NHWC here; one channel, so that both layouts are the same


@dataclass(frozen=True)
class Chain:
    """A scheduler_config.json, how many steps, and the strength of an image-to-image pipeline (1:
    from pure noise).
    """

    kind: str
    spacing: str
    prediction: str
    steps: int
    strength: float = 1.0

    @property
    def name(self) -> str:
        """As text, unlike any other's."""
        return f'{self.kind} {self.spacing} {self.prediction} {self.steps} {self.strength:g}'

    @property
    def config(self) -> dict[str, Any]:
        """The file."""
        settings = {'timestep_spacing': self.spacing, 'prediction_type': self.prediction}
        return {
            '_class_name': self.kind,
            **STABLE_DIFFUSION,
            **PUBLISHED,
            **CLASSES[self.kind],
            **settings,
        }

    def arrays(self) -> tuple[np.ndarray, ...]:
        """(image, its noise, the network's answers [k ...], each call's noise [k ...]), f32."""
        rng = np.random.default_rng(self.steps)
        image, *normal = (
            rng.standard_normal((n, *SHAPE), np.float32)
            for n in (1, 1, self.steps + 1, self.steps + 1)
        )
        return np.tanh(image[0]), normal[0][0], *normal[1:]


def chains(steps: int, strengths: tuple[float, ...]) -> list[Chain]:
    """Every class, spacing and prediction that diffusers runs; it has no PNDM for networks that
    predict the sample.
    """
    kinds = [
        (kind, spacing, prediction)
        for kind in CLASSES
        for spacing in SPACINGS
        for prediction in PREDICTIONS
    ]
    runs = [kind for kind in kinds if kind[::2] != ('PNDMScheduler', 'sample')]
    return [Chain(*kind, steps, strength) for kind in runs for strength in strengths]


# 7 divides no 1000; .9 and .6 leave out 1 and 3 timesteps, which differs for PNDM
GOLDEN_CHAINS = chains(7, (1.0, 0.9, 0.6))


def theirs(chain: Chain) -> np.ndarray:
    """What diffusers' scheduler makes of the chain's arrays, f32 of `SHAPE`."""
    import diffusers
    import torch

    image, first, answers, noise = (torch.from_numpy(x) for x in chain.arrays())
    scheduler = getattr(diffusers, chain.kind).from_config(chain.config)
    scheduler.set_timesteps(chain.steps)
    left_out = chain.steps - int(chain.steps * chain.strength)
    timesteps = scheduler.timesteps[left_out:]
    if hasattr(scheduler, 'set_begin_index'):
        scheduler.set_begin_index(left_out)
    x = (
        first * scheduler.init_noise_sigma
        if chain.strength == 1
        else scheduler.add_noise(image, first, timesteps[:1])
    )
    for i, t in enumerate(timesteps):
        scheduler.scale_model_input(x, t)  # Euler counts on being asked
        with mock.patch(
            'diffusers.schedulers.scheduling_ddpm.randn_tensor', lambda *_, now=noise[i], **__: now
        ):
            x = scheduler.step(answers[i], t, x).prev_sample
    return x.numpy()


def ours(chain: Chain) -> np.ndarray:
    """What the sampler for the chain's file makes of the same arrays."""
    import jax.numpy as jnp

    from purify.diffusion.scheduler_config import sampler_from_diffusers

    image, first, answers, noise = chain.arrays()
    sampler = sampler_from_diffusers(chain.config, chain.steps, strength=chain.strength)
    noised = sampler.tables['alpha'][0] * image + sampler.tables['sigma'][0] * first
    carry = sampler.init(
        jnp.asarray(first * sampler.start if chain.strength == 1 else noised, jnp.float32)
    )
    for i in range(sampler.steps):
        carry = sampler.step(
            carry, i, jnp.asarray(answers[i]), noise[i] if sampler.stochastic else None
        )
    return np.asarray(sampler.final(carry))


def error(made: np.ndarray, expected: np.ndarray) -> float:
    """The greatest difference, in units of the expected state's size or of 1: answers made of noise
    let chains grow.
    """
    return float(np.abs(made - expected).max() / max(1.0, np.abs(expected).max()))
