"""How much noise there is at which step: q(x_t | x_0) = N(alpha_t x_0, sigma_t^2 I).

`alpha_t = sqrt(alphas_cumprod[t])`, `sigma_t = sqrt(1 - alphas_cumprod[t])`, t = 0 ... T-1 (Ho et
al. 2020, eq. 4). Tables are float64 NumPy arrays; what reaches a device is float32.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
import numpy as np

from purify.core.errors import UserError
from purify.core.registry import Registry

PREDICTIONS = ('epsilon', 'sample', 'v_prediction')


@dataclass(frozen=True, eq=False)
class Schedule:
    """A noise schedule, and what the network that goes with it predicts.

    `set_alpha_to_one`: what DDIM and PNDM step to after the last timestep, 1 (a clean image) or
    `alphas_cumprod[0]`. `clip_sample`: samplers clip every prediction of x_0 to `[-clip_range,
    clip_range]`, unless told otherwise. `use_clipped_model_output`: those that reckon with eps
    derive it again from the clipped x_0 (`Sampler`), likewise. Raises `UserError` for betas that
    are not finite numbers between 0 and 1 and for unknown predictions.
    """

    betas: np.ndarray
    prediction: str = 'epsilon'
    set_alpha_to_one: bool = True
    clip_sample: bool = True
    clip_range: float = 1.0
    use_clipped_model_output: bool = True
    alphas_cumprod: np.ndarray = field(init=False)

    def __post_init__(self):
        try:
            betas = np.array(self.betas, np.float64)
        except (TypeError, ValueError) as error:
            raise UserError(f'betas must be a list of numbers, got {self.betas!r}.') from error
        if betas.ndim != 1 or not betas.size:
            raise UserError(f'betas must be a non-empty list of numbers, got shape {betas.shape}.')
        if not (np.isfinite(betas).all() and (betas > 0).all() and (betas < 1).all()):
            raise UserError(
                f'betas must lie between 0 and 1 (excluded), got {betas.min()} to {betas.max()}.'
            )
        if self.prediction not in PREDICTIONS:
            choices = ', '.join(PREDICTIONS)
            raise UserError(f'unknown prediction {self.prediction!r}. Choose from: {choices}.')
        if not (np.isfinite(self.clip_range) and self.clip_range > 0):
            raise UserError(f'clip_range must be a positive number, got {self.clip_range}.')
        alphas_cumprod = np.cumprod(1.0 - betas)
        if alphas_cumprod[-1] < np.finfo(np.float32).tiny:
            raise UserError(
                f'these {betas.size} betas leave no signal at the end (alphas_cumprod'
                f' {alphas_cumprod[-1]:.3g}). Choose fewer steps or smaller betas.'
            )
        betas.flags.writeable = alphas_cumprod.flags.writeable = False
        object.__setattr__(self, 'betas', betas)
        object.__setattr__(self, 'alphas_cumprod', alphas_cumprod)

    @property
    def steps(self) -> int:
        """T, the number of timesteps the network was trained with."""
        return self.betas.size

    @property
    def final_alpha_cumprod(self) -> float:
        """The value of `alphas_cumprod` that DDIM and PNDM step to after the last timestep."""
        return 1.0 if self.set_alpha_to_one else float(self.alphas_cumprod[0])

    def alpha_sigma(self, t: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The levels (alpha, sigma) f64[n] at timesteps t [n]; their ratio is interpolated."""
        ratio = np.interp(t, np.arange(self.steps), np.sqrt(1.0 / self.alphas_cumprod - 1.0))
        alpha = 1.0 / np.sqrt(1.0 + ratio**2)
        return alpha, ratio * alpha


def _range(beta_start: float, beta_end: float) -> tuple[float, float]:
    if not (0 < beta_start <= beta_end < 1):  # also refuses NaN
        raise UserError(f'need 0 < beta_start <= beta_end < 1, got {beta_start} and {beta_end}.')
    return beta_start, beta_end


def linear_betas(steps: int, beta_start: float = 1e-4, beta_end: float = 0.02) -> np.ndarray:
    """Betas f64[steps] that grow linearly (Ho et al. 2020, section 4)."""
    return np.linspace(*_range(beta_start, beta_end), steps)


def scaled_betas(steps: int, beta_start: float = 0.00085, beta_end: float = 0.012) -> np.ndarray:
    """Betas f64[steps] whose roots grow linearly (Rombach et al. 2022; Stable Diffusion)."""
    start, end = np.sqrt(_range(beta_start, beta_end))
    return np.linspace(start, end, steps) ** 2


def cosine_betas(steps: int) -> np.ndarray:
    """Betas f64[steps] of a squared-cosine `alphas_cumprod` (Nichol & Dhariwal 2021, eq. 17)."""
    edges = np.cos((np.linspace(0, 1, steps + 1) + 0.008) / 1.008 * np.pi / 2) ** 2
    return np.minimum(1 - edges[1:] / edges[:-1], 0.999)


SCHEDULES: Registry[Callable[..., np.ndarray]] = Registry(
    'schedule', linear=linear_betas, cosine=cosine_betas, scaled_linear=scaled_betas
)


def make_noise_schedule(
    name: str,
    steps: int,
    *,
    prediction: str = 'epsilon',
    set_alpha_to_one: bool = True,
    clip_sample: bool = True,
    clip_range: float = 1.0,
    **shape: float,
) -> Schedule:
    """Makes the schedule called `name` with `steps` timesteps; `shape` goes to the betas.

    `shape` is `beta_start=` and `beta_end=`. Raises `UserError` for unknown names and arguments,
    and for values out of range.
    """
    if not isinstance(steps, int | np.integer) or steps < 1:
        raise UserError(f'steps must be a positive integer, got {steps!r}.')
    betas = SCHEDULES.make(name, int(steps), **shape)
    return Schedule(betas, prediction, set_alpha_to_one, clip_sample, clip_range)


def per_image(table: np.ndarray, t: jax.Array, like: jax.Array) -> jax.Array:
    """Rows t i32[b] of a table, f32[b 1 ... 1], to multiply `like`; NaN for a t beyond it."""
    values = jnp.asarray(table, jnp.float32).at[t].get(mode='fill', fill_value=jnp.nan)
    return values.reshape(values.shape + (1,) * (like.ndim - values.ndim))


def add_noise(schedule: Schedule, x0: jax.Array, noise: jax.Array, t: jax.Array) -> jax.Array:
    """A draw from q(x_t | x_0), t i32[b]: `alpha_t x_0 + sigma_t noise` (Ho et al. 2020, eq. 4)."""
    alpha = per_image(np.sqrt(schedule.alphas_cumprod), t, x0)
    sigma = per_image(np.sqrt(1 - schedule.alphas_cumprod), t, x0)
    return alpha * x0 + sigma * noise
