"""Where the FLOPs of diffusion models lie: how much of a call is done at the finest level.

    python tests/tools/deep_features.py > deep_features.jsonl

DeepCache (Ma et al. 2024) takes the features of all coarser levels from the call before. What it
saves, a call in two, is half of what is not done at the finest level. Prints a line of JSON for
each network, on shapes alone.
"""

import json

import jax
import jax.numpy as jnp
from flax import nnx

from purify.commands.published_shapes import published_prior
from purify.generative.open_prior import load_variation_model
from purify.train.flops import count_flops


def finest_share(graph, weights, *shapes):
    """(FLOPs of a call, their share in the first and last block and the convolutions around)."""
    network = nnx.merge(graph, weights['params'], weights['stats'])
    kinds = {type(block) for block in (*network.down_blocks, network.mid_block, *network.up_blocks)}
    plain, counts = {kind: kind.__call__ for kind in kinds}, []

    def watch(kind):
        def call(block, x, *given):
            # a block takes from the list of skips that it is handed
            alone = [list(part) if isinstance(part, list) else part for part in given]
            traced = jax.make_jaxpr(lambda: plain[kind](block, x, *alone))()
            counts.append(count_flops(traced))
            return plain[kind](block, x, *given)

        return call

    ask = lambda weights, *args: nnx.merge(graph, weights['params'], weights['stats'])(*args)
    whole = count_flops(jax.make_jaxpr(ask)(weights, *shapes))
    for kind in kinds:
        kind.__call__ = watch(kind)
    try:
        jax.make_jaxpr(lambda *given: ask(*given))(weights, *shapes)  # traced anew
    finally:
        for kind, call in plain.items():
            kind.__call__ = call
    return whole, (whole - sum(counts[1:-1])) / whole


def main():
    """Prints a line for each network."""
    one, shape = jax.ShapeDtypeStruct((1,), jnp.int32), jax.ShapeDtypeStruct
    digits = load_variation_model('digits', weights=False)
    cifar = published_prior('pixel', dtype='float32', vae_slice=0)
    latent = published_prior('sd_variation', dtype='bfloat16', vae_slice=0)
    rows = {
        'digits, 16 px': (digits.graph, digits.weights, shape((1, 16, 16, 1), jnp.float32), one),
        'google/ddpm-cifar10-32': (
            cifar.graph, cifar.weights, shape((1, 32, 32, 3), jnp.float32), one,
        ),
        'Stable Diffusion 1, 64 px latents': (
            latent.graphs['unet'], latent.weights['unet'], shape((1, 64, 64, 4), jnp.float32), one,
            shape((1, 1, 768), jnp.float32),
        ),
    }  # fmt: skip
    for name, given in rows.items():
        whole, share = finest_share(*given)
        line = {'network': name, 'gflop': float(f'{whole / 1e9:.3g}')}
        print(json.dumps(line | {'finest_share': round(share, 3)}))


if __name__ == '__main__':
    main()
