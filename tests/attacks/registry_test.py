import dataclasses
import json

import numpy as np
import pytest

from purify.attacks.registry import ATTACKS
from purify.core.errors import UserError

SETTINGS = {'none': {}, 'patch': {'size_px': 2}, 'blended': {'ratio': 0.3}}


def test_every_attack_is_tested_here():
    assert set(SETTINGS) == set(ATTACKS)


@pytest.mark.parametrize('channels', [1, 3])
@pytest.mark.parametrize('name', sorted(SETTINGS))
def test_attacks_share_one_interface(name, channels):
    attack = ATTACKS.make(name, target=3, seed=11, **SETTINGS[name])
    image = np.random.default_rng(0).integers(0, 256, (8, 8, channels), np.uint8)
    before = image.copy()
    stamped = attack.stamp(image, 4)
    assert not np.shares_memory(stamped, image)
    np.testing.assert_array_equal(image, before)
    assert np.array_equal(stamped, image) == (name == 'none')
    assert attack.relabel(1) == (1 if name == 'none' else 3)
    again = ATTACKS.make(name, **json.loads(json.dumps(attack.parameters())))
    assert again.digest() == attack.digest()
    with pytest.raises(dataclasses.FrozenInstanceError):
        attack.target = 1


def test_wrong_names_and_arguments_are_user_errors():
    with pytest.raises(UserError, match="Did you mean 'patch'"):
        ATTACKS.make('path', target=0, seed=0, size_px=1)
    with pytest.raises(UserError, match='size_pix'):
        ATTACKS.make('patch', target=0, seed=0, size_pix=1)
