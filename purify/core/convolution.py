"""Convolutions of images that are fast on CPUs too, forwards and backwards.

On a CPU, XLA computes a 3x3 convolution by nine products for each pixel and channel, and the
gradient of its kernel by transposing the whole batch (inside a loop, a hundred times slower still).
Programs for a CPU take two other ways here, both on a few images at a time, which stay in a core's
cache: Winograd's F(2, 3) on pairs of rows, with six products instead of nine (Lavin & Gray 2016,
arXiv:1509.09308, section 4.1), and gradients of kernels as matrix products of shifted views. Half
precision is convolved in float32 there, and rounded. What a program is for decides, not where it is
compiled. Measured: docs/results/speed.
"""

import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

HALVES = (jnp.dtype('bfloat16'), jnp.dtype('float16'))
DIMENSIONS = ('NHWC', 'HWIO', 'NHWC')
PIECE_BYTES = 2**20  # of the images that are worked on at a time
# Of channels in times channels out; with fewer, transforming rows costs more than it saves
# (docs/results/speed).
LEAST_CHANNELS = 48 * 48
# G of F(2, 3): three taps of a column of the kernel, as four.
TAPS = np.array([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]], np.float32)

Pair = tuple[int, int]
Pads = tuple[Pair, Pair]  # zeros before and after: of rows, of columns
Options = tuple[tuple[str, Any], ...]  # of jax.lax.conv_general_dilated, for both directions


def convolve(
    images: jax.Array, kernel: jax.Array, strides: Sequence[int], padding: Any, **options: Any
) -> jax.Array:
    """Convolves images [b h w c] with a kernel [kh kw c d], differentiable in reverse mode alone.

    Takes the arguments of `jax.lax.conv_general_dilated`, in whose place flax's layers call it, and
    gives what that gives, up to rounding. Dilated and grouped convolutions are left to it.
    """
    dilations = {name: options.pop(name, None) for name in ('lhs_dilation', 'rhs_dilation')}
    dilated = any(value and max(value) > 1 for value in dilations.values())
    numbers = options.pop('dimension_numbers', DIMENSIONS)
    if images.ndim != 4 or dilated or options.get('feature_group_count', 1) != 1:
        options |= dilations | {'dimension_numbers': numbers}
        return jax.lax.conv_general_dilated(images, kernel, strides, padding, **options)
    if isinstance(padding, str):
        sizes = images.shape[1:3], kernel.shape[:2]
        padding = jax.lax.padtype_to_pads(*sizes, strides, padding)
    (top, bottom), (left, right) = padding
    pads = (int(top), int(bottom)), (int(left), int(right))
    if min(images.shape[1:3]) < max(kernel.shape[:2]):
        # XLA would slide the images over the kernel, by a plain loop on a CPU.
        images, pads = _pad(images, rows=pads[0], columns=pads[1]), ((0, 0), (0, 0))
    given = tuple((name, value) for name, value in options.items() if value is not None)
    down, right = strides
    how = (down, right), pads, given
    if images.dtype not in HALVES:
        return _convolve(images, kernel, *how)
    single = lambda images, kernel: _convolve_in_float32(images, kernel, *how)
    half = lambda images, kernel: _convolve(images, kernel, *how)
    return jax.lax.platform_dependent(images, kernel, cpu=single, default=half)


def _plain(
    images: jax.Array, kernel: jax.Array, strides: Pair, pads: Pads, options: Options
) -> jax.Array:
    return jax.lax.conv_general_dilated(
        images, kernel, strides, pads, dimension_numbers=DIMENSIONS, **dict(options)
    )


def _convolve_in_float32(
    images: jax.Array, kernel: jax.Array, strides: Pair, pads: Pads, options: Options
) -> jax.Array:
    """Convolves half precision in float32, and rounds: CPUs have no faster way."""
    dtype: Any = dict(options).get('preferred_element_type') or images.dtype
    rest = tuple((name, value) for name, value in options if name != 'preferred_element_type')
    images, kernel = images.astype(jnp.float32), kernel.astype(jnp.float32)
    made: jax.Array = _convolve(images, kernel, strides, pads, rest)
    return made.astype(dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def _convolve(
    images: jax.Array, kernel: jax.Array, strides: Pair, pads: Pads, options: Options
) -> jax.Array:
    plain = functools.partial(_plain, strides=strides, pads=pads, options=options)
    if not _pairs_rows(images, kernel, strides):
        return plain(images, kernel)
    paired = functools.partial(convolve_row_pairs, pads=pads)
    return jax.lax.platform_dependent(images, kernel, cpu=paired, default=plain)


def _keep(images: jax.Array, kernel: jax.Array, *how: Any) -> tuple[jax.Array, Any]:
    return _convolve(images, kernel, *how), (images, kernel)


def _gradients(
    strides: Pair, pads: Pads, options: Options, kept: Any, given: jax.Array
) -> tuple[jax.Array, jax.Array]:
    images, kernel = kept
    back = [
        (size - 1 - low, size - 1 - high)
        for size, (low, high) in zip(kernel.shape[:2], pads, strict=True)
    ]
    if strides == (1, 1) and min(map(min, back)) >= 0:
        turned = kernel[::-1, ::-1].swapaxes(2, 3)
        of_images: Any = _convolve(given, turned, strides, (back[0], back[1]), options)
    else:
        of = lambda images: _plain(images, kernel, strides, pads, options)
        of_images = jax.linear_transpose(of, images)(given)[0]

    def derived(images: jax.Array, kernel: jax.Array, given: jax.Array) -> jax.Array:
        of = lambda kernel: _plain(images, kernel, strides, pads, options)
        return jax.linear_transpose(of, kernel)(given)[0]

    products = functools.partial(kernel_gradient, strides=strides, pads=pads)
    choose = jax.lax.platform_dependent
    return of_images, choose(images, kernel, given, cpu=products, default=derived)


_convolve.defvjp(_keep, _gradients)


def _pairs_rows(images: jax.Array, kernel: jax.Array, strides: Pair) -> bool:
    """Whether a convolution is of the kind, and wide enough, to be made from pairs of rows."""
    high, _, inputs, outputs = kernel.shape
    single = images.dtype == kernel.dtype == jnp.float32
    return single and high == 3 and strides == (1, 1) and inputs * outputs >= LEAST_CHANNELS


@functools.partial(jax.jit, static_argnames='pads')
def convolve_row_pairs(images: jax.Array, kernel: jax.Array, *, pads: Pads) -> jax.Array:
    """Convolves images f32[b h w c] with a kernel f32[3 kw c d], stride 1, by F(2, 3)."""
    taps = jnp.einsum('ai,ijcd->ajcd', TAPS, kernel, precision='highest')
    count = images.shape[1] + sum(pads[0]) - 2  # of rows that come out

    def make(images: jax.Array) -> jax.Array:
        products = [
            _plain(rows, taps[k : k + 1], (1, 1), ((0, 0), pads[1]), ())
            for k, rows in enumerate(_row_sets(images, pads[0]))
        ]
        first, second, third, last = products
        pairs = jnp.stack([first + second + third, second - third - last], 2)
        return pairs.reshape(len(pairs), -1, *pairs.shape[3:])[:, :count]

    split = _split(images, _pieces(images))
    if split.shape[1] == 1:
        return make(images)
    shape = (*split.shape[:2], *jax.eval_shape(make, split[:, 0]).shape[1:])

    def put(j: jax.Array, made: jax.Array) -> jax.Array:
        return jax.lax.dynamic_update_index_in_dim(made, make(_piece(split, j)), j, 1)

    start: Any = jnp.zeros(shape, jnp.float32)
    return jax.lax.fori_loop(0, split.shape[1], put, start).reshape(-1, *shape[2:])


@functools.partial(jax.jit, static_argnames=('strides', 'pads'))
def kernel_gradient(
    images: jax.Array, kernel: jax.Array, given: jax.Array, *, strides: Pair, pads: Pads
) -> jax.Array:
    """Computes the gradient [kh kw c d] of a convolution's kernel as a sum of matrix products.

    Args:
      images: [b h w c], what was convolved.
      kernel: [kh kw c d], of which only shape and dtype count.
      given: [b h' w' d], the gradient of the convolution's result.
      strides: of rows and columns.
      pads: zeros that were put around the images.
    """
    paired, pieces = _pairs_rows(images, kernel, strides), _pieces(images)
    of_piece = functools.partial(
        _piece_gradient, window=kernel.shape[:2], strides=strides, pads=pads, paired=paired
    )
    split, theirs = _split(images, pieces), _split(given, pieces)
    add = lambda j, total: total + of_piece(_piece(split, j), _piece(theirs, j))
    total: Any = jnp.zeros((4 if paired else kernel.shape[0], *kernel.shape[1:]), jnp.float32)
    total = jax.lax.fori_loop(0, pieces, add, total) if pieces > 1 else of_piece(images, given)
    if paired:
        total = jnp.einsum('ai,ajcd->ijcd', TAPS, total, precision='highest')
    return total.astype(kernel.dtype)


def _piece_gradient(
    images: jax.Array,
    given: jax.Array,
    *,
    window: tuple[int, ...],
    strides: Pair,
    pads: Pads,
    paired: bool,
) -> jax.Array:
    """The sums f32[kh kw c d] over some images; `paired`: [4 kw c d], of the transformed taps."""
    (high, wide), (down, right), (rows, columns) = window, strides, given.shape[1:3]
    inputs, outputs = images.shape[-1], given.shape[-1]
    spans = [slice(i, i + down * (rows - 1) + 1, down) for i in range(high)]
    if right > 1:
        padded, reach = _pad(images, rows=pads[0], columns=pads[1]), right * (columns - 1) + 1
        views = [padded[:, span, j : j + reach : right] for span in spans for j in range(wide)]
        sums = jnp.stack([_product(view, given) for view in views])
        return sums.reshape(high, wide, inputs, outputs)
    # Moving `given` to the right is moving the images to the left: with one view for each row of
    # taps and one for each column, none is copied for each tap.
    shifts = [(j - pads[1][0], images.shape[2] - columns - j + pads[1][0]) for j in range(wide)]
    moved = jnp.concatenate([_pad(given, columns=shift) for shift in shifts], -1)
    if paired:
        moved = _pad(moved, rows=(0, rows % 2))
        even, odd = moved[:, ::2], moved[:, 1::2]
        pairs = zip(_row_sets(images, pads[0]), (even, even + odd, even - odd, -odd), strict=True)
    else:
        padded = _pad(images, rows=pads[0])
        pairs = ((padded[:, span], moved) for span in spans)
    sums = jnp.stack([_product(view, theirs) for view, theirs in pairs])
    return sums.reshape(-1, inputs, wide, outputs).swapaxes(1, 2)


def _row_sets(images: jax.Array, pads: Pair) -> tuple[jax.Array, ...]:
    """B^T of F(2, 3): four sets of rows [b n w c] from which n pairs of rows are made."""
    odd = (images.shape[1] + sum(pads)) % 2
    padded = _pad(images, rows=(pads[0], pads[1] + odd))
    end = padded.shape[1] - 3
    first, second, third, last = (padded[:, i : i + end : 2] for i in range(4))
    return first - third, second + third, third - second, second - last


def _product(x: jax.Array, y: jax.Array) -> jax.Array:
    """Sums x y^T over all pixels: f32[c d], of x [b h w c] and y [b h w d]."""
    x, y = (values.reshape(-1, values.shape[-1]) for values in (x, y))
    first = ((0,), (0,)), ((), ())
    return jax.lax.dot_general(x, y, first, preferred_element_type=jnp.float32)


def _pad(x: jax.Array, *, rows: Pair = (0, 0), columns: Pair = (0, 0)) -> jax.Array:
    """Puts zeros around x [b h w c], or cuts off where a number is negative."""
    zero, still = jnp.zeros((), x.dtype), (0, 0, 0)
    return jax.lax.pad(x, zero, (still, (*rows, 0), (*columns, 0), still))


def _pieces(images: jax.Array) -> int:
    """In how many equal pieces a batch is worked on: two or more that fit `PIECE_BYTES`, if any.

    Two even where one would fit: what a loop reads is made once, where XLA's fusion would make the
    images anew for each of their shifted views. Where rows are spread over devices, so are those
    of a piece.
    """
    spread = 1 if jax.sharding.get_abstract_mesh().manual_axes else jax.device_count()
    count, most = len(images), spread * PIECE_BYTES
    fits = [rows for rows in range(1, count) if count % rows == 0 and rows % spread == 0]
    small = [rows for rows in fits if rows * math.prod(images.shape[1:]) * 4 <= most]
    return count // max(small or fits[:1] or [count])


def _split(x: jax.Array, pieces: int) -> jax.Array:
    """Piece j, x[:, j], has rows j, j + pieces, ...: those of a device stay where they are."""
    return x.reshape(-1, pieces, *x.shape[1:])


def _piece(split: jax.Array, j: jax.Array) -> jax.Array:
    return jax.lax.dynamic_index_in_dim(split, j, 1, keepdims=False)
