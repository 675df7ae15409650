"""Attention over tokens, by the fastest kernel that takes the shapes."""

import functools
from typing import Literal

import jax
import jax.numpy as jnp

_HALVES = (jnp.dtype('bfloat16'), jnp.dtype('float16'))


def attend(q: jax.Array, k: jax.Array, v: jax.Array, *, causal: bool = False) -> jax.Array:
    """Scaled dot-product attention (Vaswani et al. 2017) of q [b t n d] to k and v [b s n d].

    The answer is [b t n d] in q's dtype. `causal` lets token t see keys 0 to t only. The softmax is
    float32. GPUs take cuDNN's flash attention for bfloat16 and float16 where it accepts the shapes,
    all else XLA's; the choice follows `jax.default_backend()`. CPUs have no float16 kernel: there
    float16 is computed in float32.
    """
    if (
        k.shape[1] == 1
    ):  # one key gets all the weight (an image embedding as context): queries and scores need no computing
        return jnp.broadcast_to(v, q.shape).astype(q.dtype)
    backend, dtype = jax.default_backend(), q.dtype
    if backend == 'cpu' and dtype == jnp.float16:
        q, k, v = (x.astype(jnp.float32) for x in (q, k, v))
    implementation = _implementation(q.shape, k.shape, q.dtype, causal, backend)
    return jax.nn.dot_product_attention(
        q, k, v, is_causal=causal, implementation=implementation
    ).astype(dtype)


@functools.cache
def _implementation(
    q: tuple[int, ...], kv: tuple[int, ...], dtype: jnp.dtype, causal: bool, backend: str
) -> Literal['cudnn', 'xla']:
    """'cudnn' where its kernel takes these shapes, else 'xla'."""
    if backend != 'gpu' or dtype not in _HALVES:
        return 'xla'
    shapes = [jax.ShapeDtypeStruct(shape, dtype) for shape in (q, kv, kv)]
    try:
        jax.eval_shape(
            functools.partial(
                jax.nn.dot_product_attention, is_causal=causal, implementation='cudnn'
            ),
            *shapes,
        )
    except (
        NotImplementedError,
        RuntimeError,
        ValueError,
    ):  # how it refuses head sizes, a missing cuDNN, other makers' GPUs
        return 'xla'
    return (
        'cudnn' if _compute_capability() >= (8, 0) else 'xla'
    )  # older GPUs are refused only when the program is compiled


def _compute_capability() -> tuple[int, ...]:
    """(major, minor) of this process's NVIDIA GPUs; () of other makers' ('gfx90a')."""
    try:
        return tuple(int(part) for part in jax.local_devices()[0].compute_capability.split('.'))
    except (AttributeError, ValueError):
        return ()
