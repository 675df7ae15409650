"""Normalising flows: bijections that turn densities into Gaussians (Dinh 2017, Durkan 2019)."""

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import jax
import jax.numpy as jnp
from flax import nnx

from purify.core.errors import UserError
from purify.core.registry import Registry

# Features have unit variance; one that hardly varies in a class would else be scaled without end.
LOG_SCALE = 2.0
BINS, TAIL = 8, 5.0  # of a spline; features have unit variance, so few lie beyond the tail
# Of a spline: width and height of a bin as shares of all, derivative at a knot.
LEAST_BIN, LEAST_SLOPE = 1e-3, 1e-3
MIXINGS = ('swap', 'permute')


class Transform(Protocol):
    """A bijection of single numbers; it is the identity where all its parameters are zero."""

    numbers: ClassVar[int]  # parameters of one bijection

    def forward(self, z: jax.Array, raw: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Maps z f32[...] by raw f32[... numbers] to (u f32[...], ln |du/dz| f32[...])."""
        ...


@dataclass(frozen=True)
class AffineMap(Transform):
    """Scales and shifts: u = exp(s) z + t, s within +-2 by a tanh (Dinh et al. 2017, eq. 8)."""

    numbers: ClassVar[int] = 2

    def forward(self, z: jax.Array, raw: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Maps z by raw, as `Transform` says."""
        scale = LOG_SCALE * jnp.tanh(raw[..., 0] / LOG_SCALE)
        return z * jnp.exp(scale) + raw[..., 1], scale


@dataclass(frozen=True)
class Spline(Transform):
    """Monotone rational-quadratic splines of 8 bins on [-5, 5], the identity outside.

    Durkan et al. 2019, eqs. 4 to 8, 29.
    """

    numbers: ClassVar[int] = 3 * BINS - 1

    def forward(self, z: jax.Array, raw: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Maps z by raw, as `Transform` says."""
        inside = jnp.abs(z) < TAIL
        held = jnp.where(inside, z, 0.0)  # what lies outside must not make the derivatives infinite
        x, y, slopes = _knots(raw)
        left, low, width, height, first, last = _bin(held, x, y, slopes)
        share, slope = (held - left) / width, height / width
        both = share * (1 - share)
        below = slope + (first + last - 2 * slope) * both
        u = low + height * (slope * share**2 + first * both) / below
        above = last * share**2 + 2 * slope * both + first * (1 - share) ** 2
        log_slope = 2 * jnp.log(slope) + jnp.log(above) - 2 * jnp.log(below)
        return jnp.where(inside, u, z), jnp.where(inside, log_slope, 0.0)


def _knots(raw: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Knots' x, y and slopes f32[... K+1], from parameters f32[... 3K-1]; end slopes are 1."""
    widths, heights, inner = jnp.split(raw, [BINS, 2 * BINS], -1)
    ends = [(0, 0)] * (raw.ndim - 1)

    def corners(sizes: jax.Array) -> jax.Array:
        shares = LEAST_BIN + (1 - LEAST_BIN * BINS) * jax.nn.softmax(sizes, -1)
        inside = 2 * TAIL * jnp.cumsum(shares[..., :-1], -1) - TAIL
        end = jnp.full_like(inside[..., :1], TAIL)
        return jnp.concatenate([-end, inside, end], -1)

    slopes = LEAST_SLOPE + jax.nn.softplus(inner + math.log(math.expm1(1 - LEAST_SLOPE)))
    return corners(widths), corners(heights), jnp.pad(slopes, [*ends, (1, 1)], constant_values=1.0)


def _bin(value: jax.Array, x: jax.Array, y: jax.Array, slopes: jax.Array) -> tuple[jax.Array, ...]:
    """Finds the bin of each value among knots [... K+1]: left, low, width, height, two slopes."""
    place = (value[..., None] >= x[..., 1:-1]).sum(-1, keepdims=True)
    at = lambda knots, shift: jnp.take_along_axis(knots, place + shift, -1)[..., 0]
    left, low = at(x, 0), at(y, 0)
    return left, low, at(x, 1) - left, at(y, 1) - low, at(slopes, 0), at(slopes, 1)


TRANSFORMS: Registry[type[Transform]] = Registry('flow transform', affine=AffineMap, spline=Spline)


class Coupling(nnx.Module):
    """Changes some numbers of a vector by a `Transform` that a small MLP sets from the others."""

    def __init__(
        self, given: int, changed: int, hidden: int, transform: Transform, *, rngs: nnx.Rngs
    ):
        self.transform = transform
        # Zero weights at the end begin with the identity. Densities are compared to fractions of a
        # nat: no bf16, no TF32.
        zeros, exact = nnx.initializers.zeros_init(), jax.lax.Precision.HIGHEST
        self.hidden = nnx.Linear(given, hidden, precision=exact, rngs=rngs)
        outputs = changed * transform.numbers
        self.out = nnx.Linear(hidden, outputs, kernel_init=zeros, precision=exact, rngs=rngs)

    def forward(self, given: jax.Array, changed: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Changes f32[b k], given f32[b m]: (changed f32[b k], log determinant f32[b])."""
        raw = self.out(jax.nn.relu(self.hidden(given)))
        raw = raw.reshape(*changed.shape, self.transform.numbers)
        changed, log_slopes = self.transform.forward(changed, raw)
        return changed, log_slopes.sum(-1)


class CouplingFlow(nnx.Module):
    """A flow of couplings, in which the two halves of a vector take turns at being changed.

    Every coupling changes one half by what the other says, the second half first; of an odd width
    the second half is the longer one. A fresh flow is the identity (up to order).

    Args:
      width: of the vectors, 2 or more.
      couplings: how many, 2 or more: one alone leaves half of the numbers as they are.
      hidden: units between the two affine maps of each; 0: as many as features.
      transform: 'affine' or 'spline', of each changed number.
      mixing: 'swap': always the same halves; 'permute': a random order, fixed from the start,
        before every two couplings.
      rngs: stream `params`.

    Raises `UserError` for other values.
    """

    def __init__(
        self,
        width: int,
        couplings: int = 2,
        hidden: int = 0,
        transform: str = 'affine',
        mixing: str = 'swap',
        *,
        rngs: nnx.Rngs,
    ):
        if width < 2:
            raise UserError(
                f'a coupling flow of {width} dimensions has no halves; give it features of 2 or'
                ' more.'
            )
        if couplings < 2 or hidden < 0:
            raise UserError(
                f'flows.couplings={couplings} must be 2 or more, so that both halves change, and'
                f' flows.hidden={hidden} 0 or more.'
            )
        if mixing not in MIXINGS:
            raise UserError(f'flows.mixing={mixing!r}: choose from {", ".join(MIXINGS)}.')
        self.width, self.half = width, width // 2
        made, sizes = TRANSFORMS.make(transform), (self.half, width - self.half)
        self.couplings = nnx.List(
            Coupling(sizes[k % 2], sizes[1 - k % 2], hidden or width, made, rngs=rngs)
            for k in range(couplings)
        )
        pairs = (couplings + 1) // 2 if mixing == 'permute' else 0
        orders = (jax.random.permutation(rngs.params(), width) for _ in range(pairs))
        self.orders = nnx.List(map(nnx.Variable, orders))

    def __call__(self, z: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Maps f32[b width] to (u f32[b width], ln |det du/dz| f32[b])."""
        total: Any = jnp.zeros(z.shape[:-1])
        for k, coupling in enumerate(self.couplings):
            if self.orders and k % 2 == 0:
                z = z[..., self.orders[k // 2][...]]
            halves = [z[..., : self.half], z[..., self.half :]]
            halves[1 - k % 2], log_det = coupling.forward(halves[k % 2], halves[1 - k % 2])
            z, total = jnp.concatenate(halves, -1), total + log_det
        return z, total

    def log_density(self, z: jax.Array) -> jax.Array:
        """The log density f32[b], in nats, of vectors z f32[b width]."""
        u, log_det = self(z)
        return log_det - 0.5 * (jnp.square(u).sum(-1) + self.width * math.log(2 * math.pi))
