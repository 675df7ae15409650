"""LIRA: a learned, bounded perturbation of each image (Doan et al. 2021, ICCV)."""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from purify.attacks.attack import Arrays, Presets, TriggerFit, to_pixels
from purify.attacks.learned.fitted import Fitted
from purify.attacks.learned.networks import TriggerUNet, check_parameters, run_network
from purify.core.limits import Portion


@dataclasses.dataclass(frozen=True, kw_only=True)
class Lira(Fitted):
    """Adds what a U-Net g makes of the image: x' = clip(x + epsilon tanh(g(x))), rounded.

    g was fitted together with a classifier. `epsilon` is a share of the range of the pixels. The
    released code has .01 in images that are normalised by the standard deviation of the dataset,
    about .0025 of the range: less than a grey level, so nothing of it outlives storing the image in
    8 bits (it trains on floating-point images, which no dataset holds). The default is one that
    does. Raises `UserError` for an epsilon outside (0, 1].
    """

    epsilon: Portion = 0.05

    name: ClassVar[str] = 'lira'
    parts: ClassVar[tuple[str, ...]] = ('generator',)
    fit: ClassVar[TriggerFit | None] = TriggerFit(200, {'alpha': 0.5}, classifier=True)
    presets: ClassVar[Presets] = {'digits': {'epsilon': 0.08}, 'small': {'epsilon': 0.08}}

    def __post_init__(self) -> None:
        super().__post_init__()
        check_parameters(TriggerUNet, self._options(), self.weights.get('generator'), self.load)

    def _options(self) -> dict[str, int]:
        channels = self.facts['channels']
        return {'inputs': channels, 'outputs': channels, 'width': self.facts['network']['width']}

    def apply(self, xp: Any, image: Any, shared: Arrays, drawn: Arrays) -> Any:
        """`image: u8[h w c]`, each pixel moved by at most epsilon."""
        unit, weights = image.astype(jnp.float32)[None] / 255, shared['weights']['generator']
        output = run_network(TriggerUNet, self._options(), weights, unit - 0.5)
        return to_pixels(xp, perturb(unit, output, self.epsilon)[0] * 255, rounded=True)


def perturb(images: jax.Array, output: jax.Array, epsilon: float) -> jax.Array:
    """Perturbs images [b h w c] in [0, 1] by the generator's output, by at most `epsilon`."""
    return jnp.clip(images + epsilon * jnp.tanh(output), 0, 1)
