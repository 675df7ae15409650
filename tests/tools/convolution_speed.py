"""What 3x3 convolutions and the gradients of their kernels cost on this CPU, by formulation.

    taskset -c 0 python tests/tools/convolution_speed.py > convolutions.jsonl    # some minutes

For networks' sizes: GFLOP/s (those of a plain convolution, whatever is computed) of XLA's
convolution and of pairs of rows, of XLA's gradient of the kernel and of matrix products
(`purify.core.convolution`), for some sizes inside a loop too; and the largest difference of both
from XLA's answers, which have variance 1.
"""

import datetime
import json
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from purify.core.convolution import DIMENSIONS, convolve_row_pairs, kernel_gradient

PADS = ((1, 1), (1, 1))
REPEATS, TURNS = 5, 2  # calls that are timed; of a loop, its turns, and one call
LOOPED = (24, 48)  # channels of the sizes that run inside a loop too
# batch, side in pixels, channels in and out
SIZES = [(64, 32, 16), (64, 16, 16), (64, 32, 32), (64, 16, 24), (64, 16, 48), (64, 8, 48)]
SIZES += [(16, 64, 64), (64, 32, 64), (64, 8, 64), (64, 4, 64), (64, 16, 128), (64, 8, 256)]
SIZES += [(64, 4, 512), (8, 64, 128)]

Pair = Callable[..., jax.Array]


def plain(images: jax.Array, kernel: jax.Array) -> jax.Array:
    return jax.lax.conv_general_dilated(images, kernel, (1, 1), PADS, dimension_numbers=DIMENSIONS)


def derived(images: jax.Array, kernel: jax.Array, given: jax.Array) -> jax.Array:
    return jax.vjp(partial(plain, images), kernel)[1](given)[0]


def looped(compute: Pair) -> Pair:
    """The sum of what so many turns give, none of which can be left out."""

    def run(images: jax.Array, *rest: jax.Array) -> jax.Array:
        start = jnp.zeros_like(compute(images, *rest))
        turn = lambda k, total: total + compute(images + 1e-30 * total.sum(), *rest)
        return jax.lax.fori_loop(0, TURNS, turn, start)

    return run


def rate(compute: Pair, flops: float, *args: jax.Array, repeats: int = REPEATS) -> float:
    """GFLOP/s of the fastest of some calls."""
    run = jax.jit(compute).lower(*args).compile()
    seconds = []
    for _ in range(repeats + 1):
        begun = time.perf_counter()
        jax.block_until_ready(run(*args))
        seconds.append(time.perf_counter() - begun)
    return round(flops / min(seconds[1:]) / 1e9, 1)


def measure(batch: int, side: int, channels: int) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    shape = (batch, side, side, channels)
    images, given = (jnp.asarray(rng.standard_normal(shape, np.float32)) for _ in range(2))
    kernel = rng.standard_normal((3, 3, channels, channels), np.float32) / (3 * channels**0.5)
    kernel = jnp.asarray(kernel)
    flops = 2.0 * 9 * channels**2 * images.size / channels
    pairs = partial(convolve_row_pairs, pads=PADS)
    products = partial(kernel_gradient, strides=(1, 1), pads=PADS)
    ways: dict[str, tuple[Pair, tuple[jax.Array, ...]]] = {
        'convolution': (plain, (images, kernel)),
        'row_pairs': (pairs, (images, kernel)),
        'derived_gradient': (derived, (images, kernel, given)),
        'products_gradient': (products, (images, kernel, given)),
    }
    row: dict[str, Any] = {'batch': batch, 'side': side, 'channels': channels}
    for name, (compute, args) in ways.items():
        row[name] = rate(compute, flops, *args)
    for name in ('derived_gradient', 'products_gradient') if channels in LOOPED else ():
        compute, args = ways[name]
        row[f'{name}_looped'] = rate(looped(compute), TURNS * flops, *args, repeats=1)
    row['difference'] = float(jnp.abs(plain(images, kernel) - pairs(images, kernel)).max())
    one, other = derived(images, kernel, given), products(images, kernel, given)
    row['gradient_difference'] = float(jnp.abs(one - other).max() / jnp.abs(one).max())
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    return row | {'jax': jax.__version__, 'date': today}


if __name__ == '__main__':
    for size in SIZES:
        print(json.dumps(measure(*size)), flush=True)
