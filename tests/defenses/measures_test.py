import jax
import jax.numpy as jnp
import numpy as np
import pytest

from purify.core.errors import UserError
from purify.defenses.measures import Embeddings, Features, Predictions
from purify.defenses.method import Context

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (7, 4, 4, 3), np.uint8)
LABELS = RNG.integers(0, 5, 7).astype(np.int32)
WEIGHTS = {'body': RNG.normal(size=(48, 6)), 'head': RNG.normal(size=(6, 5))}


class Linear:
    """A classifier whose answer can be written down."""

    def answer(self, weights, images):
        features = jnp.maximum(images.reshape(len(images), -1) @ weights['body'], 0)
        return features @ weights['head'], features

    def embed(self, weights, images):
        return self.answer(weights, images)[1]


def measured(measure, images=IMAGES, weights=WEIGHTS):
    rule = measure.rule(
        {'classifier': Linear(), 'encoder': Linear()},
        Context((4, 4, 3), 0, [str(k) for k in range(5)]),
    )
    rows = {'image': jnp.array(images), 'label': jnp.array(LABELS), 'id': jnp.arange(7)}
    placed = jax.tree.map(lambda x: jnp.array(x, jnp.float32), weights)
    out = jax.jit(rule)({'classifier': placed, 'encoder': placed}, rows)
    return {name: np.asarray(column) for name, column in out.items()}


def by_hand():
    features = np.maximum(IMAGES.reshape(7, -1) / 255.0 @ WEIGHTS['body'], 0)
    logits = features @ WEIGHTS['head']
    p = np.exp(logits - logits.max(-1, keepdims=True))
    return features, p / p.sum(-1, keepdims=True)


def test_predictions_are_labels_and_losses_on_the_given_ones():
    found, (_, p) = measured(Predictions()), by_hand()
    np.testing.assert_array_equal(found['label'], p.argmax(-1))
    seen = found['loss']
    np.testing.assert_allclose(seen, -np.log(p[np.arange(7), LABELS]), rtol=1e-4, atol=1e-5)
    assert found['finite'].all()
    wanted = {'label': np.int32, 'loss': np.float32, 'finite': np.bool_}
    assert {name: column.dtype for name, column in found.items()} == wanted


def test_symmetric_loss_adds_what_lies_on_other_labels():
    found, (_, p) = measured(Predictions(loss='sce', alpha=0.1, beta=1.0)), by_hand()
    own = p[np.arange(7), LABELS]
    wanted = -0.1 * np.log(np.maximum(own, 1e-7)) - np.log(1e-4) * (1 - own)
    np.testing.assert_allclose(found['loss'], wanted, rtol=1e-3, atol=1e-4)


def test_features_are_what_the_head_reads():
    found, (features, p) = measured(Features()), by_hand()
    np.testing.assert_allclose(found['features'], features, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(found['label'], p.argmax(-1))
    assert found['features'].shape == (7, 6)


def test_embeddings_are_what_the_encoder_makes_of_unit_images():
    found, (features, _) = measured(Embeddings()), by_hand()
    np.testing.assert_allclose(found['features'], features, rtol=1e-4, atol=1e-5)
    assert set(found) == {'features', 'finite'}
    assert found['finite'].all()


@pytest.mark.parametrize(
    'measure',
    [Predictions(), Predictions(loss='sce', alpha=1.0, beta=1.0), Features(), Embeddings()],
)
def test_broken_weights_are_told(measure):
    assert not measured(
        measure, weights={'body': np.full((48, 6), np.nan), 'head': WEIGHTS['head']}
    )['finite'].any()


@pytest.mark.parametrize('measure', [Predictions(), Features()])
def test_a_broken_head_is_told_though_the_features_are_numbers(measure):
    assert not measured(
        measure, weights={'body': WEIGHTS['body'], 'head': np.full((6, 5), np.nan)}
    )['finite'].any()


@pytest.mark.parametrize(
    'bad',
    [{'loss': 'mse'}, {'alpha': 0.5}, {'loss': 'sce'}, {'loss': 'sce', 'alpha': -1.0, 'beta': 2.0}],
)
def test_settings_that_say_nothing_are_refused(bad):
    with pytest.raises(UserError, match='predictions'):
        Predictions(**bad)
