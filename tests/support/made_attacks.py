"""Triggers with random weights, and a second account, in float64 NumPy, of their networks."""

import jax
import numpy as np
from flax import nnx

from purify.attacks.learned.fitted import write_trigger
from purify.attacks.learned.networks import GRID, SHEETS, SecretEncoder, TriggerUNet

WIDTH, BITS = 4, 6


def params_of(kind, *options, seed):
    """Parameters for a network, all of them random: biases and scales must count, too."""
    rng = np.random.default_rng(seed)
    state = nnx.to_pure_dict(nnx.split(nnx.eval_shape(lambda: kind(*options, rngs=nnx.Rngs(0))))[1])
    return jax.tree.map(
        lambda x: (
            rng.normal(size=x.shape).astype(np.float32) / max(np.prod(x.shape[:-1]), 1) ** 0.5
        ),
        state,
    )


def make_trigger(folder, name, channels=1, seed=0, **changes):
    """Writes a trigger of random weights -> its weights."""
    if name == 'sample_specific':
        weights = {'encoder': params_of(SecretEncoder, channels, BITS, WIDTH, seed=seed)}
    elif name == 'lira':
        weights = {'generator': params_of(TriggerUNet, channels, channels, WIDTH, seed=seed)}
    else:
        weights = {
            'mask': params_of(TriggerUNet, channels, 1, WIDTH, seed=seed),
            'pattern': params_of(TriggerUNet, channels, channels, WIDTH, seed=seed + 1),
            'donor_ids': np.arange(5) * 10,
            'donors': np.random.default_rng(seed).integers(0, 256, (5, 9, 9, channels), np.uint8),
        }
        weights['mask']['leave']['bias'][:] = 0.5  # near where a mask is half open
    facts = {'target': 0, 'channels': channels, 'size_px': 9, 'network': {'width': WIDTH}}
    facts |= {'secret_bits': BITS}
    write_trigger(folder, name, facts | changes, weights)
    return weights


def convolve(x, params, stride=1):
    """A 3x3 convolution that keeps the size, padded below and right first if there is a choice."""
    kernel = params['kernel'].astype(np.float64)
    sizes = [-(-size // stride) for size in x.shape[:2]]
    pads = [max((n - 1) * stride + 3 - size, 0) for n, size in zip(sizes, x.shape[:2], strict=True)]
    x = np.pad(x, [(pad // 2, pad - pad // 2) for pad in pads] + [(0, 0)])
    out = np.zeros((*sizes, kernel.shape[-1]))
    for i in range(3):
        for j in range(3):
            window = x[
                i : i + stride * (sizes[0] - 1) + 1 : stride,
                j : j + stride * (sizes[1] - 1) + 1 : stride,
            ]
            out += window @ kernel[i, j]
    return out + params.get('bias', 0)


def block(x, params, stride=1):
    """Convolution, group norm over as many groups as divide 8 and the channels, relu."""
    x = convolve(x, params['conv'], stride)
    groups = np.gcd(8, x.shape[-1])
    split = x.reshape(*x.shape[:2], groups, -1)
    mean, var = split.mean((0, 1, 3), keepdims=True), split.var((0, 1, 3), keepdims=True)
    normed = ((split - mean) / np.sqrt(var + 1e-6)).reshape(x.shape)
    return np.maximum(normed * params['norm']['scale'] + params['norm']['bias'], 0)


def beside(small, large):
    """Nearest-neighbour doubling, next to the larger one."""
    rows, columns = (np.arange(size) // 2 for size in large.shape[:2])
    return np.concatenate([small[np.ix_(rows, columns)], large], -1)


def unet(x, params):
    """`x: f64[h w inputs]` -> `f64[h w outputs]`."""
    full = block(x, params['enter'])
    half = block(full, params['down_half'], 2)
    quarter = block(block(half, params['down_quarter'], 2), params['middle'])
    half = block(beside(quarter, half), params['up_half'])
    return convolve(block(beside(half, full), params['up_full']), params['leave'])


def encoder(x, secret, params):
    """`x: f64[h w c]` and bits -> residual `f64[h w c]`."""
    dense = params['spread']
    sheets = np.maximum(
        (secret - 0.5) @ dense['kernel'].astype(np.float64) + dense['bias'], 0
    ).reshape(GRID, GRID, SHEETS)
    rows, columns = ((2 * np.arange(size) + 1) * GRID // (2 * size) for size in x.shape[:2])
    return unet(np.concatenate([x - 0.5, sheets[np.ix_(rows, columns)]], -1), params['net'])


def picture(shape, seed=0):
    """A random image."""
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)
