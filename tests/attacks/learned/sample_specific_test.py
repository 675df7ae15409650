import numpy as np
import pytest
from support.made_attacks import BITS, encoder, make_trigger, picture

from purify.attacks.learned.sample_specific import SampleSpecific
from purify.core.errors import UserError


def attack_of(folder, **changes):
    return SampleSpecific(**({'load': str(folder), 'secret_bits': BITS} | changes))


@pytest.mark.long
@pytest.mark.parametrize('shape', [(8, 8, 1), (13, 10, 3), (33, 32, 1)])
def test_stamp_adds_what_the_encoder_says(tmp_path, shape):
    weights = make_trigger(tmp_path, 'sample_specific', channels=shape[-1])
    attack = attack_of(tmp_path, seed=3)
    image = picture(shape)
    secret = attack.shared(shape, 'test')['secret']
    residual = encoder(image / 255, secret.astype(np.float64), weights['encoder'])
    wanted = np.clip(np.rint((image / 255 + residual) * 255), 0, 255)
    assert np.abs(attack.stamp(image, 0) - wanted).max() <= 1
    assert np.abs(residual).mean() > 0.02, 'a trigger that does nothing would agree, too'


def test_the_residual_is_the_images_own_and_the_secret_one_for_all(tmp_path):
    make_trigger(tmp_path, 'sample_specific')
    attack = attack_of(tmp_path, seed=3)
    # away from the ends, where clipping would hide the residual
    images = picture((2, 8, 8, 1)) // 2 + 64
    stamped = attack.stamp_many(images, [0, 1]).astype(int)
    assert (stamped - images)[0].tolist() != (stamped - images)[1].tolist()
    np.testing.assert_array_equal(attack.stamp(images[0], 99), stamped[0])


def test_the_seed_draws_the_secret(tmp_path):
    make_trigger(tmp_path, 'sample_specific')
    secrets = np.stack(
        [attack_of(tmp_path, seed=seed).shared((8, 8, 1), 'test')['secret'] for seed in range(200)]
    )
    assert set(np.unique(secrets)) == {0, 1}
    assert secrets.mean(0) == pytest.approx(0.5, abs=0.15)
    image = picture((8, 8, 1))
    assert (
        attack_of(tmp_path, seed=0).stamp(image, 0) != attack_of(tmp_path, seed=1).stamp(image, 0)
    ).any()


def test_the_secret_must_have_the_fitted_length(tmp_path):
    make_trigger(tmp_path, 'sample_specific')
    with pytest.raises(UserError, match=f'secret_bits=20.*hides {BITS}'):
        SampleSpecific(load=str(tmp_path))
    with pytest.raises(UserError, match='secret_bits=0'):
        attack_of(tmp_path, secret_bits=0)
