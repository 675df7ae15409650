import colorsys
import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from purify.core.errors import UserError
from purify.core.randomness import id_keys
from purify.data.augment import (
    AUGMENTATIONS,
    Affine,
    AlternatingFlip,
    ColourJitter,
    Flip,
    PadCrop,
    ResizedCrop,
    Rotation,
    augment,
    change_all,
)

STRONG = (ColourJitter(0.4, 0.4, 0.4, 0.1), Rotation(20), Affine(0.1, (0.9, 1.1)), Flip(0.5))
STRONG += (PadCrop(2), ResizedCrop((0.2, 1.0)))
IDLE = (ColourJitter(), Rotation(0), Affine(), Flip(0), PadCrop(0), PadCrop(0, 'reflect'))
CHANNELS = (1, 3)


def picture(channels=3, height=10, width=8, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), np.uint8)


@functools.cache
def program(augmentation):
    return jax.jit(lambda images, keys: augment([augmentation], images, keys))


def apply(augmentation, image, seed=0):
    """One image under one key; what a batch makes of it does not depend on the others."""
    keys = jax.vmap(jax.random.key)(jnp.array([seed], jnp.uint32))
    return np.asarray(program(augmentation)(image[None], keys)[0])


def smooth(channels, size=40):
    """A bright blob off the centre: geometry moves its centre of mass."""
    y, x = np.mgrid[:size, :size]
    blob = 250 * np.exp(-((x - 0.6 * size) ** 2 + (y - 0.45 * size) ** 2) / (2 * 9))
    return np.repeat(np.rint(blob).astype(np.uint8)[..., None], channels, -1)


def centre(image):
    weight = image[..., 0].astype(float)
    y, x = np.mgrid[: image.shape[0], : image.shape[1]] + 0.5
    return np.array([(x * weight).sum(), (y * weight).sum()]) / weight.sum()


@pytest.mark.parametrize('channels', CHANNELS)
@pytest.mark.parametrize('augmentation', IDLE, ids=repr)
def test_zero_strength_changes_nothing(augmentation, channels):
    for seed in range(5):
        found = apply(augmentation, picture(channels), seed)
        np.testing.assert_array_equal(found, picture(channels))


@pytest.mark.parametrize('channels', CHANNELS)
@pytest.mark.parametrize('augmentation', STRONG, ids=repr)
def test_a_draw_is_a_function_of_the_generator(augmentation, channels):
    image = picture(channels)
    first = [apply(augmentation, image, seed) for seed in range(12)]
    np.testing.assert_array_equal(image, picture(channels))
    for seed, result in enumerate(first):
        assert result.shape == image.shape
        assert result.dtype == np.uint8
        np.testing.assert_array_equal(apply(augmentation, image, seed), result)
    assert any(not np.array_equal(first[0], other) for other in first[1:])


def test_flip_mirrors_at_its_probability():
    image = picture()
    mirrored = [
        np.array_equal(apply(Flip(0.3), image, seed), image[:, ::-1]) for seed in range(1000)
    ]
    kept = [np.array_equal(apply(Flip(0.3), image, seed), image) for seed in range(1000)]
    assert sum(mirrored) + sum(kept) == 1000
    assert 240 < sum(mirrored) < 360  # four deviations


@pytest.mark.parametrize('mode', ['zero', 'reflect'])
@given(pad=st.integers(0, 4), seed=st.integers(0, 10**6), channels=st.sampled_from(CHANNELS))
def test_pad_crop_is_a_window_of_the_padded_image(mode, pad, seed, channels):
    image = picture(channels, 7, 6)
    result = apply(PadCrop(pad, mode), image, seed)
    # Read the padded image by index: zero outside, or mirrored about the outermost pixels.
    windows = []
    for dy in range(-pad, pad + 1):
        for dx in range(-pad, pad + 1):
            rows, columns = np.arange(7) + dy, np.arange(6) + dx
            mirrored_rows = 6 - np.abs(6 - np.abs(rows))
            mirrored_columns = 5 - np.abs(5 - np.abs(columns))
            window = image[mirrored_rows][:, mirrored_columns].copy()
            if mode == 'zero':
                window[(rows < 0) | (rows > 6)] = 0
                window[:, (columns < 0) | (columns > 5)] = 0
            windows.append(window)
    assert any(np.array_equal(result, window) for window in windows)


def test_pad_crop_reaches_every_shift_equally():
    image = np.zeros((5, 5, 1), np.uint8)
    image[2, 2] = 1
    places = [
        np.argwhere(apply(PadCrop(2), image, seed)[..., 0]).ravel().tolist() for seed in range(2500)
    ]
    counts = np.zeros((5, 5))
    for row, column in places:
        counts[row, column] += 1
    # chi-squared with 24 degrees of freedom: p = 1e-4
    assert ((counts - 100) ** 2 / 100).sum() < 60


@given(seed=st.integers(0, 10**6))
def test_brightness_scales_by_a_factor_in_range(seed):
    image = picture() // 2
    result = apply(ColourJitter(brightness=0.4), image, seed).astype(float)
    factor = result.sum() / image.sum()
    assert 0.58 < factor < 1.42
    np.testing.assert_allclose(result, image * factor, atol=1.5)


@pytest.mark.parametrize('channels', CHANNELS)
def test_contrast_scales_about_the_mean_luminance(channels):
    image = 100 + picture(channels) // 8
    grey = image[..., 0] if channels == 1 else image @ [0.299, 0.587, 0.114]
    factors = []
    for seed in range(60):
        result = apply(ColourJitter(contrast=0.4), image, seed).astype(float)
        factor = result.std() / image.std()
        np.testing.assert_allclose(result, grey.mean() + factor * (image - grey.mean()), atol=2)
        factors.append(factor)
    assert 0.55 < min(factors) < 0.75
    assert 1.25 < max(factors) < 1.45


def test_saturation_scales_about_the_luminance_of_each_pixel():
    image = 100 + picture() // 8
    grey = (image @ [0.299, 0.587, 0.114])[..., None]
    result = apply(ColourJitter(saturation=0.4), image, 3).astype(float)
    factor = (result - grey).std() / (image - grey).std()
    assert 0.6 <= factor <= 1.4
    assert abs(factor - 1) > 0.05
    np.testing.assert_allclose(result, grey + factor * (image - grey), atol=2)


def test_hue_turns_within_its_range_and_keeps_the_value():
    image = np.full((2, 2, 3), (200, 60, 40), np.uint8)
    before = colorsys.rgb_to_hsv(*(image[0, 0] / 255))
    turns = []
    for seed in range(60):
        hue, saturation, value = colorsys.rgb_to_hsv(
            *(apply(ColourJitter(hue=0.1), image, seed)[0, 0] / 255)
        )
        turns.append((hue - before[0] + 0.5) % 1 - 0.5)
        assert abs(saturation - before[1]) < 0.03
        assert abs(value - before[2]) < 0.02
    assert -0.105 < min(turns) < -0.09
    assert 0.09 < max(turns) < 0.105


def test_grey_images_have_neither_hue_nor_saturation():
    for seed in range(5):
        found = apply(ColourJitter(saturation=0.4, hue=0.5), picture(1), seed)
        np.testing.assert_array_equal(found, picture(1))


@pytest.mark.parametrize('channels', CHANNELS)
def test_rotation_turns_about_the_centre_within_its_range(channels):
    image = smooth(channels)
    arm = centre(image) - 20
    angles = []
    for seed in range(60):
        turned = centre(apply(Rotation(20), image, seed)) - 20
        assert abs(np.linalg.norm(turned) - np.linalg.norm(arm)) < 0.2
        angles.append(np.degrees(np.arctan2(*turned[::-1]) - np.arctan2(*arm[::-1])))
    assert -21.5 < min(angles) < -14
    assert 14 < max(angles) < 21.5


def test_affine_shifts_by_whole_pixels_within_its_range():
    image = smooth(3)
    shifts = np.array(
        [centre(apply(Affine(translate=0.1), image, seed)) - centre(image) for seed in range(80)]
    )
    np.testing.assert_allclose(shifts, np.rint(shifts), atol=0.02)
    assert np.rint(shifts).min() == -4
    assert np.rint(shifts).max() == 4
    assert np.abs(np.corrcoef(shifts.T)[0, 1]) < 0.5, 'down is drawn apart from right'


def test_affine_scales_about_the_centre():
    image = smooth(1)
    arm = centre(image) - 20
    factors = []
    for seed in range(60):
        scaled = centre(apply(Affine(scale=(0.8, 1.2)), image, seed)) - 20
        factors.append(np.linalg.norm(scaled) / np.linalg.norm(arm))
        np.testing.assert_allclose(scaled, arm * factors[-1], atol=0.15)
        both = centre(apply(Affine(0.1, (0.8, 0.8)), image, seed)) - 20 - 0.8 * arm
        np.testing.assert_allclose(both, np.rint(both), atol=0.05)  # the shift is not scaled
    assert 0.77 < min(factors) < 0.88
    assert 1.12 < max(factors) < 1.23


def test_an_image_is_changed_alike_in_any_batch():
    images = np.stack([picture(seed=id) for id in range(6)])
    keys = id_keys(jax.random.key(5), jnp.arange(6))
    whole = augment(STRONG, images, keys)
    for place in (0, 3, 5):
        alone = augment(STRONG, images[place : place + 1], keys[place : place + 1])
        np.testing.assert_array_equal(alone[0], whole[place])
        assert not np.array_equal(alone[0], images[place])


def test_each_augmentation_draws_its_own():
    image = np.zeros((40, 9, 9, 1), np.uint8)
    image[:, 4, 4] = 255
    keys = id_keys(jax.random.key(1), jnp.arange(40))
    places = [np.argwhere(x)[0, :2] for x in np.asarray(augment([PadCrop(2)] * 2, image, keys))]
    reach = np.abs(np.array(places) - 4).max(0)
    assert (reach > 2).all()  # one shift twice would be even, and two cannot exceed 4
    assert (np.array(places) % 2).any()


@pytest.mark.parametrize(
    ('name', 'wrong', 'told'),
    [
        ('flip', {'p': 1.1}, 'p=1.1 .* of at least 0 and at most 1'),
        ('pad_crop', {'pad_px': -1}, 'pad_px=-1 .* at least 0'),
        ('pad_crop', {'pad_px': 1.5}, 'whole number'),
        ('pad_crop', {'pad_px': 1, 'mode': 'wrap'}, 'reflect, zero'),
        ('colour_jitter', {'brightness': -0.1}, 'brightness=-0.1'),
        ('colour_jitter', {'hue': 0.6}, 'hue=0.6 .* at most 0.5'),
        ('colour_jitter', {'contrast': float('nan')}, 'contrast=nan'),
        ('rotation', {'degrees': 200}, 'degrees=200 .* at most 180'),
        ('affine', {'translate': 2}, 'translate=2 .* at most 1'),
        ('affine', {'scale': (1.1, 0.9)}, 'low <= high'),
        ('affine', {'scale': (0, 1)}, '0 < low'),
        ('affine', {'skew': 1}, 'skew'),
    ],
)
def test_wrong_settings_are_refused(name, wrong, told):
    with pytest.raises(UserError, match=told):
        AUGMENTATIONS.make(name, **wrong)


def test_wrong_images_are_refused():
    for image in (picture()[..., 0], picture(4), picture().astype(np.float32)):
        with pytest.raises(UserError, match='cannot augment images of shape'):
            apply(Flip(), image)
    with pytest.raises(UserError, match='below 8'):
        apply(PadCrop(8, 'reflect'), picture())


def test_all_are_frozen_and_named():
    named = {type(augmentation) for augmentation in STRONG} | {AlternatingFlip}
    assert named == set(AUGMENTATIONS.values())
    with pytest.raises(dataclasses.FrozenInstanceError):
        Flip(0.5).p = 1


@pytest.mark.parametrize('scale', [(0.2, 0.4), (0.5, 0.5), (0.08, 1.0)])
def test_resized_crops_are_boxes_of_the_share_they_say(scale):
    """A ramp that is cut and enlarged is a flatter ramp: its slope tells the side of the box, its
    middle where that lay.
    """
    size, areas = 100, []
    ramp = np.broadcast_to(np.arange(size) + 50, (size, size)).astype(np.uint8)
    for seed in range(40):
        sides = []
        for image in (ramp, ramp.T):
            out = apply(ResizedCrop(scale), image[..., None], seed)[..., 0].astype(float)
            line = out.mean(0) if image is ramp else out.mean(1)
            sides.append((line[80] - line[20]) / 60 * size)
            assert sides[-1] / 2 - 1.5 <= line[50] - 50 <= size - sides[-1] / 2 + 1.5
        across, down = sides
        assert across <= size + 1.5
        assert down <= size + 1.5
        areas.append(across * down / size**2)
        if max(sides) < size - 2:
            assert 3 / 4 - 0.05 <= across / down <= 4 / 3 + 0.05
    low, high = scale
    assert low - 0.03 <= min(areas)
    assert max(areas) <= high + 0.03
    assert low == high or max(areas) - min(areas) > 0.5 * (high - low)


@pytest.mark.parametrize('scale', [(0.0, 1.0), (0.5, 0.4), (0.5, 1.1), (0.5,)])
def test_resized_crops_refuse_what_is_no_range(scale):
    with pytest.raises(UserError, match='scale'):
        ResizedCrop(scale)


def test_padding_and_flipping_give_every_window_both_ways_round():
    image = np.random.default_rng(0).random((5, 6, 2)).astype(np.float32) + 0.1
    padded = np.pad(image, ((2, 2), (2, 2), (0, 0)))
    windows = [padded[r : r + 5, c : c + 6] for r in range(5) for c in range(5)]
    expected = np.stack([window[:, ::way] for window in windows for way in (1, -1)])
    changes = jax.jit(functools.partial(change_all, (PadCrop(2), Flip(0.5))))
    keys = id_keys(jax.random.key(0), jnp.arange(800))
    seen = np.asarray(changes(jnp.broadcast_to(image, (800, *image.shape)), keys))
    which = [np.flatnonzero((expected == view).all((1, 2, 3))) for view in seen]
    assert all(len(found) == 1 for found in which)
    assert set(np.concatenate(which)) == set(range(50))
