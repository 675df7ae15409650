"""The types of floats that networks compute in and are stored in."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from purify.core.errors import UserError
from purify.core.types import Tree

DTYPES = ('float32', 'float16', 'bfloat16')


def cast_parameters(params: Tree, dtype: Any) -> Any:
    """Casts parameters of convolutions, projections and embeddings to `dtype`.

    `params` is a tree (`nnx.to_pure_dict`). Norms (groups with a `scale`) stay as they are, for
    they compute in float32. Shapes (`jax.ShapeDtypeStruct`) are cast too. Raises `UserError` for
    arrays on the host that hold numbers too large for `dtype`.
    """
    if isinstance(params, Mapping):
        if 'scale' in params:
            return params
        return {name: cast_parameters(value, dtype) for name, value in params.items()}
    if isinstance(params, jax.ShapeDtypeStruct):
        return jax.ShapeDtypeStruct(params.shape, jnp.dtype(dtype))
    try:
        with np.errstate(over='raise'):
            return params.astype(jnp.dtype(dtype))
    except FloatingPointError as error:
        raise UserError(
            f'weights are too large for dtype={str(dtype)!r}. Choose bfloat16 or float32.'
        ) from error


def check_dtype(dtype: Any) -> None:
    """Raises `UserError` unless networks can compute in `dtype` (None: float32)."""
    try:
        name = 'float32' if dtype is None else jnp.dtype(dtype).name
    except TypeError:
        name = ''
    if name not in DTYPES:
        raise UserError(
            f'dtype={dtype!r}: networks cannot compute in it. Choose from: {", ".join(DTYPES)}.'
        )
