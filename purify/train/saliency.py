"""Where a classifier looks."""

import jax
import jax.numpy as jnp

from purify.models.classifiers.classifier import ClassifierNetwork

FLAT = 1e-6  # heat that varies less than this share of its maximum is rounding


def grad_cam(network: ClassifierNetwork, images: jax.Array, labels: jax.Array) -> jax.Array:
    """Grad-CAM heat f32[b h w] in [0, 1] of images f32[b h w c] in [0, 1] for classes i32[b].

    The last feature maps, weighted by the means of the gradient of the class's logit, summed,
    negative sums 0 (Selvaraju 2017, eqs. 1 and 2), stretched to [0, 1] and resized to the image.
    Heat that is the same everywhere is 0 everywhere.
    """
    maps = network.maps(images, train=False)

    def score(maps: jax.Array) -> jax.Array:
        logits = network.head(network.pool(maps, train=False))
        # Rows do not meet: the gradient is each row's own.
        return jnp.take_along_axis(logits, labels[:, None], axis=-1).sum()

    weights = jax.grad(score)(maps).mean((1, 2), keepdims=True)
    heat = jax.nn.relu((weights * maps).sum(-1))
    low, high = heat.min((1, 2), keepdims=True), heat.max((1, 2), keepdims=True)
    span = high - low
    varies = span > FLAT * high
    stretched = jnp.where(varies, (heat - low) / jnp.where(varies, span, 1), 0)
    return jax.image.resize(stretched, images.shape[:3], 'bilinear', antialias=False)
