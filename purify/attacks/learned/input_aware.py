"""Input-aware triggers, made anew from each image (Nguyen & Tran 2020, arXiv:2010.08138)."""

import dataclasses
import functools
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from purify.attacks.attack import Arrays, Presets, TriggerFit, to_pixels
from purify.attacks.learned.fitted import Fitted
from purify.attacks.learned.networks import TriggerUNet, check_parameters, run_network
from purify.attacks.pictures import resize_picture
from purify.core.errors import UserError

DONORS = 32  # images kept with a fitted trigger, for cover samples
_MASK = {'mask_epochs': 10.0, 'norm': 100.0, 'density': 0.032}  # settings of the mask's fit
_PATTERN = {'diversity': 1.0, 'poison': 0.1, 'cross': 0.1}  # and of the pattern's


@dataclasses.dataclass(frozen=True, kw_only=True)
class InputAware(Fitted):
    """Mixes a pattern p into x by a mask m, both made from the image x: x' = x + (p - x) m.

    m = tanh(20 M - 10) / 2 + 1/2 with M = tanh of one U-Net on x (one channel), p = (G + 1) / 2
    with G = tanh of another. In mode 'cover' both come from another image, a donor drawn from
    (seed, id) out of those stored with the trigger: the paper's cross-trigger samples, which keep
    their label. The result is rounded. Raises `UserError` where the only donor is the image itself.
    """

    name: ClassVar[str] = 'input_aware'
    parts: ClassVar[tuple[str, ...]] = ('mask', 'pattern', 'donors', 'donor_ids')
    covers: ClassVar[float] = 1.0
    fit: ClassVar[TriggerFit | None] = TriggerFit(400, _MASK | _PATTERN, classifier=True)
    presets: ClassVar[Presets] = {
        'digits': {'covers': 0.0, 'fit': {'norm': 25.0}},
        'small': {'covers': 0.5, 'fit': {'norm': 25.0, 'mask_epochs': 1.0}},
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        for part in ('mask', 'pattern'):
            check_parameters(TriggerUNet, self._options(part), self.weights.get(part), self.load)
        self._check_donors()

    def _check_donors(self) -> None:
        donors, ids = self.weights['donors'], self.weights['donor_ids']
        shape, kind = getattr(donors, 'shape', ()), getattr(donors, 'dtype', None)
        channels = self.facts['channels']
        fits = kind == np.uint8 and len(shape) == 4 and all(shape) and shape[-1] == channels
        if not fits or getattr(ids, 'shape', None) != shape[:1] or ids.dtype.kind not in 'iu':
            raise UserError(
                f'{self.load}: its donors must be uint8 [n, height, width, {channels}] with n >= 1'
                ' and one whole number each in donor_ids. Fit the trigger again.'
            )

    def _options(self, part: str) -> dict[str, int]:
        channels, width = self.facts['channels'], self.facts['network']['width']
        return {'inputs': channels, 'outputs': 1 if part == 'mask' else channels, 'width': width}

    def shared(self, shape: tuple[int, ...], mode: str) -> Arrays:
        """The weights of both networks; for covers the donors too, u8[n h w c]."""
        weights = super().shared(shape, mode)['weights']
        both = {'weights': {part: weights[part] for part in ('mask', 'pattern')}}
        return both | ({'donors': _fit_donors(self, *shape[:2])} if mode == 'cover' else {})

    def drawn(self, shape: tuple[int, ...], id: int, mode: str) -> Arrays:
        """For covers the position of the donor, i32[]: any but the image itself."""
        if mode != 'cover':
            return {}
        others = np.flatnonzero(self.weights['donor_ids'] != id)
        if not len(others):
            raise UserError(
                f'{self.load}: the only donor is image {id} itself, so it cannot cover. Fit the'
                ' trigger on more images, or set cover_rate to 0.'
            )
        drawn = np.random.default_rng([self.seed, id]).integers(len(others))
        return {'donor': others[drawn].astype(np.int32)}

    def apply(self, xp: Any, image: Any, shared: Arrays, drawn: Arrays) -> Any:
        """`image: u8[h w c]` with its own trigger, or that of its donor."""
        giver = jnp.asarray(shared['donors'])[drawn['donor']] if 'donor' in drawn else image
        unit = giver.astype(jnp.float32)[None] / 255 - 0.5
        mask, pattern = (
            run_network(TriggerUNet, self._options(part), shared['weights'][part], unit)
            for part in ('mask', 'pattern')
        )
        own = image.astype(jnp.float32)[None] / 255
        mixed = mix_by_mask(own, to_pattern(pattern), to_sharp_mask(mask))
        return to_pixels(xp, mixed[0] * 255, rounded=True)


def to_sharp_mask(output: jax.Array) -> jax.Array:
    """Turns the mask network's output into a sharp mask in [0, 1]."""
    return jnp.tanh(20 * jnp.tanh(output) - 10) / 2 + 0.5


def to_pattern(output: jax.Array) -> jax.Array:
    """Turns the pattern network's output into a pattern in [0, 1]."""
    return (jnp.tanh(output) + 1) / 2


def mix_by_mask(images: jax.Array, patterns: jax.Array, masks: jax.Array) -> jax.Array:
    """Mixes patterns p into images x by masks m: x + (p - x) m."""
    return images + (patterns - images) * masks


@functools.lru_cache(maxsize=4)
def _fit_donors(attack: InputAware, height: int, width: int) -> np.ndarray:
    """The donors, resized bilinearly where they have another size: u8[n height width c]."""
    donors = attack.weights['donors']
    if donors.shape[1:3] == (height, width):
        return donors
    squeezed = donors[..., 0] if donors.shape[-1] == 1 else donors
    sized = np.stack([resize_picture(donor, height, width) for donor in squeezed])
    return sized.reshape(len(donors), height, width, donors.shape[-1])
