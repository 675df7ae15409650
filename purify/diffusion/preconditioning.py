"""The preconditioning of EDM (Karras et al. 2022), which scales what a network sees and says.

Here x = x_0 + sigma n; the variance-preserving state of `purify.diffusion.samplers` is x / sqrt(1 +
sigma^2). The network F sees c_in x and c_noise, and the clean image is D(x; sigma) = c_skip x +
c_out F(c_in x; c_noise) (their eq. 7, table 1).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from purify.core.errors import UserError
from purify.core.types import Facts
from purify.diffusion.schedules import Schedule

Ask = Callable[[jax.Array, jax.Array], jax.Array]


@dataclass(frozen=True)
class Preconditioning:
    """EDM's settings (Karras et al. 2022, table 1); the defaults are theirs.

    Attributes:
      p_mean: of log sigma in training.
      p_std: its deviation.
      sigma_data: deviation of the images.
      sigma_min: the lowest level that samplers visit.
      sigma_max: the highest.
      rho: how levels are spaced between the two (eq. 5).
      levels: how many there are.
    """

    p_mean: float = -1.2
    p_std: float = 1.2
    sigma_data: float = 0.5
    sigma_min: float = 0.002
    sigma_max: float = 80.0
    rho: float = 7.0
    levels: int = 1000

    def __post_init__(self) -> None:
        positive = all(x > 0 for x in (self.sigma_min, self.sigma_data, self.p_std, self.rho))
        if not (positive and self.sigma_min < self.sigma_max):
            raise UserError(
                f'edm: sigma_min={self.sigma_min} must be positive and below'
                f' sigma_max={self.sigma_max}; sigma_data={self.sigma_data}, p_std={self.p_std} and'
                f' rho={self.rho} positive.'
            )
        if self.levels < 2:
            raise UserError(f'edm: levels={self.levels} must be 2 or more.')

    def sigmas(self) -> np.ndarray:
        """The levels f64[levels], ascending (eq. 5)."""
        low, high = self.sigma_min ** (1 / self.rho), self.sigma_max ** (1 / self.rho)
        return np.linspace(low, high, self.levels) ** self.rho

    def schedule(self) -> Schedule:
        """The levels as a variance-preserving schedule for a network that predicts clean images."""
        alphas_cumprod = 1 / (1 + self.sigmas() ** 2)
        betas = 1 - alphas_cumprod / np.append(1.0, alphas_cumprod[:-1])
        return Schedule(betas, prediction='sample', clip_sample=False)

    def draw(self, key: jax.Array, count: int) -> jax.Array:
        """Levels f32[count] to train at: log-normal."""
        return jnp.exp(self.p_mean + self.p_std * jax.random.normal(key, (count,)))

    def weight(self, sigma: Any) -> Any:
        """The weight of the squared error of the clean image at `sigma`: all levels count alike."""
        return (sigma**2 + self.sigma_data**2) / (sigma * self.sigma_data) ** 2

    def denoise(self, ask: Ask, x: jax.Array, sigma: jax.Array) -> jax.Array:
        """D(x; sigma) f32[b h w c] of x at sigma f32[b]; `ask(x, c_noise f32[b])` is network F."""
        level = sigma.reshape(-1, *(1,) * (x.ndim - 1))
        total = jnp.sqrt(level**2 + self.sigma_data**2)
        answer = ask(x / total, jnp.log(sigma) / 4).astype(jnp.float32)
        return (self.sigma_data / total) ** 2 * x + level * self.sigma_data / total * answer

    def to_diffusers(self) -> Facts:
        """Writes the scheduler_config.json of diffusers' EDMEulerScheduler."""
        return {
            '_class_name': 'EDMEulerScheduler',
            'num_train_timesteps': self.levels,
            'prediction_type': 'epsilon',
            'rho': self.rho,
            'sigma_data': self.sigma_data,
            'sigma_max': self.sigma_max,
            'sigma_min': self.sigma_min,
            'sigma_schedule': 'karras',
        }
