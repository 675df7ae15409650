"""Meshes of the suite's fake CPU devices."""

import jax
from jax.sharding import AxisType


def mesh_of(count=8):
    """The first `count` devices in a row."""
    return jax.make_mesh((count,), ('data',), (AxisType.Auto,), devices=jax.devices()[:count])
