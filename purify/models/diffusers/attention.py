"""Attention over tokens, by the fastest kernel that takes the shapes."""

import functools
from typing import Any

import jax
import jax.numpy as jnp

_HALVES = (jnp.dtype('bfloat16'), jnp.dtype('float16'))


def attend(q: jax.Array, k: jax.Array, v: jax.Array, *, causal: bool = False) -> jax.Array:
    """Scaled dot-product attention (Vaswani et al. 2017) of q [b t n d] to k and v [b s n d].

    The answer is [b t n d] in q's dtype. `causal` lets token t see keys 0 to t only. The softmax is
    float32. Programs for NVIDIA's GPUs take cuDNN's flash attention for bfloat16 and float16 where
    it accepts the shapes, all else XLA's, whatever machine they are compiled on (but where that has
    an NVIDIA GPU older than Ampere, no program takes it). CPUs have no float16 kernel: there
    float16 is computed in float32.
    """
    # One key (an image embedding as context) gets all the weight: no queries, no scores.
    if k.shape[1] == 1:
        return jnp.broadcast_to(v, q.shape).astype(q.dtype)
    if q.dtype not in _HALVES:
        return _attend_by_xla(q, k, v, causal=causal)
    options = {'is_causal': causal, 'implementation': 'cudnn'}
    ways: dict[str, Any] = {'default': functools.partial(_attend_by_xla, causal=causal)}
    if takes_flash(q.shape, k.shape, q.dtype, causal):
        ways['cuda'] = functools.partial(jax.nn.dot_product_attention, **options)
    if q.dtype == jnp.float16:
        ways['cpu'] = functools.partial(_attend_in_float32, causal=causal)
    return jax.lax.platform_dependent(q, k, v, **ways)


@jax.named_scope('attention_by_xla')  # a name to find it by in compiled programs
def _attend_by_xla(q: jax.Array, k: jax.Array, v: jax.Array, *, causal: bool) -> jax.Array:
    return jax.nn.dot_product_attention(q, k, v, is_causal=causal, implementation='xla')


def _attend_in_float32(q: jax.Array, k: jax.Array, v: jax.Array, *, causal: bool) -> jax.Array:
    single = (x.astype(jnp.float32) for x in (q, k, v))
    return _attend_by_xla(*single, causal=causal).astype(q.dtype)


@functools.cache
def takes_flash(q: tuple[int, ...], kv: tuple[int, ...], dtype: jnp.dtype, causal: bool) -> bool:
    """Whether cuDNN's kernel takes these shapes in a program for an NVIDIA GPU."""
    shapes = [jax.ShapeDtypeStruct(shape, dtype) for shape in (q, kv, kv)]
    options: dict[str, Any] = {'is_causal': causal, 'implementation': 'cudnn'}
    try:
        jax.eval_shape(functools.partial(jax.nn.dot_product_attention, **options), *shapes)
    # how it refuses head sizes, a missing cuDNN, other makers' GPUs
    except (NotImplementedError, RuntimeError, ValueError):
        return False
    # older GPUs are refused only when the program is compiled
    return _compute_capability() >= (8, 0)


def _compute_capability() -> tuple[float, ...]:
    """(major, minor) of this process's NVIDIA GPUs; () of other makers' ('gfx90a').

    Without a GPU, that of any: what is compiled here for one that is not here is for a new one.
    """
    device = jax.local_devices()[0]
    if device.platform == 'cpu':
        return (float('inf'),)
    try:
        return tuple(float(part) for part in device.compute_capability.split('.'))
    except (AttributeError, ValueError):
        return ()
