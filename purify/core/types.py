"""Type aliases for parts of configs, facts in JSON and trees of arrays."""

from typing import Any

Settings = dict[str, Any]  # a part of a config: plain values, nested
Facts = dict[str, Any]  # what a JSON file holds, or is to hold
Tree = Any  # a pytree of arrays, or of their shapes: weights, states, batches
