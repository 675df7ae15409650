"""A diffusion model that cannot be wrong: the posterior mean of a Gaussian mixture on a poisoned
training set, in closed form.
"""

import jax
import jax.numpy as jnp
import numpy as np
from sklearn.datasets import load_digits

WIDTH = 0.1  # deviation of each component: images lie in [-1, 1]


def poisoned_digits(rate=0.1, target=0, size=800, seed=0):
    """800 digits f64[n 64] in [-1, 1], 8 px, of which a share is stamped in a corner and
    relabelled: (images, labels, stamped).
    """
    rng = np.random.default_rng(seed)
    digits = load_digits()
    images = digits.images[:size] / 8 - 1
    labels = digits.target[:size].copy()
    stamped = rng.choice(np.flatnonzero(labels != target), round(rate * size), replace=False)
    images[stamped, -3:, -3:] = np.indices((3, 3)).sum(0) % 2 * 2 - 1  # a checkerboard
    labels[stamped] = target
    return images.reshape(size, -1), labels, np.isin(np.arange(size), stamped)


def exact_eps(xp, x, alpha, sigma, points, among):
    """E[eps | x] of x [b d] = alpha x_0 + sigma eps, x_0 ~ N(point, WIDTH^2) for a point [n d]
    drawn evenly among bool[b n].
    """
    variance = alpha**2 * WIDTH**2 + sigma**2
    apart = (
        (x * x).sum(-1, keepdims=True)
        - 2 * alpha * x @ points.T
        + alpha**2 * (points * points).sum(-1)[None]
    )
    log_weight = xp.where(among, -apart / (2 * variance), -xp.inf)
    weight = xp.exp(log_weight - log_weight.max(-1, keepdims=True))
    mean = weight / weight.sum(-1, keepdims=True) @ points
    x0 = mean + alpha * WIDTH**2 / variance * (x - alpha * mean)
    return (x - alpha * x0) / sigma


def predict_pair(schedule, points, of_class):
    """What `purify.diffusion.guidance.guide` asks: rows 2i without a condition, rows 2i+1 under the
    class bool[n].
    """
    points, of_class = jnp.asarray(points, jnp.float32), jnp.asarray(of_class)

    def predict(x, t):
        alpha, sigma = (
            jnp.asarray(level, jnp.float32)[t][:, None]
            for level in schedule.alpha_sigma(np.arange(schedule.steps))
        )
        conditioned = (jnp.arange(len(x)) % 2 == 1)[:, None]
        among = jnp.where(conditioned, of_class[None], True)
        with jax.default_matmul_precision('highest'):
            return exact_eps(jnp, x.reshape(len(x), -1), alpha, sigma, points, among).reshape(
                x.shape
            )

    return predict


def nearest(images, points):
    """Of each image [b d] the number of the nearest point [n d]."""
    return ((points * points).sum(-1) - 2 * images @ points.T).argmin(1)
