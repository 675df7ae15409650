import dataclasses

import jax
import numpy as np
import pytest
from support.made_scores import (
    CLASSES,
    IDS,
    IMAGES,
    SHAPE,
    WEIGHTS,
    WIDTH,
    by_hand,
    check_rows,
    scored,
)

from purify.core.errors import UserError
from purify.core.randomness import stream_key
from purify.defenses.filters.cognitive_distillation import CognitiveDistillation
from purify.defenses.filters.score_filter import score

USUAL = CognitiveDistillation(**score('cognitive_distillation'))


def colours(identity, step, seed=5):
    key = jax.random.fold_in(
        jax.random.fold_in(stream_key(seed, 'cognitive distillation'), identity), step
    )
    return np.asarray(jax.random.uniform(key, (SHAPE[2],)), np.float64)


def slope(image, mask, colour, wanted, measure):
    """The gradient [h w] of one image's loss by its mask, and the loss, in float64, by hand."""
    height, width = SHAPE[:2]
    mixed = image * mask[..., None] + (1 - mask[..., None]) * colour
    logits, features = by_hand(mixed[None])
    off = (logits if measure.on == 'logits' else features)[0] - wanted
    pull = np.sign(off) / len(off)
    back = pull if measure.on == 'features' else WEIGHTS['head'] @ pull
    by_pixel = (WEIGHTS['body'] @ (back * (1 - features[0] ** 2))).reshape(SHAPE)
    gradient = (by_pixel * (image - colour)).sum(-1) + measure.gamma
    rough = 0.0
    for i in range(height):
        for j in range(width):
            for k, m in ((i + 1, j), (i, j + 1)):
                if k < height and m < width:
                    step = mask[k, m] - mask[i, j]
                    rough += step**2 / (height * width)
                    gradient[k, m] += 2 * measure.beta * step / (height * width)
                    gradient[i, j] -= 2 * measure.beta * step / (height * width)
    return gradient, np.abs(off).mean() + measure.gamma * mask.sum() + measure.beta * rough


def distilled(image, identity, measure):
    """Adam with both moments at .1, by hand -> (final mask, its losses)."""
    wanted = by_hand(image[None])[0 if measure.on == 'logits' else 1][0]
    raw, first, second, losses = np.ones(SHAPE[:2]), np.zeros(SHAPE[:2]), np.zeros(SHAPE[:2]), []
    for step in range(measure.steps):
        mask = (np.tanh(raw) + 1) / 2
        gradient, loss = slope(image, mask, colours(identity, step), wanted, measure)
        gradient = gradient * 2 * mask * (1 - mask)
        first, second = 0.1 * first + 0.9 * gradient, 0.1 * second + 0.9 * gradient**2
        share = 1 - 0.1 ** (step + 1)
        raw -= measure.lr * (first / share) / (np.sqrt(second / share) + 1e-8)
        losses.append(loss)
    return (np.tanh(raw) + 1) / 2, losses


@pytest.mark.long
@pytest.mark.parametrize(
    'changes', [{}, {'on': 'features', 'gamma': 0.001}, {'beta': 10.0, 'lr': 0.05, 'gamma': 0.03}]
)
def test_the_score_is_minus_the_size_of_the_mask_that_adam_finds(changes):
    measure = dataclasses.replace(USUAL, **changes)
    found = scored(measure)['score']
    by_id = [
        distilled(image / 255, int(i), measure)[0].sum()
        for image, i in zip(IMAGES, IDS, strict=True)
    ]
    np.testing.assert_allclose(found, -np.array(by_id), rtol=2e-3)
    assert np.ptp(found) > 0.1


def test_the_gradient_by_hand_is_that_of_the_loss():
    image = IMAGES[0] / 255
    mask = np.random.default_rng(1).uniform(size=SHAPE[:2])
    colour = np.array([0.2, 0.7])
    wanted = np.random.default_rng(2).normal(size=CLASSES)
    gradient, before = slope(image, mask, colour, wanted, USUAL)
    moved = mask.copy()
    moved[2, 3] += 1e-6
    expected = pytest.approx(gradient[2, 3], rel=1e-3)
    assert (slope(image, moved, colour, wanted, USUAL)[1] - before) / 1e-6 == expected


def test_an_answer_that_hangs_on_few_pixels_leaves_a_small_mask():
    """The first two images' features come of one pixel, those of the rest of all."""
    body = np.zeros((SHAPE[0] * SHAPE[1], SHAPE[2], WIDTH))
    body[7] = np.random.default_rng(3).normal(size=(SHAPE[2], WIDTH)) * 3
    lone = scored(
        dataclasses.replace(USUAL, gamma=0.05), weights=WEIGHTS | {'body': body.reshape(-1, WIDTH)}
    )['score']
    spread = scored(dataclasses.replace(USUAL, gamma=0.05))['score']
    assert lone.min() > spread.max()


@pytest.mark.long
def test_rows_do_not_meet():
    check_rows(USUAL)
    check_rows(dataclasses.replace(USUAL, on='features', steps=10))


@pytest.mark.long
def test_colours_are_of_the_seed_and_the_image():
    first, second = scored(USUAL), scored(USUAL, seed=6)
    assert (first['score'] != second['score']).all()
    other = scored(USUAL, ids=IDS + 1)
    assert (first['score'] != other['score']).all()


BAD = ({'on': 'maps'}, {'steps': 0}, {'steps': 2.5}, {'lr': 0.0}, {'gamma': 0.0}, {'beta': -1.0})
BAD += ({'gamma': float('nan')},)


@pytest.mark.parametrize('bad', BAD)
def test_settings_that_say_nothing_are_refused(bad):
    with pytest.raises(UserError, match='cognitive_distillation'):
        dataclasses.replace(USUAL, **bad)
