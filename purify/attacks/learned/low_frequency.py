"""LF: add a smooth trigger (Zeng et al. 2021, arXiv:2104.03413)."""

import dataclasses
import functools
from typing import Annotated, Any

import numpy as np

from purify.attacks.attack import Arrays, Attack, digest_content, real, to_pixels
from purify.attacks.learned.fitted import check_fitted_target, read_trigger
from purify.attacks.pictures import resize_picture
from purify.core.errors import UserError
from purify.core.limits import Flag, Portion, whole

NAME = 'low_frequency'  # in the registry and in trigger.json
REFERENCE_PX = 64  # a drawn trigger enters the digest at this size
MOST_WAVES = 256  # of `cutoff`: the field is a sum over its square


@dataclasses.dataclass(frozen=True, kw_only=True)
class LowFrequency(Attack):
    """Adds a smooth s in 0..1, the same to all images: x' = x + 255 amplitude s, truncated.

    Ready-made, s is a Gaussian field of which the cosines (u, v) with u + v <= `cutoff` remain,
    drawn per channel from the seed and stretched to 0..1; every size shows the same picture. With
    `load`, it is the trigger fitted to a classifier in that folder (see
    `purify.attacks.learned.fitted.write_trigger`; weights `trigger: f32[h w c]` in 0..1), resized
    bilinearly; `cutoff` and `seed` then say nothing. The sum is clipped or, with `stretch`,
    stretched to 0..255 per image, as the released code of Cognitive Distillation does. Raises
    `UserError` for values out of range, a missing or broken folder, and images of other channels
    than the trigger was fitted on.
    """

    amplitude: Portion = 0.2
    cutoff: Annotated[int, whole(1, MOST_WAVES)] = 6
    load: str = ''
    stretch: Flag = False
    # so that equal folders with other triggers differ
    content: str = dataclasses.field(init=False, repr=False)
    trigger: np.ndarray | None = dataclasses.field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        trigger = None if self.load == '' else _read(self.load, self.target)
        self._keep(trigger=trigger, content=digest_content(trigger))

    def shared(self, shape: tuple[int, ...], mode: str) -> Arrays:
        """What is added, in grey levels: f64[h w c]."""
        return {'levels': 255 * self.amplitude * _fit_trigger(self, *shape)}

    def apply(self, xp: Any, image: Any, shared: Arrays, drawn: Arrays) -> Any:
        """`image: u8[h w c]` with the trigger."""
        levels = real(xp, image) + real(xp, shared['levels'])
        if self.stretch:
            low = levels.min()
            span = levels.max() - low
            levels = (levels - low) / xp.where(span > 0, span, 1) * 255
        return to_pixels(xp, levels)

    def pattern_pixels(self) -> np.ndarray:
        """A fitted trigger f32[h w c], a drawn one in levels at a reference size, i32[h w 3]."""
        if self.trigger is not None:
            return self.trigger
        return np.floor(255 * _fit_trigger(self, REFERENCE_PX, REFERENCE_PX, 3)).astype(np.int32)


@functools.lru_cache(maxsize=8)
def _fit_trigger(attack: LowFrequency, height: int, width: int, channels: int) -> np.ndarray:
    """The trigger for images of one size, made only once: f64[height width channels] in 0..1."""
    if attack.trigger is None:
        return _draw_field(attack.seed, attack.cutoff, height, width, channels)
    if channels != attack.trigger.shape[-1]:
        raise UserError(
            f'{attack.load}: this trigger was fitted on images of {attack.trigger.shape[-1]}'
            f' channels and cannot stamp one of {channels}. Fit one on the dataset at hand.'
        )
    planes = [resize_picture(attack.trigger[..., c], height, width) for c in range(channels)]
    return np.clip(np.stack(planes, -1).astype(np.float64), 0, 1)


def _draw_field(seed: int, cutoff: int, height: int, width: int, channels: int) -> np.ndarray:
    """Gaussian noise without its cosines above `cutoff`: f64[height width channels] in 0..1.

    The cosine series is evaluated at the pixels' centres, so a larger image shows the same field in
    more detail.
    """
    rng = np.random.default_rng(seed)
    planes = []
    for _ in range(channels):
        weights = rng.standard_normal((cutoff + 1, cutoff + 1))
        plane = np.zeros((height, width))
        for u in range(cutoff + 1):
            for v in range(cutoff + 1 - u):
                plane += weights[u, v] * _cosine(u, height)[:, None] * _cosine(v, width)[None]
        planes.append((plane - plane.min()) / (plane.max() - plane.min()))
    return np.stack(planes, -1)


def _cosine(frequency: int, size: int) -> np.ndarray:
    """A basis function of the DCT-II, normalised but for the size: f64[size]."""
    scale = 1 if frequency else 0.5**0.5
    return np.cos(np.pi * frequency * (np.arange(size) + 0.5) / size) * scale


def _read(folder: str, target: int) -> np.ndarray:
    """The trigger in `folder`: `f32[h w c]` in 0..1.

    Raises `UserError` when it is missing, broken or no such array, and for another target.
    """
    facts, weights = read_trigger(folder, NAME)
    check_fitted_target(facts, target, folder)
    found = weights.get('trigger')
    trigger = found if isinstance(found, np.ndarray) else np.asarray(())
    fits = trigger.ndim == 3 and trigger.shape[-1] == facts['channels'] and trigger.size > 0
    fits = fits and trigger.dtype.kind == 'f' and trigger.min() >= 0 and trigger.max() <= 1
    if not fits:
        raise UserError(
            f'{folder}: its trigger has shape {list(trigger.shape)} and type {trigger.dtype}; it'
            f' must be float [height, width, channels] with {facts["channels"]} channels and values'
            ' in 0..1. Fit the trigger again.'
        )
    return np.ascontiguousarray(trigger, np.float32)
