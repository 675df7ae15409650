"""How far a changed image lies from the original: PSNR, SSIM, largest difference."""

from typing import Any

import numpy as np

from purify.core.errors import UserError

PEAK = 255  # the range of a pixel value
SIGMA_PX, WINDOW_PX = 1.5, 11  # of SSIM's Gaussian window
UNIFORM_PX = 3  # of the uniform window, along each axis
K1, K2 = 0.01, 0.03


def psnr(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Peak signal-to-noise ratio f64[n] in dB of pairs u8[n h w c] or u8[h w c] (n = 1).

    inf where a pair is equal. 10 log10(255^2 / mean squared difference). Raises `UserError` for
    other arrays and for pairs of unlike shape.
    """
    a, b = _pairs(a, b)
    squared = np.array([np.mean(np.square(_grey_levels(x) - y)) for x, y in zip(a, b, strict=True)])
    with np.errstate(divide='ignore'):
        return 10 * np.log10(PEAK**2 / squared)


def max_difference(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Largest difference f64[n] of a pixel value (0 to 255) of pairs u8[n h w c] or u8[h w c].

    Raises `UserError` for other arrays and for pairs of unlike shape.
    """
    a, b = _pairs(a, b)
    return np.array([np.abs(_grey_levels(x) - y).max() for x, y in zip(a, b, strict=True)])


def ssim(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Structural similarity f64[n], at most 1, of pairs u8[n h w c] or u8[h w c] (n = 1).

    Exactly 1 where a pair is equal. Wang et al. 2004, eq. (13) and their settings: Gaussian window
    of 11 px and sigma 1.5, K1 .01, K2 .03, range 255; population covariance; each channel by
    itself; the mean over channels and over all windows that lie in the image. On an image smaller
    than 11 px the window is the largest odd one that fits, of the same sigma. Raises `UserError`
    for other arrays and for pairs of unlike shape.
    """
    a, b = _pairs(a, b)
    pairs = zip(map(_grey_levels, a), map(_grey_levels, b), strict=True)
    return np.array([ssim_of(np, x, y) for x, y in pairs])


def ssim_of(xp: Any, a: Any, b: Any) -> Any:
    """SSIM of one pair float[h w c] in 0..255, as in `ssim`; `xp` is numpy or jax.numpy."""
    weights = gaussian_window(min(WINDOW_PX, *a.shape[:2]))
    mean_a, mean_b = _blur(a, weights), _blur(b, weights)
    variances = _blur(a * a, weights) - mean_a * mean_a + (_blur(b * b, weights) - mean_b * mean_b)
    covariance = _blur(a * b, weights) - mean_a * mean_b
    c1, c2 = (K1 * PEAK) ** 2, (K2 * PEAK) ** 2
    luminance = (2 * mean_a * mean_b + c1) / (mean_a * mean_a + mean_b * mean_b + c1)
    return xp.mean(luminance * (2 * covariance + c2) / (variances + c2))


def ssim_uniform_of(xp: Any, a: Any, b: Any) -> Any:
    """SSIM of one pair float[h w c] in 0..255 under a uniform window of 3 along each axis.

    Channels are an axis too, unless there is one. As scikit-image's `structural_similarity(a, b,
    win_size=3, data_range=255)` of arrays of three axes, or of two: sample covariance, K1 .01, K2
    .03, the mean over the windows that lie in the image. It is what DataElixir's released code
    compares colour images with (Zhou 2024, eq. 5). `xp` is numpy or jax.numpy (jit, vmap). Raises
    `UserError` where no window fits.
    """
    a, b = (a[..., 0], b[..., 0]) if a.shape[-1] == 1 else (a, b)
    if min(a.shape) < UNIFORM_PX:
        raise UserError(
            f'no window of {UNIFORM_PX} along each axis fits into {list(a.shape)}. Give larger'
            ' images.'
        )
    count = UNIFORM_PX**a.ndim
    a, b = a - PEAK / 2, b - PEAK / 2  # moments about the middle lose fewer digits in float32
    mean_a, mean_b = _box(a) / count, _box(b) / count
    variances = (_box(a * a + b * b) - count * (mean_a * mean_a + mean_b * mean_b)) / (count - 1)
    covariance = (_box(a * b) - count * mean_a * mean_b) / (count - 1)
    mean_a, mean_b = mean_a + PEAK / 2, mean_b + PEAK / 2
    c1, c2 = (K1 * PEAK) ** 2, (K2 * PEAK) ** 2
    luminance = (2 * mean_a * mean_b + c1) / (mean_a * mean_a + mean_b * mean_b + c1)
    return xp.mean(luminance * (2 * covariance + c2) / (variances + c2))


def gaussian_window(limit_px: int) -> list[float]:
    """Weights (of sum 1) of SSIM's window along one axis, odd and at most `limit_px` long."""
    reach = (limit_px - 1) // 2
    weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / SIGMA_PX) ** 2)
    return (weights / weights.sum()).tolist()


def _blur(image: Any, weights: list[float]) -> Any:
    """Correlates rows, then columns of [h w c] with `weights`, where the window lies inside."""
    size = len(weights)
    rows = image.shape[0] - size + 1
    image = sum(weight * image[i : i + rows] for i, weight in enumerate(weights))
    columns = image.shape[1] - size + 1
    return sum(weight * image[:, i : i + columns] for i, weight in enumerate(weights))


def _box(image: Any) -> Any:
    """Sums over windows of `UNIFORM_PX` along each axis, where they lie inside."""
    for axis in range(image.ndim):
        size = image.shape[axis] - UNIFORM_PX + 1
        image = sum(image[(slice(None),) * axis + (slice(i, i + size),)] for i in range(UNIFORM_PX))
    return image


def _grey_levels(image: np.ndarray) -> np.ndarray:
    """As float64, so that differences have a sign."""
    return image.astype(np.float64)


def _pairs(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both as u8[n h w c]."""
    a, b = np.asarray(a), np.asarray(b)
    for images in (a, b):
        if images.dtype != np.uint8 or images.ndim not in (3, 4) or 0 in images.shape[-3:]:
            raise UserError(
                f'images to compare are {images.dtype}{list(images.shape)}. Give u8[n h w c] or'
                ' u8[h w c].'
            )
    if a.shape != b.shape:
        raise UserError(
            f'images of shapes {list(a.shape)} and {list(b.shape)} cannot be compared. Give'
            ' pairs of one shape.'
        )
    return (a[None], b[None]) if a.ndim == 3 else (a, b)
