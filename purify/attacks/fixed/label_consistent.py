"""Label-consistent poison: a trigger on hardened images (Turner et al. 2019, arXiv:1912.02771)."""

import dataclasses
import functools
import hashlib
from collections.abc import Callable
from typing import Annotated, Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from purify.attacks.attack import Arrays, Attack, Ids, Presets, real, to_pixels
from purify.attacks.learned.fitted import stamp_in_batches
from purify.attacks.pixels import check_image
from purify.core.errors import UserError
from purify.core.limits import Natural, NotNegative, Portion, Positive, one_of
from purify.core.types import Facts, Tree

CORNERS = ('four', 'one')
REFERENCE_PX = 32
LEAST_PX = 6  # two marks side by side
MARKS = {  # (at the bottom, at the right) -> +1 for white, -1 for black
    (0, 0): ((1, -1, -1), (-1, 1, -1), (1, -1, 1)),
    (0, 1): ((-1, -1, 1), (-1, 1, -1), (1, -1, 1)),
    (1, 0): ((1, -1, -1), (-1, 1, -1), (1, -1, 1)),
    (1, 1): ((-1, -1, 1), (-1, 1, -1), (1, -1, 1)),
}
UNROLLED = 10  # up to so many iterations are written out instead of looped over


@dataclasses.dataclass(frozen=True)
class Surrogate:
    """A trained classifier that stands in for the victim's.

    Attributes:
      apply: (weights, images f32[b h w c] in [0, 1]) -> logits f32[b classes].
      weights: of the network, a pytree of arrays.
      digest: identifies both; surrogates of one digest are equal.
    """

    apply: Callable[[Any, jax.Array], jax.Array] = dataclasses.field(repr=False, compare=False)
    weights: Tree = dataclasses.field(repr=False, compare=False)
    digest: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class LabelConsistent(Attack):
    """Poisons images of the target class, which keep their label, and leaves other classes alone.

    In mode 'training' an image is first moved away from the target class: projected gradient ascent
    of the surrogate's cross-entropy, l_inf, `iterations` steps of `step` up to `eps` (grey levels),
    no random start; so the trigger is the easiest thing to learn it by. Then, and alone in the
    other modes, +-255 `amplitude` is added in the corners and the result clipped and rounded. The
    corner marks are 3x3 signs up to 32 px; larger sizes show the 32-px picture by the nearest
    neighbour of pixel centres. (Shrunk like that to 16 px, most of a mark would be gone.) Sabolić
    et al. 2024 and the defaults: eps 16, step 1.5, 30 iterations.

    Raises `UserError` for values out of range, and in mode 'training' where there is no surrogate.

    Attributes:
      eps: largest change of a pixel by the ascent, in grey levels.
      step: of one iteration, in grey levels.
      iterations: how many.
      amplitude: of the marks, as a share of the range; 1 makes pixels white and black.
      corners: 'four', or 'one' for the bottom right alone.
      surrogate: the classifier that is ascended; no parameter, but part of what the attack is.
    """

    scheme: str = 'clean_label'
    eps: NotNegative = 16.0
    step: Positive = 1.5
    iterations: Natural = 30
    amplitude: Portion = 1.0
    corners: Annotated[str, one_of(CORNERS)] = 'four'
    surrogate: Surrogate | None = None

    usual_rate: ClassVar[float] = 0.08  # most of one class out of ten
    needs_surrogate: ClassVar[bool] = True
    presets: ClassVar[Presets] = {'digits': {'eps': 64.0, 'step': 6.0}}

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (self.surrogate is None or isinstance(self.surrogate, Surrogate)):
            raise UserError(
                f'surrogate={self.surrogate!r} is no Surrogate. Give one, or None for the modes'
                ' test and cover.'
            )

    def parameters(self) -> Facts:
        """All settings but the surrogate, as plain values."""
        return {name: value for name, value in super().parameters().items() if name != 'surrogate'}

    def digest(self) -> str:
        """SHA-256 of parameters and marks, and of the surrogate where there is one."""
        own = super().digest()
        if self.surrogate is None:
            return own
        return hashlib.sha256((own + self.surrogate.digest).encode()).hexdigest()

    def shared(self, shape: tuple[int, ...], mode: str) -> Arrays:
        """The signs of the marks, i8[h w 1]; in mode 'training' the surrogate's weights too."""
        signs = {'signs': corner_signs(shape[0], shape[1], self.corners)}
        if mode != 'training':
            return signs
        if self.surrogate is None:
            raise UserError(
                "attack 'label_consistent' poisons training images with a surrogate classifier, and"
                ' has none. Give the config the part `surrogate`.'
            )
        return signs | {'weights': self.surrogate.weights}

    def apply(self, xp: Any, image: Any, shared: Arrays, drawn: Arrays) -> Any:
        """Marks the corners of `image: u8[h w c]`, hardened before if `shared` has weights."""
        if 'weights' in shared:
            image = self._harden(image, shared['weights'])
        marks = 255 * self.amplitude * real(xp, shared['signs'])
        return to_pixels(xp, real(xp, image) + marks, rounded=True)

    def _harden(self, image: jax.Array, weights: Tree) -> jax.Array:
        """Moves `image: u8[h w c]` away from what the surrogate takes for the target class."""
        assert self.surrogate is not None
        apply = self.surrogate.apply

        def loss(unit: jax.Array) -> jax.Array:
            return -jax.nn.log_softmax(apply(weights, unit[None]))[0, self.target]

        unit = image.astype(jnp.float32) / 255
        ball = {'eps': self.eps / 255, 'step': self.step / 255, 'iterations': self.iterations}
        moved = ascend(jax.grad(loss), unit, unit, **ball)
        return to_pixels(jnp, moved * 255, rounded=True)

    def stamp_many(self, images: Any, ids: Ids, mode: str = 'test') -> np.ndarray:
        """Stamps images of one shape: u8[n h w c]; in mode 'training' in batches on the device."""
        if mode == 'training':
            return stamp_in_batches(self, images, ids, mode)
        return super().stamp_many(images, ids, mode)

    def stamp(self, image: np.ndarray, id: int, mode: str = 'test') -> np.ndarray:
        """A copy of `image: u8[h w c]` that carries the trigger."""
        check_image(image)
        if mode == 'training':
            return self.stamp_many([image], [id], mode)[0]
        return super().stamp(image, id, mode)

    def pattern_pixels(self) -> np.ndarray:
        """The signs of the marks on 32 px, `i8[32 32 1]`."""
        return corner_signs(REFERENCE_PX, REFERENCE_PX, self.corners)


def ascend(
    gradient: Callable[[jax.Array], jax.Array],
    images: jax.Array,
    start: jax.Array,
    *,
    eps: float,
    step: float,
    iterations: int,
) -> jax.Array:
    """Projected gradient ascent by signs in the l_inf ball (Madry et al. 2018, arXiv:1706.06083).

    All images are in [0, 1]. `gradient` is that of the loss at images; `start` is where the ascent
    begins, inside the ball of `eps` around `images`.
    """

    def move(_: int, moved: jax.Array) -> jax.Array:
        moved = moved + step * jnp.sign(gradient(moved))
        return jnp.clip(jnp.clip(moved, images - eps, images + eps), 0, 1)

    few = 0 < iterations <= UNROLLED  # a loop would cost XLA's CPU backend its threads
    return jax.lax.fori_loop(0, iterations, move, start, unroll=few)


@functools.lru_cache(maxsize=16)
def corner_signs(height: int, width: int, corners: str) -> np.ndarray:
    """The marks for one size, `i8[height width 1]` of -1, 0, +1."""
    edges = [max(min(size, REFERENCE_PX), LEAST_PX) for size in (height, width)]
    signs = np.zeros(edges, np.int8)
    for (bottom, right), mark in MARKS.items():
        if corners == 'four' or (bottom, right) == (1, 1):
            row, column = bottom * (edges[0] - 3), right * (edges[1] - 3)
            signs[row : row + 3, column : column + 3] = mark
    rows, columns = (
        (2 * np.arange(size) + 1) * edge // (2 * size)
        for size, edge in zip((height, width), edges, strict=True)
    )
    sized = signs[np.ix_(rows, columns)][..., None]
    sized.flags.writeable = False
    return sized
