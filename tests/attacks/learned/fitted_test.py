"""What all attacks with a fitted network have in common."""

import json

import numpy as np
import pytest
from support.made_attacks import make_trigger, picture

from purify.attacks.learned.fitted import FACTS_FILE, WEIGHTS_FILE, read_trigger, write_trigger
from purify.attacks.registry import build
from purify.core.errors import UserError

NAMES = ('sample_specific', 'input_aware', 'lira')
OWN = {'sample_specific': {'secret_bits': 6}, 'input_aware': {}, 'lira': {}}


def attack_of(name, folder, **changes):
    return build(name, load=str(folder), **(OWN[name] | changes))


@pytest.mark.parametrize('name', NAMES)
def test_a_trigger_comes_back_as_it_was_written(tmp_path, name):
    weights = make_trigger(tmp_path, name, channels=3)
    facts, read = read_trigger(tmp_path, name)
    assert facts['attack'] == name
    assert facts['channels'] == 3

    def same(a, b):
        assert a.keys() == b.keys()
        for key in a:
            if isinstance(a[key], dict):
                same(a[key], b[key])
            else:
                np.testing.assert_array_equal(a[key], b[key])
                assert a[key].dtype == b[key].dtype

    same(weights, read)


@pytest.mark.long
@pytest.mark.parametrize('name', NAMES)
def test_an_image_does_not_depend_on_its_neighbours(tmp_path, name):
    """One alone, 40 at once (two batches, the second padded) and the program of a batch of 3."""
    make_trigger(tmp_path, name)
    attack = attack_of(name, tmp_path)
    images = picture((40, 9, 9, 1))
    many = attack.stamp_many(images, range(40))
    assert many.shape == images.shape
    assert many.dtype == np.uint8
    for id in (0, 31, 32, 39):
        np.testing.assert_array_equal(attack.stamp(images[id], id), many[id])
    three = np.asarray(attack.stamp_batch(images[:3], range(3)))
    assert np.abs(three.astype(int) - many[:3]).max() <= 1
    assert (many != images).mean() > 0.05
    np.testing.assert_array_equal(attack_of(name, tmp_path).stamp_many(images, range(40)), many)


@pytest.mark.long
@pytest.mark.parametrize('name', NAMES)
def test_equality_and_digest_know_the_weights_and_not_the_path(tmp_path, name):
    for folder, seed in (('a', 0), ('b', 0), ('c', 5)):
        make_trigger(tmp_path / folder, name, seed=seed)
    first, same, other = (attack_of(name, tmp_path / folder) for folder in 'abc')
    assert first.digest() == same.digest() != other.digest()
    assert first.content == same.content != other.content
    assert attack_of(name, tmp_path / 'a') == first
    before = hash(first)
    make_trigger(tmp_path / 'a', name, seed=5)
    again = attack_of(name, tmp_path / 'a')
    assert again != first, 'the folder is the same, what lies in it is not'
    assert hash(first) == before
    assert 'weights' not in json.dumps(first.parameters())


@pytest.mark.parametrize('name', NAMES)
def test_wrong_images_are_user_errors(tmp_path, name):
    make_trigger(tmp_path, name, channels=1)
    attack = attack_of(name, tmp_path)
    with pytest.raises(UserError, match='1 channels and cannot stamp one of 3'):
        attack.stamp(picture((9, 9, 3)), 0)
    with pytest.raises(UserError, match='uint8'):
        attack.stamp(np.zeros((9, 9, 1), np.float32), 0)
    with pytest.raises(UserError, match='uint8'):
        attack.stamp(picture((9, 9)), 0)
    with pytest.raises(UserError, match='mode'):
        attack.stamp(picture((9, 9, 1)), 0, 'train')


@pytest.mark.parametrize(
    ('name', 'changes', 'told'),
    [
        ('lira', {'channels': 2}, 'channels=2'),
        ('lira', {'channels': True}, r'Expected `int`, got `bool` - at `\$.channels`'),
        ('lira', {'channels': None}, r'at `\$.channels`'),
        ('lira', {'target': 'cat'}, r'at `\$.target`'),
        ('lira', {'target': None}, r'at `\$.target`'),
        ('lira', {'network': None}, r'at `\$.network`'),
        ('lira', {'network': {'width': 'four'}}, r'at `\$.network.width`'),
        ('lira', {'network': {'width': 0}}, 'width=0'),
        ('lira', {'target': 2}, 'target=0.*fitted for target 2'),
        ('input_aware', {'target': 2}, 'target=0.*fitted for target 2'),
        ('sample_specific', {'secret_bits': None}, 'secret_bits=6'),
    ],
)
def test_wrong_facts_are_user_errors(tmp_path, name, changes, told):
    make_trigger(tmp_path, name, **({'channels': 1} if 'channels' not in changes else {}))
    facts = json.loads((tmp_path / FACTS_FILE).read_text())
    (tmp_path / FACTS_FILE).write_text(json.dumps(facts | changes))
    with pytest.raises(UserError, match=told):
        attack_of(name, tmp_path)


def test_a_secret_serves_every_target(tmp_path):
    make_trigger(tmp_path, 'sample_specific')
    facts = json.loads((tmp_path / FACTS_FILE).read_text())
    for known in (facts, {name: value for name, value in facts.items() if name != 'target'}):
        (tmp_path / FACTS_FILE).write_text(json.dumps(known))
        assert attack_of('sample_specific', tmp_path, target=3).target == 3


def rewrite(folder, name, change):
    make_trigger(folder, name)
    facts, weights = read_trigger(folder, name)
    change(weights)
    write_trigger(folder, name, facts, weights)


@pytest.mark.parametrize(
    ('name', 'change', 'told'),
    [
        (
            'lira',
            lambda w: w['generator']['leave']['bias'].fill(np.nan),
            'generator.leave.bias.*not finite',
        ),
        ('lira', lambda w: w['generator']['leave'].pop('bias'), 'not those of the network'),
        (
            'lira',
            lambda w: w['generator']['leave'].update(bias=np.zeros(1, int)),
            'not those of the network',
        ),
        ('lira', lambda w: w.update(more=np.zeros(1)), 'hold generator, more, not generator'),
        ('input_aware', lambda w: w.pop('donors'), 'not donor_ids, donors'),
        (
            'input_aware',
            lambda w: w.update(donors=w['donors'][:0], donor_ids=w['donor_ids'][:0]),
            'its donors must be',
        ),
        ('input_aware', lambda w: w.update(donors=w['donors'][:2]), 'its donors must be'),
        ('input_aware', lambda w: w.update(donors=w['donors'].repeat(3, -1)), 'its donors must be'),
        ('input_aware', lambda w: w.update(donor_ids=w['donor_ids'] / 2), 'its donors must be'),
    ],
)
def test_wrong_weights_are_user_errors(tmp_path, name, change, told):
    rewrite(tmp_path, name, change)
    with pytest.raises(UserError, match=told):
        attack_of(name, tmp_path)


def test_an_image_cannot_be_its_own_donor(tmp_path):
    rewrite(
        tmp_path,
        'input_aware',
        lambda w: w.update(donors=w['donors'][:1], donor_ids=w['donor_ids'][:1]),
    )
    attack = attack_of('input_aware', tmp_path)
    assert attack.drawn((9, 9, 1), 5, 'cover')['donor'] == 0
    with pytest.raises(UserError, match='only donor is image 0 itself'):
        attack.drawn((9, 9, 1), 0, 'cover')


@pytest.mark.parametrize('name', NAMES)
@pytest.mark.parametrize('load', [5, None, ['a'], '~no_such_user_at_all/x'])
def test_load_is_a_path(name, load):
    with pytest.raises(UserError, match='load='):
        build(name, load=load)


def test_no_images_are_a_user_error(tmp_path):
    make_trigger(tmp_path, 'lira')
    with pytest.raises(UserError, match='0 images'):
        attack_of('lira', tmp_path).stamp_many([], [])
    with pytest.raises(UserError, match='cannot stamp'):
        attack_of('lira', tmp_path).stamp(None, 0)


def test_wrong_folders_are_user_errors(tmp_path):
    make_trigger(tmp_path, 'lira')
    with pytest.raises(UserError, match=FACTS_FILE):
        attack_of('lira', tmp_path / 'nowhere')
    with pytest.raises(UserError, match="'lira', not of 'input_aware'"):
        attack_of('input_aware', tmp_path)
    facts = json.loads((tmp_path / FACTS_FILE).read_text())
    (tmp_path / FACTS_FILE).write_text(json.dumps(facts | {'network': {'width': 8}}))
    with pytest.raises(UserError, match='not those of the network'):
        attack_of('lira', tmp_path)
    (tmp_path / WEIGHTS_FILE).write_bytes(b'\xff' * 40)
    with pytest.raises(UserError, match='missing or broken'):
        attack_of('lira', tmp_path)
