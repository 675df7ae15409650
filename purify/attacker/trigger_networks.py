"""The networks that fit triggers: a secret's encoder and decoder, a generator, a smooth field."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from purify.attacks.learned.networks import SecretDecoder, SecretEncoder, Shape
from purify.train.state import Build


class Steganography(nnx.Module):
    """The encoder and decoder of a secret."""

    def __init__(self, shape: Shape, secret_bits: int, width: int, *, rngs: nnx.Rngs):
        self.encoder = SecretEncoder(shape[-1], secret_bits, width, rngs=rngs)
        self.decoder = SecretDecoder(shape, secret_bits, width, rngs=rngs)


class Attacker(nnx.Module):
    """A generator and the classifier it is trained with."""

    def __init__(self, generator: Build, classifier: Build, *, rngs: nnx.Rngs):
        self.generator, self.classifier = generator(rngs), classifier(rngs)


class Field(nnx.Module):
    """A smooth field for each channel: cosines of at most `cutoff` = u + v half-periods.

    Its amplitudes fall off as 1 / (1 + u + v) at the start. The constant (u = v = 0) is left out.
    """

    def __init__(self, shape: Shape, cutoff: int, *, rngs: nnx.Rngs):
        self.shape, self.cutoff = shape, cutoff
        draws = jax.random.normal(rngs.params(), (1 + cutoff, 1 + cutoff, shape[-1]))
        self.amplitudes = nnx.Param(draws * _low_pass(cutoff))

    def __call__(self) -> jax.Array:
        """The field, smallest value 0 and largest 1: f32[h w c]."""
        orders = np.arange(1 + self.cutoff)
        rows, columns = (
            np.cos(np.pi * np.outer((np.arange(size) + 0.5) / size, orders))
            for size in self.shape[:2]
        )
        amplitudes = self.amplitudes[...] * (_low_pass(self.cutoff) > 0)
        field = jnp.einsum('hu,uvc,wv->hwc', rows, amplitudes, columns, precision='highest')
        low, high = field.min(), field.max()
        return (field - low) / jnp.maximum(high - low, 1e-6)


def _low_pass(cutoff: int) -> np.ndarray:
    """1 / (1 + u + v) for the frequencies that are kept, else 0: `f64[1+cutoff 1+cutoff 1]`."""
    order = np.add.outer(np.arange(1 + cutoff), np.arange(1 + cutoff))
    return np.where((order <= cutoff) & (order > 0), 1 / (1 + order), 0)[..., None]
