"""Which parameters are cast, and which numbers do not survive it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from purify.core.errors import UserError
from purify.models.files.dtypes import cast_parameters

PARAMS = {
    'conv': {'kernel': np.linspace(-1, 1, 24, dtype='f').reshape(2, 3, 4), 'bias': np.ones(4, 'f')},
    'layers': {
        0: {'kernel': np.ones((2, 3), 'f'), 'bias': np.ones(3, 'f')},
        1: {'embedding': np.ones((7, 4), 'f')},
    },
    'bn': {'scale': np.ones(3, 'f'), 'bias': np.zeros(3, 'f')},
    'free': np.arange(4, dtype='f'),
}


def test_norms_are_spared():
    cast = cast_parameters(PARAMS, jnp.bfloat16)
    assert {
        jax.tree_util.keystr(path): str(x.dtype)
        for path, x in jax.tree_util.tree_leaves_with_path(cast)
    } == {
        "['conv']['kernel']": 'bfloat16',
        "['conv']['bias']": 'bfloat16',
        "['layers'][0]['kernel']": 'bfloat16',
        "['layers'][0]['bias']": 'bfloat16',
        "['layers'][1]['embedding']": 'bfloat16',
        "['bn']['scale']": 'float32',
        "['bn']['bias']": 'float32',
        "['free']": 'bfloat16',
    }
    found = cast['conv']['kernel']
    np.testing.assert_array_equal(found, PARAMS['conv']['kernel'].astype(jnp.bfloat16))


def test_shapes_are_cast_and_numbers_too_large_refused():
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), PARAMS)
    cast = cast_parameters(shapes, 'float16')
    assert cast == jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), cast_parameters(PARAMS, 'float16')
    )
    large = {'fc': {'kernel': np.full((2, 2), 7e4, np.float32)}}
    with pytest.raises(UserError, match=r"dtype='float16'.*bfloat16"):
        cast_parameters(large, 'float16')
    assert cast_parameters(large, 'bfloat16')['fc']['kernel'].dtype == jnp.bfloat16
