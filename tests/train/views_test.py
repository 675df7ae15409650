import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from purify.core.errors import UserError
from purify.core.randomness import id_keys
from purify.data import changes
from purify.train.views import Views

RNG = np.random.default_rng(0)
USUAL = {'crop': (0.2, 1.0), 'flip': 0.5, 'jitter': 0.8, 'strength': 0.4, 'grey': 0.2}


def keys(count, seed=0):
    return id_keys(jax.random.key(seed), jnp.arange(count))


@pytest.mark.parametrize('channels', [1, 3])
def test_a_view_is_a_function_of_its_own_key(channels):
    images = jnp.asarray(RNG.random((6, 8, 8, channels)), jnp.float32)
    make = jax.jit(Views(**USUAL))
    first = np.asarray(make(images, keys(6)))
    assert first.shape == images.shape
    assert 0 <= first.min() < first.max() <= 1
    order = np.array([3, 0, 5, 1, 4, 2])
    np.testing.assert_array_equal(make(images[order], keys(6)[order]), first[order])
    assert (np.abs(make(images, keys(6, seed=1)) - first).max((1, 2, 3)) > 0.01).all()


@pytest.mark.long
def test_what_else_happens_to_a_view_does_not_depend_on_its_noise():
    images = jnp.asarray(RNG.random((32, 8, 8, 1)), jnp.float32)
    plain, noisy = (
        np.asarray(jax.jit(Views(**USUAL | {'jitter': 0.0, 'noise': x}))(images, keys(32)))
        for x in (0.0, 1e-3)
    )
    assert 0 < np.abs(noisy - plain).max() < 6e-3


@pytest.mark.long
def test_all_of_the_colour_goes_or_none():
    images = jnp.asarray(RNG.random((64, 4, 4, 3)), jnp.float32)
    seen = np.asarray(jax.jit(Views(**USUAL | {'jitter': 0.0, 'grey': 0.25}))(images, keys(64)))
    grey = np.ptp(seen, -1).max((1, 2)) < 1e-6
    assert 0.1 < grey.mean() < 0.4  # 64 draws of .25
    coloured = np.asarray(jax.jit(Views(**USUAL | {'jitter': 0.0, 'grey': 0.0}))(images, keys(64)))
    np.testing.assert_allclose(seen[~grey], coloured[~grey])


STILL = {'crop': (1.0, 1.0), 'flip': 0.0, 'jitter': 0.0, 'strength': 0.0, 'grey': 0.0}


@pytest.fixture
def whole(monkeypatch):
    """Views of the whole image: its crop is not what is tested."""
    monkeypatch.setattr(changes, 'crop_resize', lambda image, *box: image)


@pytest.mark.usefixtures('whole')
def test_angles_lie_within_those_asked_for_either_way():
    ramp = jnp.broadcast_to(jnp.linspace(0.2, 0.8, 24)[:, None, None], (200, 24, 24, 1))
    turned = np.asarray(jax.jit(Views(**STILL | {'rotation': 20.0}))(ramp, keys(200)))[
        :, 11:13, 11:13, 0
    ]
    down, right = (np.diff(turned, axis=axis).mean((1, 2)) for axis in (1, 2))
    angles = np.rad2deg(np.arctan2(right, down))
    assert -20.01 < angles.min() < -18
    assert 18 < angles.max() < 20.01


@pytest.mark.usefixtures('whole')
def test_blur_comes_by_chance_and_at_all_widths():
    dot = np.zeros((400, 48, 48, 1), np.float32)
    dot[:, 24, 24] = 1
    seen = np.asarray(jax.jit(Views(**STILL | {'blur': 0.25}))(dot, keys(400)))
    peaks = seen.max((1, 2, 3))
    # A tenth of the narrowest, up to .2 pixels, leave a dot a dot: its neighbours get e^-12.5 and
    # less.
    assert 0.16 < (peaks < 1).mean() < 0.3
    widest = ndimage.gaussian_filter(
        dot[0, ..., 0].astype(np.float64), 2.0, mode='mirror', radius=2
    ).max()
    assert widest <= peaks.min() + 1e-6 < 1.1 * widest
    assert np.ptp(np.sort(peaks[(peaks < 0.9) & (peaks > 0.1)])) > 0.6
    np.testing.assert_allclose(seen.sum((1, 2, 3)), 1, rtol=1e-5)


@pytest.mark.usefixtures('whole')
def test_noise_has_a_share_of_the_highest_deviation_and_stays_in_range():
    images = np.full((400, 16, 16, 1), 0.5, np.float32)
    images[300:] = np.arange(100)[:, None, None, None] % 2
    seen = np.asarray(jax.jit(Views(**STILL | {'noise': 0.1}))(images, keys(400)))
    assert (seen.min(), seen.max()) == (0, 1)
    noise = seen[:300] - images[:300]
    deviations = noise.std((1, 2, 3))
    np.testing.assert_allclose(np.sort(deviations), np.linspace(0, 0.1, 300), atol=0.015)  # uniform
    scaled = (noise / deviations[:, None, None, None])[deviations > 0.01].ravel()
    assert abs((scaled**3).mean()) < 0.05
    assert abs((scaled**4).mean() - 3) < 0.1


@pytest.mark.parametrize(
    ('changes', 'told'),
    [
        ({'crop': (0.0, 1.0)}, 'crop'),
        ({'crop': (0.5, 0.2)}, 'crop'),
        ({'flip': 1.5}, 'flip'),
        ({'strength': -1.0}, 'strength'),
        ({'rotation': 200.0}, 'rotation'),
        ({'blur': -0.1}, 'blur'),
        ({'noise': 2.0}, 'noise'),
    ],
)
def test_numbers_out_of_range_are_refused(changes, told):
    with pytest.raises(UserError, match=told):
        Views(**USUAL | changes)
