import dataclasses
import json
import pickle

import numpy as np
import pytest

from purify.attacks.attack import MODES
from purify.attacks.registry import ATTACKS, build
from purify.core.errors import UserError

FITTED = {'sample_specific', 'input_aware', 'lira'}  # made from a fitted trigger alone
UNSTAMPED = {'none', 'relabel_only'}
KEEPS_LABELS = {'none', 'sinusoid', 'label_consistent'}
NAMES = sorted(set(ATTACKS) - FITTED)


@pytest.mark.parametrize('channels', [1, 3])
@pytest.mark.parametrize('name', NAMES)
def test_attacks_share_one_interface(name, channels):
    attack = build(name, target=3, seed=11)
    image = np.random.default_rng(0).integers(0, 256, (8, 8, channels), np.uint8)
    before = image.copy()
    stamped = attack.stamp(image, 4)
    assert not np.shares_memory(stamped, image)
    np.testing.assert_array_equal(image, before)
    assert np.array_equal(stamped, image) == (name in UNSTAMPED) == (not attack.has_trigger)
    assert attack.relabel(1) == (1 if name in KEEPS_LABELS else 3)
    assert attack.goal(1) == 3
    again = build(name, **json.loads(json.dumps(attack.parameters())))
    assert again == attack
    assert again.digest() == attack.digest()
    with pytest.raises(dataclasses.FrozenInstanceError):
        attack.target = 1


@pytest.mark.parametrize('name', NAMES)
def test_attacks_reach_workers_and_programs(name):
    attack = build(name)
    copy = pickle.loads(pickle.dumps(attack))
    assert copy == attack
    assert hash(copy) == hash(attack), 'a jitted program is kept by the attack it was made for'
    image = np.zeros((8, 8, 3), np.uint8)
    np.testing.assert_array_equal(copy.stamp(image, 1), attack.stamp(image, 1))


@pytest.mark.parametrize('name', NAMES)
def test_attacks_differ_by_kind_target_and_seed(name):
    digests = {build(name).digest(), build(name, target=1).digest(), build(name, seed=1).digest()}
    assert len(digests) == 3
    assert not digests & {build(other).digest() for other in NAMES if other != name}


@pytest.mark.parametrize('name', sorted(FITTED))
def test_fitted_attacks_ask_for_their_trigger(name):
    with pytest.raises(UserError, match='load'):
        build(name)


@pytest.mark.parametrize('name', NAMES)
def test_all_attacks_answer_a_wrong_mode(name):
    with pytest.raises(UserError, match=', '.join(sorted(MODES))):
        build(name).stamp(np.zeros((8, 8, 3), np.uint8), 0, 'train')


def test_wrong_names_and_arguments_are_user_errors():
    with pytest.raises(UserError, match="Did you mean 'patch'"):
        ATTACKS.make('path', target=0, seed=0, size_px=1)
    with pytest.raises(UserError, match='size_pix'):
        ATTACKS.make('patch', target=0, seed=0, size_pix=1)
