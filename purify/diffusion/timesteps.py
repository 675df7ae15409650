"""Which timesteps a short chain visits, always from noisy to clean."""

from collections.abc import Callable

import numpy as np

from purify.core.errors import UserError
from purify.core.registry import Registry


def _leading(train_steps: int, steps: int, spare: int, steps_offset: int) -> np.ndarray:
    stride = train_steps // (steps + spare)
    return np.arange(steps + spare)[::-1][:steps] * stride + steps_offset


def _linspace(train_steps: int, steps: int, spare: int, steps_offset: int) -> np.ndarray:
    return np.linspace(0, train_steps - 1, steps + spare)[::-1][:steps]


def _trailing(train_steps: int, steps: int, spare: int, steps_offset: int) -> np.ndarray:
    # arange's own rounding decides at .5.
    return np.round(np.arange(train_steps, 0, -train_steps / steps)[:steps]) - 1


SPACINGS: Registry[Callable[[int, int, int, int], np.ndarray]] = Registry(
    'timestep spacing', leading=_leading, linspace=_linspace, trailing=_trailing
)


def make_timesteps(
    train_steps: int,
    steps: int,
    *,
    spacing: str = 'leading',
    steps_offset: int = 0,
    sampler: str = 'ddim',
) -> np.ndarray:
    """Makes `steps` descending timesteps out of `0 ... train_steps-1`, spaced as in diffusers.

    Lin et al. 2024, table 2. i64[steps]; f64 for `euler` with 'linspace', the one case with
    fractions. `LEAVE_OUT_CLEANEST` spread one point more and leave out the cleanest. `steps_offset`
    moves the 'leading' spacing. 'trailing' with some `steps` (61 of 1000 is the least) has one
    timestep more in diffusers, -1, by a rounding error; not here. `UserError`: no such list exists.
    """
    if not 1 <= steps <= train_steps:
        raise UserError(
            f'steps={steps} must lie between 1 and the {train_steps} timesteps of the schedule.'
        )
    spare = int(sampler in LEAVE_OUT_CLEANEST)
    timesteps = SPACINGS[spacing](train_steps, steps, spare, steps_offset)
    if not (spacing == 'linspace' and sampler == 'euler'):
        timesteps = np.round(timesteps).astype(np.int64)
    return check_timesteps(timesteps, train_steps)


# Samplers that go from anywhere to the clean image in their last call: the cleanest is no use.
LEAVE_OUT_CLEANEST = ('dpmpp_2m', 'sde', 'consistency')


def edit_timesteps(start: int, steps: int, sampler: str = 'ddim') -> np.ndarray:
    """Evenly spaced timesteps i64[steps] from start-1 down to 0, to denoise after editing.

    `LEAVE_OUT_CLEANEST` names samplers that spread one point more, up to -1, and leave it out. With
    steps = 1 the chain goes from start-1 to the clean image at once. Raises `UserError` if `steps`
    > `start`.
    """
    if not 1 <= steps <= start:
        raise UserError(
            f'cannot place {steps} distinct steps on the {start} timesteps: choose 1 to {start}.'
        )
    spare = int(sampler in LEAVE_OUT_CLEANEST)
    points = np.linspace(start - 1, -spare, steps + spare)[:steps]
    return np.floor(points + 0.5).astype(np.int64)


def window_timesteps(start: int, steps: int, window: int, kept: int) -> np.ndarray:
    """Descending timesteps i64[steps] below `start`, the last `kept` of them below `window`.

    Both parts are evenly spaced: from start-1 down to `window`, and from window-1 down to 0, with
    kept = 1 at 0 alone (but a single call in all is at start-1, where the noising ended). So the
    states that are kept of a short chain come from the same noise levels as those of a long one.
    start = steps = 150 and window = kept = 10 is every timestep (Zhou et al. 2024). Raises
    `UserError` for numbers that leave no room for distinct timesteps, or none for the start.
    """
    if not 1 <= kept <= window <= start:
        raise UserError(
            f'kept={kept}, window={window}, start={start}: choose 1 <= kept <= window <= start.'
        )
    least = int(start > window)  # the first call is where the noising ended
    if not least <= steps - kept <= start - window:
        raise UserError(
            f'steps={steps} with kept={kept} leaves {steps - kept} calls from window to start:'
            f' choose steps from {kept + least} to {kept + start - window}.'
        )
    parts = [(start - 1, window, steps - kept), (0 if kept == 1 < steps else window - 1, 0, kept)]
    return np.concatenate([np.floor(np.linspace(*part) + 0.5) for part in parts]).astype(np.int64)


def check_timesteps(timesteps: np.ndarray, train_steps: int) -> np.ndarray:
    """The timesteps as an array; `UserError` unless they descend within 0 ... train_steps-1."""
    timesteps = np.asarray(timesteps)
    if timesteps.ndim != 1 or not timesteps.size or timesteps.dtype.kind not in 'iuf':
        raise UserError(f'timesteps must be a non-empty list of numbers, got {timesteps!r}.')
    if not np.isfinite(timesteps).all() or timesteps.max() > train_steps - 1 or timesteps.min() < 0:
        raise UserError(
            f'timesteps must lie within 0 ... {train_steps - 1}, got {timesteps.max()} ...'
            f' {timesteps.min()}. Choose fewer steps or a smaller steps_offset.'
        )
    if (np.diff(timesteps) >= 0).any():
        raise UserError(f'timesteps must descend, got {timesteps.tolist()}. Choose fewer steps.')
    return timesteps
