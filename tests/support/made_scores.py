"""A small classifier that can be written down, for the tests of scores, and how a score is asked
about a few images.
"""

import jax
import jax.numpy as jnp
import numpy as np

from purify.defenses.method import Context

SHAPE, CLASSES, WIDTH = (5, 6, 2), 4, 7
RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (6, *SHAPE), np.uint8)
IDS = np.array([11, 3, 250, 7, 8, 90], np.int32)
WEIGHTS = {'body': RNG.normal(size=(60, WIDTH)) / 2, 'head': RNG.normal(size=(WIDTH, CLASSES))}


class Small:
    """tanh of a matrix product, and a head."""

    weights = WEIGHTS

    def answer(self, weights, images):
        features = jnp.tanh(images.reshape(len(images), -1) @ weights['body'])
        return features @ weights['head'], features


class Drawn:
    """Images to compare with."""

    def __init__(self, images):
        self.weights = images


def by_hand(images):
    """(logits, features) f64 of images [b ...] in [0, 1]."""
    features = np.tanh(np.asarray(images, np.float64).reshape(len(images), -1) @ WEIGHTS['body'])
    return features @ WEIGHTS['head'], features


def scored(measure, images=IMAGES, ids=IDS, seed=5, drawn=None, weights=WEIGHTS):
    """The columns of a score, as NumPy."""
    models = {'classifier': Small()} | ({} if drawn is None else {'drawn': Drawn(drawn)})
    rule = measure.rule(models, Context(SHAPE, seed, [str(k) for k in range(CLASSES)]))
    placed = {'classifier': jax.tree.map(lambda x: jnp.array(x, jnp.float32), weights)}
    constants = placed | ({} if drawn is None else {'drawn': jnp.array(drawn)})
    rows = {
        'image': jnp.array(images),
        'label': jnp.zeros(len(images), jnp.int32),
        'id': jnp.array(ids),
    }
    return {name: np.asarray(column) for name, column in jax.jit(rule)(constants, rows).items()}


def check_rows(measure, drawn=None):
    """A row's score is its own, among other images and elsewhere; broken weights are told."""
    whole = scored(measure, drawn=drawn)
    order = np.array([4, 0, 5, 2, 1, 3])
    moved = scored(measure, IMAGES[order], IDS[order], drawn=drawn)
    np.testing.assert_allclose(moved['score'], whole['score'][order], rtol=1e-5)
    few = scored(measure, IMAGES[2:4], IDS[2:4], drawn=drawn)
    np.testing.assert_allclose(few['score'], whole['score'][2:4], rtol=1e-5)
    assert whole['finite'].all()
    assert {name: column.dtype for name, column in whole.items()} == {
        'score': np.float32,
        'finite': np.bool_,
    }
    for part in WEIGHTS:
        broken = WEIGHTS | {part: np.full_like(WEIGHTS[part], np.nan)}
        found = scored(measure, drawn=drawn, weights=broken)
        reads_head = part == 'body' or getattr(measure, 'on', '') == 'logits' or drawn is not None
        assert found['finite'].all() != reads_head
