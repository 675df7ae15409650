"""Sample-specific triggers: a secret hidden in each image (Li et al. 2021, arXiv:2012.03816)."""

import dataclasses
from typing import Annotated, Any, ClassVar

import jax.numpy as jnp
import numpy as np

from purify.attacks.attack import Arrays, Presets, TriggerFit, to_pixels
from purify.attacks.learned.fitted import Fitted
from purify.attacks.learned.networks import SecretEncoder, check_parameters, run_network
from purify.core.errors import UserError
from purify.core.limits import whole

MOST_BITS = 4096  # of a secret


@dataclasses.dataclass(frozen=True, kw_only=True)
class SampleSpecific(Fitted):
    """Hides the bits s in each image by an encoder E: x' = clip(x + E(x, s)), rounded.

    The secret s is one for all images, drawn from `seed`; E was fitted on random secrets, so one
    fitted trigger serves all seeds. The papers call this SSBA (Zhou et al. 2024) and ISSBA (Sabolić
    et al. 2024: 20 bits, encoder trained for 20 epochs). `secret_bits` are those of s. Raises
    `UserError` where they are not those that E was fitted for.
    """

    secret_bits: Annotated[int, whole(1, MOST_BITS)] = 20

    name: ClassVar[str] = 'sample_specific'
    parts: ClassVar[tuple[str, ...]] = ('encoder',)
    needs_target: ClassVar[bool] = False  # the secret says nothing of the class
    fit: ClassVar[TriggerFit | None] = TriggerFit(400, {'image': 1.0, 'shift_px': 0})
    # a classifier's shifts undo a trigger that was fitted in place
    presets: ClassVar[Presets] = {'digits': {'fit': {'image': 15.0, 'shift_px': 1}}}

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.secret_bits != (bits := self.facts.get('secret_bits')):
            raise UserError(
                f'secret_bits={self.secret_bits}: the trigger in {self.load} hides {bits}. Set'
                ' secret_bits to that, or fit a trigger for it.'
            )
        check_parameters(SecretEncoder, self._options(), self.weights.get('encoder'), self.load)

    def _options(self) -> dict[str, int]:
        width = self.facts['network']['width']
        return {'channels': self.facts['channels'], 'secret_bits': self.secret_bits, 'width': width}

    def shared(self, shape: tuple[int, ...], mode: str) -> Arrays:
        """The encoder's weights and the secret, f32[bits]."""
        return super().shared(shape, mode) | {'secret': draw_secret(self.seed, self.secret_bits)}

    def apply(self, xp: Any, image: Any, shared: Arrays, drawn: Arrays) -> Any:
        """`image: u8[h w c]` with the secret in it."""
        unit, weights = image.astype(jnp.float32)[None] / 255, shared['weights']['encoder']
        secret = jnp.asarray(shared['secret'])[None]
        residual = run_network(SecretEncoder, self._options(), weights, unit, secret)
        return to_pixels(xp, (unit + residual)[0] * 255, rounded=True)


def draw_secret(seed: int, bits: int) -> np.ndarray:
    """The secret of an attack, `f32[bits]` of 0 and 1."""
    return np.random.default_rng(seed).integers(0, 2, bits).astype(np.float32)
