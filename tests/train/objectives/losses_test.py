import jax
import jax.numpy as jnp
import numpy as np
import pytest

from purify.core.errors import UserError
from purify.train.objectives.losses import (
    check_symmetric,
    cross_entropies,
    symmetric_cross_entropies,
)
from purify.train.objectives.tasks import cross_entropy

RNG = np.random.default_rng(0)
LOGITS, LABELS = RNG.normal(size=(8, 5)) * 4, RNG.integers(0, 5, 8)


def by_hand(logits, labels, alpha, beta):
    """Row by row in float64, the two terms as sums over classes."""
    losses = []
    for row, label in zip(logits, labels, strict=True):
        p = np.exp(row - row.max())
        p = np.clip(p / p.sum(), 1e-7, 1)
        reverse = -sum(p[k] * (0.0 if k == label else np.log(1e-4)) for k in range(len(row)))
        losses.append(alpha * -np.log(p[label]) + beta * reverse)
    return np.array(losses)


@pytest.mark.long
def test_rows_average_to_the_mean_loss():
    rows = cross_entropies(jnp.array(LOGITS), jnp.array(LABELS))
    assert rows.shape == (8,)
    assert float(rows.mean()) == pytest.approx(
        float(cross_entropy(jnp.array(LOGITS), jnp.array(LABELS))), rel=1e-6
    )
    np.testing.assert_allclose(rows, by_hand(LOGITS, LABELS, 1, 0), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(('alpha', 'beta'), [(0.1, 1.0), (1.0, 0.0), (0.0, 2.0)])
def test_symmetric_is_both_directions(alpha, beta):
    rows = symmetric_cross_entropies(jnp.array(LOGITS), jnp.array(LABELS), alpha, beta)
    np.testing.assert_allclose(rows, by_hand(LOGITS, LABELS, alpha, beta), rtol=1e-5, atol=1e-6)


@pytest.mark.long
def test_symmetric_stays_finite_where_the_answer_is_sure_and_wrong():
    logits, labels = jnp.array([[200.0, -200.0]]), jnp.array([1])
    loss, slope = jax.value_and_grad(
        lambda z: symmetric_cross_entropies(z, labels, 1.0, 1.0).sum()
    )(logits)
    assert float(loss) == pytest.approx(-np.log(1e-7) - np.log(1e-4), rel=1e-5)
    assert np.isfinite(slope).all()


@pytest.mark.parametrize(('alpha', 'beta'), [(0.0, 0.0), (-0.1, 1.0), (1.0, float('nan'))])
def test_weights_that_say_nothing_are_refused(alpha, beta):
    with pytest.raises(UserError, match='alpha'):
        check_symmetric('here', alpha, beta)
