"""A network in a file of its own: one layer of convolutions."""

import jax
from flax import nnx

from purify.models.classifiers.classifier import ClassifierNetwork


class OneLayer(ClassifierNetwork):
    """`width` filters of 5 px, and their means."""

    def __init__(
        self, *, num_classes, channels, width=8, mean=(0.0,), std=(1.0,), dtype='float32', rngs
    ):
        super().__init__(
            num_classes=num_classes, channels=channels, mean=mean, std=std, width=width
        )
        self.conv = nnx.Conv(channels, width, (5, 5), dtype=dtype, rngs=rngs)
        self.head = nnx.Linear(width, num_classes, dtype=dtype, rngs=rngs)
        self.stages = (1,)

    def enter(self, images, train):
        return images

    def group(self, number, x, train, key):
        return jax.nn.relu(self.conv(x))
