import dataclasses

import numpy as np
import pytest

from purify.core.errors import UserError
from purify.train.class_batches import Fit, divide, padded

COUNTS = (8, 30, 13)
LABELS = np.random.default_rng(0).permutation(np.repeat(np.arange(3), COUNTS)).astype(np.int32)
IDS = 1000 - 7 * np.random.default_rng(1).permutation(len(LABELS))


def test_a_share_of_each_class_is_held_out():
    classes = divide(LABELS, IDS, 3, Fit(hold_out=0.25), 0)
    assert [len(rows) for rows in classes.held] == [2, 8, 3]
    for label in range(3):
        both = np.concatenate([classes.train[label], classes.held[label]])
        np.testing.assert_array_equal(np.sort(both), np.flatnonzero(label == LABELS))
    assert [len(rows) for rows in divide(LABELS, IDS, 3, Fit(hold_out=0.0), 0).held] == [0, 0, 0]
    assert [len(rows) for rows in divide(LABELS, IDS, 3, Fit(hold_out=0.01), 0).held] == [1, 1, 1]


def test_ids_and_the_seed_say_which_and_when_not_the_order_of_the_rows():
    fit, order = Fit(batch=4), np.random.default_rng(2).permutation(len(IDS))
    one, other, third = divide(LABELS, IDS, 3, fit, 0), divide(LABELS[order], IDS[order], 3, fit, 0), divide(LABELS, IDS, 3, fit, 1)
    for mine, yours in zip(one.train + one.held, other.train + other.held, strict=True):
        np.testing.assert_array_equal(IDS[mine], IDS[order][yours])
    assert any(not np.array_equal(mine, yours) for mine, yours in zip(one.held, third.held, strict=True))
    np.testing.assert_array_equal(one.picks(3, 8)[0], other.picks(3, 8)[0])
    assert not np.array_equal(one.picks(3, 8)[0], third.picks(3, 8)[0])


@pytest.mark.parametrize('batch', [4, 5, 16])
def test_every_pass_is_over_every_row_once(batch):
    classes = divide(LABELS, IDS, 3, Fit(epochs=6.0, batch=batch, hold_out=0.0), 0)
    length = classes.longest()
    batches = [classes.picks(epoch, length) for epoch in range(classes.rounds)]
    for label, count in enumerate(COUNTS):
        updates = [int(live[label].sum()) for _, live in batches]
        assert sum(updates) == round(6 * max(count / batch, 1)) == classes.until(6)[label]
        if count < batch:
            assert updates == [1] * 6
        seen = np.concatenate([picks[label][live[label]].ravel() for picks, live in batches])
        passes = [seen[start : start + count] for start in range(0, len(seen) // count * count, count)]
        assert len(passes) >= 5
        assert all(sorted(rows) == list(range(count)) for rows in passes)
        assert len({tuple(rows) for rows in passes}) == len(passes)


def test_an_epoch_may_be_cut_short():
    classes = divide(LABELS, IDS, 3, Fit(epochs=1.5, batch=5, hold_out=0.0), 0)
    assert classes.rounds == 2
    np.testing.assert_array_equal(classes.until(0), 0)
    np.testing.assert_array_equal(classes.until(1), [2, 6, 3])
    np.testing.assert_array_equal(classes.until(2), [2, 9, 4])  # 1.5 x 8/5, 30/5, 13/5, to the nearest, ties to even
    picks, live = classes.picks(1, 4)
    assert picks.shape == (3, 4, 5)
    np.testing.assert_array_equal(live.sum(1), [0, 3, 1])


def test_features_are_laid_class_by_class():
    features = np.random.default_rng(0).normal(size=(6, 2)).astype(np.float32)
    whole = padded(features, [np.array([4, 1]), np.array([], int), np.array([0])])
    np.testing.assert_array_equal(whole, [features[[4, 1]], np.zeros((2, 2)), [features[0], [0, 0]]])
    assert padded(features, [np.array([], int)] * 2).shape == (2, 1, 2)


def test_a_class_of_few_images_is_named():
    labels = np.array([0] * 8 + [1] * 7 + [2] * 9)
    with pytest.raises(UserError, match='class 1 has 7 images'):
        divide(labels, np.arange(len(labels)), 3, Fit(), 0)
    with pytest.raises(UserError, match='class 3 has 0 images'):
        divide(np.repeat(np.arange(3), 9), np.arange(27), 4, Fit(), 0)


@pytest.mark.parametrize(
    ('name', 'value'),
    [('epochs', 0.0), ('batch', 0), ('lr', -1.0), ('b1', 1.0), ('b2', -0.1), ('hold_out', 0.95), ('hold_out', float('nan'))],
)
def test_settings_out_of_range_are_refused(name, value):
    with pytest.raises(UserError, match=f'{name}={value}'):
        dataclasses.replace(Fit(), **{name: value})
