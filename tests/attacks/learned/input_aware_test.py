import cv2
import numpy as np
import pytest
from support.made_attacks import make_trigger, picture, unet

from purify.attacks.learned.input_aware import InputAware


def by_hand(image, giver, weights):
    """The formula in float64: whose mask and pattern, onto which image."""
    x, g = image / 255, giver / 255 - 0.5
    mask = np.tanh(20 * np.tanh(unet(g, weights['mask'])) - 10) / 2 + 0.5
    pattern = (np.tanh(unet(g, weights['pattern'])) + 1) / 2
    return 255 * (x + (pattern - x) * mask), mask


@pytest.mark.long
@pytest.mark.parametrize('shape', [(8, 8, 1), (11, 9, 3)])
@pytest.mark.parametrize('mode', ['test', 'training'])
def test_stamp_mixes_the_pattern_in_where_the_mask_is(tmp_path, shape, mode):
    weights = make_trigger(tmp_path, 'input_aware', channels=shape[-1])
    image = picture(shape)
    wanted, mask = by_hand(image, image, weights)
    assert mask.min() < 0.01
    assert mask.max() > 0.5
    assert np.abs(InputAware(load=str(tmp_path)).stamp(image, 0, mode) - wanted).max() <= 1.5


@pytest.mark.parametrize('channels', [1, 3])
def test_a_cover_carries_the_trigger_of_its_donor(tmp_path, channels):
    weights = make_trigger(tmp_path, 'input_aware', channels=channels)
    attack = InputAware(load=str(tmp_path), seed=4)
    image = picture((9, 9, channels), 7)
    for id in range(3):
        donor = int(attack.drawn(image.shape, id, 'cover')['donor'])
        wanted, _ = by_hand(image, weights['donors'][donor], weights)
        assert np.abs(attack.stamp(image, id, 'cover') - wanted).max() <= 1.5


def test_donors_are_brought_to_the_size_of_the_image(tmp_path):
    """Bilinear, as OpenCV enlarges; one level apart at most."""
    weights = make_trigger(tmp_path, 'input_aware', channels=3)
    donors = InputAware(load=str(tmp_path)).shared((17, 20, 3), 'cover')['donors']
    assert donors.shape == (5, 17, 20, 3)
    for donor, original in zip(donors, weights['donors'], strict=True):
        wanted = cv2.resize(original, (20, 17), interpolation=cv2.INTER_LINEAR)
        assert np.abs(donor.astype(int) - wanted).max() <= 1


def test_donors_are_drawn_by_seed_and_id_and_never_the_image_itself(tmp_path):
    weights = make_trigger(tmp_path, 'input_aware')
    attack = InputAware(load=str(tmp_path), seed=1)
    shape = (9, 9, 1)
    for id in weights['donor_ids'].tolist():
        drawn = [
            int(InputAware(load=str(tmp_path), seed=s).drawn(shape, id, 'cover')['donor'])
            for s in range(40)
        ]
        assert id not in weights['donor_ids'][drawn]
        assert len(set(drawn)) == 4, 'all others take their turn'
    draws = [int(attack.drawn(shape, id, 'cover')['donor']) for id in range(1, 400)]
    assert np.bincount(draws, minlength=5).min() > 40
    assert draws == [int(attack.drawn(shape, id, 'cover')['donor']) for id in range(1, 400)]
    assert attack.drawn(shape, 3, 'test') == {}
