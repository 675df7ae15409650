"""Changes of an image agree with Pillow, SciPy and colorsys."""

import colorsys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageEnhance
from scipy import ndimage

from purify.core.randomness import id_keys
from purify.data import changes

RNG = np.random.default_rng(0)


def keys(count, seed=0):
    return id_keys(jax.random.key(seed), jnp.arange(count))


@pytest.mark.parametrize('turn', [-0.4, -0.1, 0.0, 0.25])
def test_hues_turn_as_in_colorsys(turn):
    image = RNG.random((6, 7, 3))
    image[0] = image[0, :, :1]  # greys have no hue
    image[1, 0], image[1, 1] = 0, 1
    image[2, :, 1] = image[2, :, 0]  # two channels equal
    expected = np.zeros_like(image)
    for place in np.ndindex(6, 7):
        hue, saturation, value = colorsys.rgb_to_hsv(*image[place])
        expected[place] = colorsys.hsv_to_rgb((hue + turn) % 1, saturation, value)
    found = jax.jit(changes.turn_hue)(image.astype(np.float32), np.float32(turn))
    np.testing.assert_allclose(found, expected, atol=3e-6)


@pytest.mark.parametrize(
    'box', [(0, 0, 12, 10), (2.5, 1.25, 6, 7.5), (0.5, 0.25, 11, 2.5), (9, 7, 3, 3)]
)
def test_crops_are_resized_as_pillow_does(box):
    image = RNG.random((12, 10)).astype(np.float32)
    top, left, height, width = box
    where = (left, top, left + width, top + height)
    expected = np.array(
        Image.fromarray(image).resize((10, 12), Image.Resampling.BILINEAR, box=where)
    )
    ours = jax.jit(changes.crop_resize)(
        image[..., None], np.array([top, left], np.float32), np.array([height, width], np.float32)
    )
    np.testing.assert_allclose(ours[..., 0], expected, atol=2e-5)


@pytest.mark.parametrize('factor', [0.6, 1.0, 1.4])
def test_light_changes_as_pillow_does(factor):
    image = RNG.integers(0, 256, (9, 8, 3), np.uint8)
    unit = jnp.asarray(image, jnp.float32) / 255
    grey = changes.to_grey(unit)
    picture = Image.fromarray(image)
    for enhancer, other in (
        (ImageEnhance.Brightness, jnp.zeros(())),
        (ImageEnhance.Contrast, grey.mean()),
        (ImageEnhance.Color, grey),
    ):
        expected = np.array(enhancer(picture).enhance(factor), np.float64)
        # Pillow rounds
        found = changes.blend(unit, other, jnp.float32(factor)) * 255
        np.testing.assert_allclose(found, expected, atol=1.6)


@pytest.mark.long
def test_boxes_lie_in_the_image_and_have_the_shares_asked_for():
    corners, sides = jax.jit(jax.vmap(lambda key: changes.draw_box(key, (40, 50), (0.1, 0.3))))(
        keys(500)
    )
    assert (np.asarray(corners) >= 0).all()
    assert (np.asarray(corners + sides) <= np.array([40, 50]) + 1e-4).all()
    areas, ratios = np.asarray(sides.prod(-1)) / 2000, np.asarray(sides[:, 1] / sides[:, 0])
    assert 0.1 - 1e-4 <= areas.min() < 0.11
    assert 0.29 < areas.max() <= 0.3 + 1e-4
    assert 3 / 4 - 1e-4 <= ratios.min() < 0.77
    assert 1.3 < ratios.max() <= 4 / 3 + 1e-4


@pytest.mark.parametrize('degrees', [-30.0, 7.0, 90.0, 180.0])
def test_images_turn_as_in_scipy(degrees):
    image = RNG.random((9, 12, 3)).astype(np.float32)
    expected = ndimage.rotate(
        image, degrees, reshape=False, order=1, mode='grid-constant', axes=(1, 0)
    )
    found = jax.jit(changes.rotate)(image, np.float32(np.deg2rad(degrees)))
    np.testing.assert_allclose(found, expected, atol=2e-5)


@pytest.mark.parametrize(('shape', 'sigma', 'radius'), [((8, 9, 1), 1.3, 1), ((60, 64, 3), 2.0, 3)])
def test_blur_is_scipys_gaussian(shape, sigma, radius):
    image = RNG.random(shape)
    expected = ndimage.gaussian_filter(image, sigma, mode='mirror', radius=radius, axes=(0, 1))
    found = jax.jit(changes.soften)(image.astype(np.float32), np.float32(sigma))
    np.testing.assert_allclose(found, expected, atol=2e-6)
