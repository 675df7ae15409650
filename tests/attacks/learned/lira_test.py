import numpy as np
import pytest
from support.made_attacks import make_trigger, picture, unet

from purify.attacks.learned.lira import Lira
from purify.core.errors import UserError


@pytest.mark.long
@pytest.mark.parametrize(('shape', 'epsilon'), [((8, 8, 1), 0.05), ((11, 9, 3), 0.3)])
def test_stamp_moves_pixels_by_epsilon_tanh(tmp_path, shape, epsilon):
    weights = make_trigger(tmp_path, 'lira', channels=shape[-1])
    image = picture(shape)
    stamped = Lira(load=str(tmp_path), epsilon=epsilon).stamp(image, 0)
    output = unet(image / 255 - 0.5, weights['generator'])
    wanted = np.rint(255 * np.clip(image / 255 + epsilon * np.tanh(output), 0, 1))
    assert np.abs(stamped - wanted).max() <= 1
    moved = np.abs(stamped.astype(int) - image)
    assert moved.max() <= np.ceil(255 * epsilon)
    assert moved.mean() > 10 * epsilon


def test_the_released_epsilon_does_not_outlive_eight_bits(tmp_path):
    """What the docstring says: .01 of a standard deviation of about .25 leaves every pixel but a
    few where it was.
    """
    make_trigger(tmp_path, 'lira')
    image = picture((9, 9, 1))
    found = Lira(load=str(tmp_path), epsilon=0.01 * 0.19).stamp(image, 0)
    np.testing.assert_array_equal(found, image)
    assert (Lira(load=str(tmp_path)).stamp(image, 0) != image).mean() > 0.5


@pytest.mark.parametrize('epsilon', [0, -0.1, 1.5, float('nan')])
def test_epsilon_is_a_share_of_the_range(tmp_path, epsilon):
    make_trigger(tmp_path, 'lira')
    with pytest.raises(UserError, match='epsilon'):
        Lira(load=str(tmp_path), epsilon=epsilon)
