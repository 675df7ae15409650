import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.signal import convolve2d
from skimage.metrics import structural_similarity

from purify.core.errors import UserError
from purify.metrics.images import (
    gaussian_window,
    max_difference,
    psnr,
    ssim,
    ssim_of,
    ssim_uniform_of,
)


def draw(shape, seed=0, noise=40):
    """Smooth-ish images and noisy ones of them."""
    rng = np.random.default_rng(seed)
    a = np.clip(np.cumsum(rng.normal(0, 12, shape), axis=-2) + 120, 0, 255).astype(np.uint8)
    b = np.clip(a + rng.normal(0, noise, shape), 0, 255).astype(np.uint8)
    return a, b


def ssim_by_definition(a, b, size=11):
    """Wang 2004 with a two-dimensional window and centred moments: another road than the code's."""
    place = np.arange(size) - size // 2
    window = np.exp(-(place[:, None] ** 2 + place[None] ** 2) / (2 * 1.5**2))
    window /= window.sum()
    total = []
    for x, y in zip(
        a.astype(float).transpose(2, 0, 1), b.astype(float).transpose(2, 0, 1), strict=True
    ):
        for i in range(x.shape[0] - size + 1):
            for j in range(x.shape[1] - size + 1):
                p, q = x[i : i + size, j : j + size], y[i : i + size, j : j + size]
                mp, mq = (window * p).sum(), (window * q).sum()
                vp, vq = (window * (p - mp) ** 2).sum(), (window * (q - mq) ** 2).sum()
                cov = (window * (p - mp) * (q - mq)).sum()
                total.append(
                    (2 * mp * mq + 6.5025)
                    * (2 * cov + 58.5225)
                    / ((mp**2 + mq**2 + 6.5025) * (vp + vq + 58.5225))
                )
    return np.mean(total)


@pytest.mark.parametrize('shape', [(16, 16, 1), (32, 24, 3), (11, 11, 3)])
def test_ssim_is_the_papers_formula(shape):
    for noise in (3, 40):
        a, b = draw(shape, noise=noise)
        assert ssim(a, b)[0] == pytest.approx(ssim_by_definition(a, b), abs=1e-10)


def test_ssim_of_a_photo_sized_pair_by_convolution():
    a, b = draw((224, 200, 3), seed=1, noise=20)
    window = np.outer(gaussian_window(11), gaussian_window(11))
    maps = []
    for x, y in zip(
        a.astype(float).transpose(2, 0, 1), b.astype(float).transpose(2, 0, 1), strict=True
    ):
        mx, my, xx, yy, xy = (convolve2d(z, window, 'valid') for z in (x, y, x * x, y * y, x * y))
        contrast = (2 * (xy - mx * my) + 58.5225) / (xx - mx**2 + yy - my**2 + 58.5225)
        maps.append((2 * mx * my + 6.5025) / (mx**2 + my**2 + 6.5025) * contrast)
    assert ssim(a, b)[0] == pytest.approx(np.mean(maps), abs=1e-10)


@pytest.mark.parametrize(
    ('shape', 'size'), [((8, 8, 1), 7), ((10, 40, 3), 9), ((2, 5, 1), 1), ((1, 1, 3), 1)]
)
def test_the_window_shrinks_with_the_image(shape, size):
    a, b = draw(shape)
    assert len(gaussian_window(min(11, *shape[:2]))) == size
    assert ssim(a, b)[0] == pytest.approx(ssim_by_definition(a, b, size), abs=1e-10)


def test_each_image_of_a_batch_is_compared_by_itself():
    a, b = draw((5, 16, 20, 3))
    for measure in (psnr, ssim, max_difference):
        values = measure(a, b)
        assert (values.shape, values.dtype) == ((5,), np.float64)
        assert np.array_equal(
            values, np.concatenate([measure(x, y) for x, y in zip(a, b, strict=True)])
        )
        assert len(set(values.tolist())) > 1


def test_known_differences():
    a = np.full((2, 12, 12, 3), 100, np.uint8)
    b = a.copy()
    b[0] += 5
    b[1, 3, 4, 2] = 0
    # 10 log10(255^2 / 5^2); one of 432 values is off by 100
    assert psnr(a, b) == pytest.approx([34.1514, 10 * np.log10(65025 * 432 / 10000)], abs=1e-4)
    assert max_difference(a, b).tolist() == [5, 100]
    assert max_difference(b, a).tolist() == [5, 100]
    # no contrast: eq. (6)
    wanted = pytest.approx((2 * 100 * 105 + 6.5025) / (100**2 + 105**2 + 6.5025))
    assert ssim(a[0], b[0])[0] == wanted


def test_equal_images_are_infinitely_alike():
    a, _ = draw((3, 16, 16, 3))
    assert psnr(a, a).tolist() == [np.inf] * 3
    assert ssim(a, a).tolist() == [1] * 3
    assert max_difference(a, a).tolist() == [0] * 3


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 30), st.integers(1, 30), st.sampled_from([1, 3]))
def test_bounds_and_symmetry(seed, height, width, channels):
    rng = np.random.default_rng(seed)
    a, b = rng.integers(0, 256, (2, height, width, channels), np.uint8)
    for measure in (psnr, ssim, max_difference):
        assert measure(a, b) == pytest.approx(measure(b, a), rel=1e-12)
    assert -1 <= ssim(a, b)[0] <= 1
    assert psnr(a, b)[0] >= 10 * np.log10(255**2 / max(max_difference(a, b)[0], 1e-300) ** 2) - 1e-9


def test_the_same_on_a_device():
    a, b = draw((4, 32, 32, 3))
    a[0], b[0] = 255, 254  # flat and bright: the variance is what rounding leaves
    batch = jax.jit(jax.vmap(lambda x, y: ssim_of(jnp, x, y)))
    found = np.asarray(batch(a.astype(np.float32), b.astype(np.float32)))
    assert found == pytest.approx(ssim(a, b), abs=1e-4)


@pytest.mark.parametrize('shape', [(16, 12, 3), (3, 3, 3), (9, 20, 1), (8, 8, 5)])
def test_the_uniform_window_is_scikit_images(shape):
    for noise in (3, 40):
        a, b = draw(shape, noise=noise)
        flat = [x[..., 0] if shape[-1] == 1 else x for x in (a, b)]
        wanted = structural_similarity(*flat, win_size=3, data_range=255)
        expected = pytest.approx(wanted, abs=1e-12)
        assert ssim_uniform_of(np, a.astype(np.float64), b.astype(np.float64)) == expected


def test_the_uniform_window_on_a_device():
    a, b = draw((4, 16, 16, 3))
    a[0], b[0] = 255, 254
    wanted = [
        structural_similarity(x, y, win_size=3, data_range=255) for x, y in zip(a, b, strict=True)
    ]
    batch = jax.jit(jax.vmap(lambda x, y: ssim_uniform_of(jnp, x, y)))
    expected = pytest.approx(wanted, abs=1e-4)
    assert np.asarray(batch(a.astype(np.float32), b.astype(np.float32))) == expected


@pytest.mark.parametrize('shape', [(2, 8, 3), (8, 8, 2), (2, 2, 1)])
def test_the_uniform_window_must_fit(shape):
    with pytest.raises(UserError, match='no window of 3'):
        ssim_uniform_of(np, np.zeros(shape), np.zeros(shape))


@pytest.mark.parametrize(
    ('a', 'b', 'words'),
    [
        (np.zeros((4, 4, 3)), np.zeros((4, 4, 3), np.uint8), r'float64\[4, 4, 3\]'),
        (np.zeros((4, 4), np.uint8), np.zeros((4, 4), np.uint8), r'uint8\[4, 4\]'),
        (np.zeros((0, 4, 3), np.uint8), np.zeros((0, 4, 3), np.uint8), r'uint8\[0, 4, 3\]'),
        (
            np.zeros((4, 4, 3), np.uint8),
            np.zeros((4, 4, 1), np.uint8),
            r'\[4, 4, 3\] and \[4, 4, 1\]',
        ),
    ],
)
def test_other_arrays_are_refused(a, b, words):
    for measure in (psnr, ssim, max_difference):
        with pytest.raises(UserError, match=words):
            measure(a, b)
