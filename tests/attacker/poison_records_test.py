import numpy as np
import pytest

from purify.attacker.poison_records import FixedPoison, RandomPoison, poison_records


class Stamp:
    """Puts the id (and in cover 100 more) into the first pixel; every label becomes `target`."""

    def __init__(self, target=2):
        self.target, self.calls = target, []

    def stamp_many(self, images, ids, mode):
        self.calls.append((mode, list(ids)))
        out = np.stack(images)
        out[:, 0, 0, 0] = np.array(ids) % 100 + 100 * (mode == 'cover')
        return out

    def relabel(self, label):
        return self.target


def record(identity, label=1):
    return {
        'id': np.int64(identity),
        'image': np.zeros((2, 2, 1), np.uint8),
        'label': np.int64(label),
        'variation': 4,
    }


def draw(poison, identity, seed, label=1):
    return poison.random_map(record(identity, label), np.random.default_rng(seed))


def is_poisoned(found):
    return found['label'] == 2


def test_records_are_stamped_by_their_role_each_attack_once():
    attacks = [Stamp(2), Stamp(3)]
    records = [record(i) for i in range(5)]
    found = poison_records(
        attacks, records, [(0, 'training'), None, (1, 'training'), (0, 'training'), (1, 'cover')]
    )
    assert [int(row['label']) for row in found] == [2, 1, 3, 2, 1]
    assert [int(row['image'][0, 0, 0]) for row in found] == [0, 0, 2, 3, 104]
    assert attacks[0].calls == [('training', [0, 3])]
    assert attacks[1].calls == [('training', [2]), ('cover', [4])]
    assert found[1] is records[1]
    assert not records[2]['image'].any()
    assert found[2]['label'].dtype == records[2]['label'].dtype
    assert (found[2]['id'], found[2]['variation']) == (2, 4)


@pytest.mark.parametrize('seed', range(5))
def test_a_fixed_subset_is_poisoned_at_every_draw(seed):
    poison = FixedPoison([Stamp()], {3: (0, 'training'), 5: (0, 'training'), 6: (0, 'cover')})
    found = [identity for identity in range(1, 8) if is_poisoned(draw(poison, identity, seed))]
    assert found == [3, 5]
    assert draw(poison, 6, seed)['image'][0, 0, 0] == 106


def test_at_random_the_rates_hold_and_draws_of_one_image_differ():
    poison = RandomPoison([Stamp()], frozenset({1}), frozenset({1}), rate=0.3, cover_rate=0.2)
    found = [draw(poison, 3, seed) for seed in range(2000)]
    hits = np.mean([is_poisoned(row) for row in found])
    covers = np.mean([row['label'] == 1 and row['image'].any() for row in found])
    assert abs(hits - 0.3) < 5 * np.sqrt(0.3 * 0.7 / 2000)
    assert abs(covers - 0.2) < 5 * np.sqrt(0.2 * 0.8 / 2000)
    assert all(row['id'] == 3 for row in found)
    seen = len({int(row['image'][0, 0, 0]) for row in found})
    assert seen > 50, 'what the trigger draws is drawn anew'


def test_at_random_other_classes_are_left_alone_or_cover_only():
    poison = RandomPoison([Stamp()], frozenset({1}), frozenset({0}), rate=1.0, cover_rate=0.5)
    assert not any(draw(poison, 3, seed, label=2)['image'].any() for seed in range(50))
    assert all(is_poisoned(draw(poison, 3, seed, label=1)) for seed in range(50))
    zero = [draw(poison, 3, seed, label=0) for seed in range(50)]
    assert not any(map(is_poisoned, zero))
    assert 5 < sum(bool(row['image'].any()) for row in zero) < 45


def test_several_attacks_take_turns():
    poison = RandomPoison([Stamp(2), Stamp(3)], frozenset({1}), frozenset(), 1.0, 0.0)
    labels = [int(draw(poison, 3, seed)['label']) for seed in range(200)]
    assert 60 < labels.count(2) < 140
    assert labels.count(2) + labels.count(3) == 200


def test_a_rate_of_zero_poisons_nobody():
    poison = RandomPoison([Stamp()], frozenset({1}), frozenset(), 0.0, 0.0)
    assert not any(is_poisoned(draw(poison, 3, seed)) for seed in range(50))
