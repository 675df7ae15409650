import numpy as np
import pytest

from purify.data.poison import Poisoner


class Stamp:
    """Puts the id into the first pixel; every label becomes 2."""

    def stamp(self, image, identity):
        image = image.copy()
        image[0, 0, 0] = identity
        return image

    def relabel(self, label):
        return 2


def record(identity, label=1):
    return {'id': np.int64(identity), 'image': np.zeros((2, 2, 1), np.uint8), 'label': np.int64(label), 'variation': 4}


def draw(poisoner, identity, seed, label=1):
    return poisoner.random_map(record(identity, label), np.random.default_rng(seed))


def is_poisoned(found):
    return bool(found['image'].any())


@pytest.mark.parametrize('seed', range(5))
def test_a_fixed_subset_is_poisoned_at_every_draw(seed):
    poisoner = Poisoner(Stamp(), frozenset({3, 5}), rate=0.0, spared=None)
    assert [identity for identity in range(1, 8) if is_poisoned(draw(poisoner, identity, seed))] == [3, 5]


def test_a_poisoned_record_is_stamped_and_relabelled_and_the_rest_stays():
    before = record(3)
    found = Poisoner(Stamp(), frozenset({3}), 0.0, None).random_map(before, np.random.default_rng(0))
    assert found['image'][0, 0, 0] == 3
    assert (found['label'], found['id'], found['variation']) == (2, 3, 4)
    assert found['label'].dtype == before['label'].dtype
    assert not before['image'].any()
    assert before['label'] == 1


def test_the_target_class_is_relabelled_too_where_its_ids_are_in_the_subset():
    assert is_poisoned(draw(Poisoner(Stamp(), frozenset({3}), 0.0, spared=2), 3, 0, label=2))


def test_at_random_the_rate_holds_and_draws_of_one_image_differ():
    poisoner = Poisoner(Stamp(), None, rate=0.3, spared=None)
    hits = np.array([is_poisoned(draw(poisoner, 3, seed)) for seed in range(2000)])
    assert abs(hits.mean() - 0.3) < 5 * np.sqrt(0.3 * 0.7 / 2000)


def test_at_random_the_spared_class_is_left_alone():
    poisoner = Poisoner(Stamp(), None, rate=1.0, spared=2)
    assert not any(is_poisoned(draw(poisoner, 3, seed, label=2)) for seed in range(50))
    assert all(is_poisoned(draw(poisoner, 3, seed, label=1)) for seed in range(50))


def test_a_rate_of_zero_poisons_nobody():
    assert not any(is_poisoned(draw(Poisoner(Stamp(), None, 0.0, None), 3, seed)) for seed in range(50))
