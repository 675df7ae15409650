"""How much noise there is at which step: the forward process q(x_t | x_0) = N(alpha_t x_0, sigma_t^2 I).

`alpha_t = sqrt(alphas_cumprod[t])`, `sigma_t = sqrt(1 - alphas_cumprod[t])`, t = 0 ... T-1 (Ho et al. 2020, eq. 4). Tables are
float64 NumPy arrays; what reaches a device is float32.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from purify.core.errors import UserError
from purify.core.registry import Registry

PREDICTIONS = ('epsilon', 'sample', 'v_prediction')


@dataclass(frozen=True, eq=False)
class Schedule:
    """A noise schedule, and what the network that goes with it predicts.

    `set_alpha_to_one`: what DDIM and PNDM step to after the last timestep, 1 (a clean image) or `alphas_cumprod[0]`.
    `clip_sample`: samplers clip every prediction of x_0 to `[-clip_range, clip_range]`, unless told otherwise.
    Raises `UserError` for betas that are not finite numbers between 0 and 1 and for unknown predictions.
    """

    betas: np.ndarray
    prediction: str = 'epsilon'
    set_alpha_to_one: bool = True
    clip_sample: bool = True
    clip_range: float = 1.0
    alphas_cumprod: np.ndarray = field(init=False)

    def __post_init__(self):
        try:
            betas = np.array(self.betas, np.float64)
        except (TypeError, ValueError) as error:
            raise UserError(f'betas must be a list of numbers, got {self.betas!r}.') from error
        if betas.ndim != 1 or not betas.size:
            raise UserError(f'betas must be a non-empty list of numbers, got an array of shape {betas.shape}.')
        if not (np.isfinite(betas).all() and (betas > 0).all() and (betas < 1).all()):
            raise UserError(f'betas must lie between 0 and 1 (both excluded), got {betas.min()} ... {betas.max()}.')
        if self.prediction not in PREDICTIONS:
            raise UserError(f'unknown prediction {self.prediction!r}. Choose from: {", ".join(PREDICTIONS)}.')
        if not (np.isfinite(self.clip_range) and self.clip_range > 0):
            raise UserError(f'clip_range must be a positive number, got {self.clip_range}.')
        alphas_cumprod = np.cumprod(1.0 - betas)
        if alphas_cumprod[-1] < np.finfo(np.float32).tiny:
            raise UserError(
                f'these {betas.size} betas leave no signal at the end (alphas_cumprod {alphas_cumprod[-1]:.3g}). '
                'Choose fewer steps or smaller betas.'
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
        """(alpha f64[n], sigma f64[n]) at timesteps t [n]; between integers sigma/alpha is interpolated linearly."""
        ratio = np.interp(t, np.arange(self.steps), np.sqrt(1.0 / self.alphas_cumprod - 1.0))
        alpha = 1.0 / np.sqrt(1.0 + ratio**2)
        return alpha, ratio * alpha


def _range(beta_start: float, beta_end: float) -> tuple[float, float]:
    if not (0 < beta_start <= beta_end < 1):  # also refuses NaN
        raise UserError(f'need 0 < beta_start <= beta_end < 1, got {beta_start} and {beta_end}.')
    return beta_start, beta_end


def linear(steps: int, beta_start: float = 1e-4, beta_end: float = 0.02) -> np.ndarray:
    """Betas f64[steps] that grow linearly (Ho et al. 2020, section 4)."""
    return np.linspace(*_range(beta_start, beta_end), steps)


def scaled_linear(steps: int, beta_start: float = 0.00085, beta_end: float = 0.012) -> np.ndarray:
    """Betas f64[steps] whose roots grow linearly (Rombach et al. 2022; Stable Diffusion)."""
    start, end = np.sqrt(_range(beta_start, beta_end))
    return np.linspace(start, end, steps) ** 2


def cosine(steps: int, offset: float = 0.008, beta_max: float = 0.999) -> np.ndarray:
    """Betas f64[steps] of a squared-cosine `alphas_cumprod` (Nichol & Dhariwal 2021, eq. 17)."""
    if not (0 <= offset < 1 and 0 < beta_max < 1):
        raise UserError(f'need 0 <= offset < 1 and 0 < beta_max < 1, got {offset} and {beta_max}.')
    edges = np.cos((np.linspace(0, 1, steps + 1) + offset) / (1 + offset) * np.pi / 2) ** 2
    return np.minimum(1 - edges[1:] / edges[:-1], beta_max)


SCHEDULES = Registry('schedule', linear=linear, cosine=cosine, scaled_linear=scaled_linear)


def make_schedule(
    name: str,
    steps: int,
    *,
    prediction: str = 'epsilon',
    set_alpha_to_one: bool = True,
    clip_sample: bool = True,
    clip_range: float = 1.0,
    **shape: float,
) -> Schedule:
    """The schedule called `name` with `steps` timesteps; `shape` goes to the betas (`beta_start=`, `beta_end=`, ...).

    Raises `UserError` for unknown names and arguments, and for values out of range.
    """
    if not isinstance(steps, int | np.integer) or steps < 1:
        raise UserError(f'steps must be a positive integer, got {steps!r}.')
    betas = SCHEDULES.make(name, int(steps), **shape)
    return Schedule(betas, prediction, set_alpha_to_one, clip_sample, clip_range)


def per_image(table: np.ndarray, t: jax.Array, like: jax.Array) -> jax.Array:
    """Rows t i32[b] of a table as f32[b 1 ... 1], to multiply `like`; NaN for a t that the table does not have."""
    values = jnp.asarray(table, jnp.float32).at[t].get(mode='fill', fill_value=jnp.nan)
    return values.reshape(values.shape + (1,) * (like.ndim - values.ndim))


def add_noise(schedule: Schedule, x0: jax.Array, noise: jax.Array, t: jax.Array) -> jax.Array:
    """A draw from q(x_t | x_0): `alpha_t x_0 + sigma_t noise`, f32 (Ho et al. 2020, eq. 4); t i32[b]."""
    alpha = per_image(np.sqrt(schedule.alphas_cumprod), t, x0)
    sigma = per_image(np.sqrt(1 - schedule.alphas_cumprod), t, x0)
    return alpha * x0 + sigma * noise


# scheduler_config.json of diffusers -------------------------------------------------------------------------------------

_BETAS_OF = {'linear': 'linear', 'scaled_linear': 'scaled_linear', 'squaredcos_cap_v2': 'cosine'}  # theirs -> ours
_CLASSES = {  # (set_alpha_to_one, clip_sample) where the file is silent, and whether the class reads these two at all
    'DDPMScheduler': ((True, True), (False, True)),
    'DDIMScheduler': ((True, True), (True, True)),
    'PNDMScheduler': ((False, False), (True, False)),
    'DPMSolverMultistepScheduler': ((True, False), (False, False)),
    'EulerDiscreteScheduler': ((True, False), (False, False)),
}


def require(config: Mapping[str, Any], key: str, *allowed: Any) -> None:
    """Raises `UserError` when a scheduler_config.json holds a value of `key` that would change the arithmetic unseen."""
    if key in config and config[key] not in allowed:
        choices = ' or '.join(repr(value) for value in allowed)
        raise UserError(f'scheduler_config.json: {key} = {config[key]!r} is not supported; it must be {choices}.')


def schedule_from_diffusers(config: Mapping[str, Any]) -> Schedule:
    """The schedule that a diffusers scheduler_config.json describes, with that class's defaults where it is silent.

    Raises `UserError` for other scheduler classes and for settings that are not supported, by name.
    """
    name = config.get('_class_name')
    if name not in _CLASSES:
        raise UserError(f'scheduler_config.json: unknown _class_name {name!r}. Choose from: {", ".join(_CLASSES)}.')
    require(config, 'thresholding', False)
    require(config, 'rescale_betas_zero_snr', False)
    require(config, 'prediction_type', *PREDICTIONS)
    defaults, reads = _CLASSES[name]
    set_alpha_to_one, clip_sample = (
        bool(config.get(key, default)) if read else default
        for key, default, read in zip(('set_alpha_to_one', 'clip_sample'), defaults, reads, strict=True)
    )
    if config.get('trained_betas') is not None:
        betas = np.asarray(config['trained_betas'], np.float64)
    else:
        shape = config.get('beta_schedule', 'linear')
        require(config, 'beta_schedule', *_BETAS_OF)
        ends = {} if shape == 'squaredcos_cap_v2' else {k: config.get(k, d) for k, d in (('beta_start', 1e-4), ('beta_end', 0.02))}
        betas = SCHEDULES.make(_BETAS_OF[shape], int(config.get('num_train_timesteps', 1000)), **ends)
    return Schedule(
        betas,
        prediction=config.get('prediction_type', 'epsilon'),
        set_alpha_to_one=set_alpha_to_one,
        clip_sample=clip_sample,
        clip_range=float(config.get('clip_sample_range', 1.0)),
    )


def schedule_to_diffusers(schedule: Schedule) -> dict[str, Any]:
    """A scheduler_config.json for `schedule`: a DDPMScheduler, or a DDIMScheduler where the last step ends below alpha 1.

    Betas of a known shape are written by name, others one by one (`trained_betas`).
    """
    betas = schedule.betas
    config: dict[str, Any] = {
        '_class_name': 'DDPMScheduler' if schedule.set_alpha_to_one else 'DDIMScheduler',
        'num_train_timesteps': schedule.steps,
        'beta_start': float(betas[0]),
        'beta_end': float(betas[-1]),
        'beta_schedule': 'linear',
        'trained_betas': None,
        'prediction_type': schedule.prediction,
        'clip_sample': schedule.clip_sample,
        'clip_sample_range': schedule.clip_range,
    }
    if not schedule.set_alpha_to_one:
        config['set_alpha_to_one'] = False
    for theirs, ours in _BETAS_OF.items():
        same = cosine(schedule.steps) if ours == 'cosine' else None
        if same is None and betas[0] <= betas[-1]:
            same = SCHEDULES.make(ours, schedule.steps, beta_start=float(betas[0]), beta_end=float(betas[-1]))
        if same is not None and np.allclose(same, betas, rtol=1e-9, atol=0):
            return config | {'beta_schedule': theirs}
    return config | {'trained_betas': betas.tolist()}
