"""A classifier as an object: built from settings, applied to images, checked against a dataset."""

import hashlib
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from flax import nnx

from purify.core.errors import UserError
from purify.core.types import Facts, Settings, Tree
from purify.models.classifiers.registry import NETWORKS
from purify.train.state import Build


@dataclass(frozen=True, eq=False)
class Classifier:
    """A finished classifier: its structure, weights {'params', 'stats'} (NumPy), network.json."""

    graph: nnx.GraphDef
    weights: Tree
    facts: Facts

    def network(self, weights: Tree) -> Any:
        """The network as a module that holds these weights."""
        return nnx.merge(self.graph, weights['params'], weights['stats'])

    def predict(self, weights: Tree, rows: dict[str, jax.Array]) -> jax.Array:
        """Predicts the classes i32[b] of rows with 'image' u8[b h w c]."""
        return self.logits(weights, rows['image'].astype(np.float32) / 255).argmax(-1)

    def logits(self, weights: Tree, images: jax.Array) -> jax.Array:
        """Computes the logits f32[b k] of images f32[b h w c] in [0, 1]."""
        return self.network(weights)(images, train=False)

    def answer(self, weights: Tree, images: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Computes logits f32[b k] and features f32[b d] of images f32[b h w c] in [0, 1]."""
        network = self.network(weights)
        features = network.features(images, train=False)
        return network.head(features), features

    def embed(self, weights: Tree, images: jax.Array) -> jax.Array:
        """Computes the features f32[b d] that the head reads of images f32[b h w c] in [0, 1]."""
        return self.network(weights).features(images, train=False).astype(np.float32)

    def describe(self) -> str:
        """The kind of its network and how many classes it tells apart, in words."""
        return f'{self.facts["network"]["name"]}, {self.facts["num_classes"]} classes'

    def digest(self) -> str:
        """SHA-256 of the weights."""
        whole = hashlib.sha256()
        for array in jax.tree.leaves(self.weights):
            whole.update(np.ascontiguousarray(array).tobytes())
        return whole.hexdigest()


def classifier_builder(settings: Settings, num_classes: int, channels: int) -> Build:
    """Makes the function from rngs to the classifier network of those settings."""
    listed = lambda value: tuple(value) if isinstance(value, list) else value
    options = {name: listed(value) for name, value in settings.items() if name != 'name'}
    sizes = {'num_classes': num_classes, 'channels': channels}
    return lambda rngs: NETWORKS.make(settings['name'], **sizes, **options, rngs=rngs)


def check_classes(model: Classifier, class_names: list[str], channels: int, what: str) -> None:
    """Raises `UserError` unless the classifier was trained for these very classes and channels."""
    if model.facts['class_names'] != class_names or model.facts['channels'] != channels:
        raise UserError(
            f'{what} was trained for {model.facts["channels"]} channels and classes'
            f' {", ".join(model.facts["class_names"][:10])}; this dataset has {channels} channels'
            f' and classes {", ".join(class_names[:10])}. Load a network of the same dataset.'
        )
