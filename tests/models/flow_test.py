import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from purify.core.errors import UserError
from purify.models.flow import BINS, LOG_SCALE, TAIL, AffineMap, CouplingFlow, Spline

RNG = np.random.default_rng(0)


@functools.partial(jax.jit, static_argnums=range(6))
def build(width, couplings, hidden, transform, mixing, seed):
    return CouplingFlow(width, couplings, hidden, transform, mixing, rngs=nnx.Rngs(seed))


def make(width, couplings=2, hidden=0, transform='affine', mixing='swap', *, spread=0.3, seed=0):
    """A flow whose parameters are not those of the identity, and these parameters in float64."""
    flow = build(width, couplings, hidden, transform, mixing, seed)
    graph, params, rest = nnx.split(flow, nnx.Param, ...)
    rng = np.random.default_rng(seed)
    params = jax.tree.map(
        lambda x: np.asarray(x) + spread * rng.normal(size=x.shape).astype(np.float32), params
    )
    orders = [
        np.asarray(order) for _, order in sorted(nnx.to_pure_dict(rest).get('orders', {}).items())
    ]
    weights = jax.tree.map(lambda x: np.asarray(x, np.float64), nnx.to_pure_dict(params))[
        'couplings'
    ]
    return nnx.merge(graph, params, rest), [weights[k] for k in range(couplings)], orders


def conditioner(weights, given):
    """affine, ReLU, affine."""
    middle = np.maximum(given @ weights['hidden']['kernel'] + weights['hidden']['bias'], 0)
    return middle @ weights['out']['kernel'] + weights['out']['bias']


def affine(value, raw):
    """RealNVP, eq. 8, of one number -> (u, ln du/dz)."""
    scale = LOG_SCALE * np.tanh(raw[0] / LOG_SCALE)
    return value * np.exp(scale) + raw[1], scale


def spline(value, raw):
    """Neural spline flows, section 3.1, of one number, knot by knot -> (u, ln du/dz)."""
    if abs(value) >= TAIL:
        return value, 0.0
    parts = [np.exp(part) / np.exp(part).sum() for part in (raw[:BINS], raw[BINS : 2 * BINS])]
    x, y = [-TAIL], [-TAIL]
    for width, height in zip(*parts, strict=True):
        x.append(x[-1] + 2 * TAIL * (0.001 + (1 - 0.001 * BINS) * width))
        y.append(y[-1] + 2 * TAIL * (0.001 + (1 - 0.001 * BINS) * height))
    shift = np.log(np.exp(0.999) - 1)  # softplus(shift) + .001 = 1
    slopes = [1.0, *(0.001 + np.log1p(np.exp(part + shift)) for part in raw[2 * BINS :]), 1.0]
    k = max(k for k in range(BINS) if x[k] <= value)
    s, xi = (y[k + 1] - y[k]) / (x[k + 1] - x[k]), (value - x[k]) / (x[k + 1] - x[k])
    below = s + (slopes[k + 1] + slopes[k] - 2 * s) * xi * (1 - xi)
    u = y[k] + (y[k + 1] - y[k]) * (s * xi**2 + slopes[k] * xi * (1 - xi)) / below
    rise = (
        s**2
        * (slopes[k + 1] * xi**2 + 2 * s * xi * (1 - xi) + slopes[k] * (1 - xi) ** 2)
        / below**2
    )
    return u, np.log(rise)


def written_out(z, weights, orders, rule):
    """ln p(z) of one vector: change of variables, number by number, in float64."""
    z, half, total = z.astype(np.float64), len(z) // 2, 0.0
    for k, coupling in enumerate(weights):
        if orders and k % 2 == 0:
            z = z[orders[k // 2]]
        given, changed = (
            (range(half), range(half, len(z))) if k % 2 == 0 else (range(half, len(z)), range(half))
        )
        raw = conditioner(coupling, z[list(given)]).reshape(len(changed), -1)
        z = z.copy()
        for place, numbers in zip(changed, raw, strict=True):
            z[place], log_slope = rule(z[place], numbers)
            total += log_slope
    return total - 0.5 * (z**2).sum() - 0.5 * len(z) * np.log(2 * np.pi)


CASES = [(5, 2, 0, 'swap'), (5, 3, 7, 'permute')]


@pytest.mark.long
@pytest.mark.parametrize(('width', 'couplings', 'hidden', 'mixing'), CASES)
@pytest.mark.parametrize(('transform', 'rule'), [('affine', affine), ('spline', spline)])
def test_the_density_is_that_of_the_formulas(width, couplings, hidden, mixing, transform, rule):
    flow, weights, orders = make(width, couplings, hidden, transform, mixing)
    assert len(orders) == ((couplings + 1) // 2 if mixing == 'permute' else 0)
    assert weights[0]['hidden']['kernel'].shape == (width // 2, hidden or width)
    z = RNG.normal(size=(6, width)).astype(np.float32) * 2
    z[0, -1], z[1, 0] = 2 * TAIL, -3 * TAIL  # beyond the splines
    wanted = [written_out(row, weights, orders, rule) for row in z]
    np.testing.assert_allclose(jax.jit(flow.log_density)(z), wanted, rtol=2e-5, atol=2e-4)


@pytest.mark.long
@pytest.mark.parametrize(('transform', 'mixing'), [('affine', 'swap'), ('spline', 'permute')])
def test_the_determinant_is_that_of_the_jacobian(transform, mixing):
    flow, _, _ = make(5, 3, 0, transform, mixing, spread=0.1)
    z = RNG.normal(size=(9, 5)).astype(np.float32) * 2
    look = jax.jit(lambda z: (*flow(z), jax.vmap(jax.jacfwd(lambda row: flow(row)[0]))(z)))
    u, log_det, jacobian = look(z)
    wanted = np.linalg.slogdet(np.asarray(jacobian, np.float64))[1]
    np.testing.assert_allclose(log_det, wanted, atol=2e-4)
    assert not np.isin(np.round(z, 4), np.round(u, 4)).any()  # no dimension passes as it is


@pytest.mark.long
@pytest.mark.parametrize('transform', ['affine', 'spline'])
def test_a_density_sums_to_one(transform):
    flow, _, _ = make(2, 2, 8, transform, spread=0.3, seed=3)
    step, ends = 0.02, np.arange(-8, 8, 0.02) + 0.01
    grid = np.stack(np.meshgrid(ends, ends), -1).reshape(-1, 2).astype(np.float32)
    found = np.exp(np.asarray(jax.jit(flow.log_density)(grid), np.float64))
    # it is no standard normal
    assert np.abs(found - np.exp(-0.5 * (grid**2).sum(1)) / (2 * np.pi)).max() > 0.05
    assert (found * step**2).sum() == pytest.approx(1, abs=2e-3)


@pytest.mark.long
@pytest.mark.parametrize('transform', ['affine', 'spline'])
def test_a_fresh_flow_is_the_identity_up_to_order(transform):
    z = RNG.normal(size=(4, 7)).astype(np.float32) * 2
    look = jax.jit(lambda flow, z: (*flow(z), flow.log_density(z)))
    np.testing.assert_allclose(look(build(7, 2, 0, transform, 'swap', 0), z)[0], z, atol=1e-5)
    u, log_det, found = look(build(7, 3, 0, transform, 'permute', 0), z)
    assert not np.allclose(u, z)
    np.testing.assert_allclose(np.sort(u, 1), np.sort(z, 1), atol=1e-5)
    np.testing.assert_allclose(log_det, 0, atol=1e-5)
    np.testing.assert_allclose(found, -0.5 * (z**2).sum(1) - 3.5 * np.log(2 * np.pi), rtol=1e-5)


@pytest.mark.long
def test_orders_are_the_streams():
    orders = [
        [np.asarray(order[...]) for order in build(16, 4, 2, 'affine', 'permute', seed).orders]
        for seed in (0, 0, 1)
    ]
    assert all(sorted(order) == list(range(16)) for order in orders[0])
    np.testing.assert_array_equal(orders[0], orders[1])
    assert not np.array_equal(orders[0], orders[2])
    assert not np.array_equal(orders[0][0], orders[0][1])


def test_a_constant_feature_does_not_scale_without_end_and_far_points_keep_gradients_finite():
    u, log_slope = jax.jit(AffineMap().forward)(
        np.ones(2, np.float32), jnp.array([[1e4, 0.0], [-1e4, 0.0]])
    )
    np.testing.assert_allclose(log_slope, [LOG_SCALE, -LOG_SCALE])
    np.testing.assert_allclose(u, np.exp([LOG_SCALE, -LOG_SCALE]), rtol=1e-6)
    values = jnp.array([1e6, -1e6, TAIL, -TAIL, 4.9999, 0.0])
    gradient = jax.jit(
        jax.grad(lambda z, raw: sum(x.sum() for x in Spline().forward(z, raw)), argnums=(0, 1))
    )
    grads = gradient(values, RNG.normal(size=(6, 3 * BINS - 1)).astype(np.float32))
    assert all(np.isfinite(grad).all() for grad in grads)


@pytest.mark.parametrize(
    ('changes', 'words'),
    [
        ({'width': 1}, 'flow of 1 dimensions'),
        ({'couplings': 0}, 'flows.couplings=0'),
        ({'couplings': 1}, 'flows.couplings=1 must be 2 or more'),
        ({'hidden': -1}, 'flows.hidden=-1'),
        ({'transform': 'linear'}, "flow transform 'linear'.*affine, spline"),
        ({'mixing': 'roll'}, "flows.mixing='roll'.*swap, permute"),
    ],
)
def test_settings_that_cannot_be_are_refused(changes, words):
    with pytest.raises(UserError, match=words):
        CouplingFlow(**{'width': 4} | changes, rngs=nnx.Rngs(0))
