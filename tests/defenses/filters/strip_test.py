import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from support.made_scores import CLASSES, IMAGES, SHAPE, WEIGHTS, WIDTH, by_hand, check_rows, scored

from purify.core.errors import UserError
from purify.defenses.filters.score_filter import score
from purify.defenses.filters.strip import Strip, entropies

USUAL = Strip(**score('strip', draws=5))
OVERLAYS = np.random.default_rng(4).integers(0, 256, (5, *SHAPE), np.uint8)


@pytest.mark.long
@pytest.mark.parametrize('weights', [{}, {'image': 0.5, 'overlay': 0.5}, {'overlay': 0.3}])
def test_the_score_is_minus_the_mean_entropy_under_the_overlays(weights):
    measure = dataclasses.replace(USUAL, **weights)
    wanted = []
    for image in IMAGES / 255:
        total = 0.0
        for overlay in OVERLAYS / 255:
            logits = by_hand(
                np.minimum(measure.image * image + measure.overlay * overlay, 1)[None]
            )[0][0]
            p = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
            total -= sum(share * np.log(share) for share in p if share > 0)
        wanted.append(-total / len(OVERLAYS))
    found = scored(measure, drawn=OVERLAYS)['score']
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-6)


def test_certainty_has_no_entropy_and_ignorance_the_most():
    found = entropies(jnp.array([[0.0, -1e4, -2e4], [0.0, 0.0, 0.0], [jnp.nan, 0.0, 0.0]]))
    np.testing.assert_allclose(found[:2], [0, np.log(3)], atol=1e-6)
    assert np.isnan(found[2])


def test_an_image_that_decides_whatever_lies_over_it_scores_higher():
    """The body reads one pixel, which is white in half of the images and black in the overlays."""
    body = np.zeros((SHAPE[0] * SHAPE[1], SHAPE[2], WIDTH))
    body[7] = 4
    images, overlays = IMAGES.copy(), OVERLAYS.copy()
    images[:, 1, 1], overlays[:, 1, 1] = 0, 0
    images[::2, 1, 1] = 255
    head = np.zeros((WIDTH, CLASSES))
    head[:, 0] = 2
    found = scored(
        USUAL,
        images,
        drawn=overlays,
        weights=WEIGHTS | {'body': body.reshape(-1, WIDTH), 'head': head},
    )['score']
    assert found[::2].min() > -1e-3
    np.testing.assert_allclose(found[1::2], -np.log(CLASSES), rtol=1e-4)


@pytest.mark.long
def test_rows_do_not_meet():
    check_rows(USUAL, drawn=OVERLAYS)


@pytest.mark.parametrize(
    'bad',
    [{'draws': 0}, {'draws': 2.0}, {'image': 0.0}, {'overlay': -1.0}, {'overlay': float('nan')}],
)
def test_settings_that_say_nothing_are_refused(bad):
    with pytest.raises(UserError, match='strip'):
        dataclasses.replace(USUAL, **bad)
