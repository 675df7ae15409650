"""Attention over tokens, by the fastest kernel that takes the shapes."""

import functools
from typing import Any, Literal

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
    # One key (an image embedding as context) gets all the weight: no queries, no scores.
    if k.shape[1] == 1:
        return jnp.broadcast_to(v, q.shape).astype(q.dtype)
    backend, dtype = jax.default_backend(), q.dtype
    if backend == 'cpu' and dtype == jnp.float16:
        q, k, v = (x.astype(jnp.float32) for x in (q, k, v))
    kernel = choose_kernel(q.shape, k.shape, q.dtype, causal, backend)
    out = jax.nn.dot_product_attention(q, k, v, is_causal=causal, implementation=kernel)
    return out.astype(dtype)


@functools.cache
def choose_kernel(
    q: tuple[int, ...], kv: tuple[int, ...], dtype: jnp.dtype, causal: bool, backend: str
) -> Literal['cudnn', 'xla']:
    """Chooses 'cudnn' where its kernel takes these shapes, else 'xla'."""
    if backend != 'gpu' or dtype not in _HALVES:
        return 'xla'
    shapes = [jax.ShapeDtypeStruct(shape, dtype) for shape in (q, kv, kv)]
    options: dict[str, Any] = {'is_causal': causal, 'implementation': 'cudnn'}
    try:
        jax.eval_shape(functools.partial(jax.nn.dot_product_attention, **options), *shapes)
    # how it refuses head sizes, a missing cuDNN, other makers' GPUs
    except (NotImplementedError, RuntimeError, ValueError):
        return 'xla'
    # older GPUs are refused only when the program is compiled
    return 'cudnn' if _compute_capability() >= (8, 0) else 'xla'


def _compute_capability() -> tuple[int, ...]:
    """(major, minor) of this process's NVIDIA GPUs; () of other makers' ('gfx90a')."""
    try:
        return tuple(int(part) for part in jax.local_devices()[0].compute_capability.split('.'))
    except (AttributeError, ValueError):
        return ()
