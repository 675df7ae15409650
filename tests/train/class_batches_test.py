import dataclasses

import numpy as np
import pytest

from purify.core.errors import UserError
from purify.train.class_batches import Classes, Fit, divide

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
    one = divide(LABELS, IDS, 3, fit, 0)
    other = divide(LABELS[order], IDS[order], 3, fit, 0)
    third = divide(LABELS, IDS, 3, fit, 1)
    for mine, yours in zip(one.train + one.held, other.train + other.held, strict=True):
        np.testing.assert_array_equal(IDS[mine], IDS[order][yours])
    assert any(
        not np.array_equal(mine, yours) for mine, yours in zip(one.held, third.held, strict=True)
    )
    (picks, live), (places, alive) = one.picks(3, 8), other.picks(3, 8)
    np.testing.assert_array_equal(live, alive)
    np.testing.assert_array_equal(IDS[picks[live]], IDS[order][places[live]])
    assert not np.array_equal(picks, third.picks(3, 8)[0])


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
        passes = [
            seen[start : start + count] for start in range(0, len(seen) // count * count, count)
        ]
        assert len(passes) >= 5
        assert all(
            np.array_equal(np.sort(rows), np.flatnonzero(label == LABELS)) for rows in passes
        )
        assert len({tuple(rows) for rows in passes}) == len(passes)


def test_an_epoch_may_be_cut_short():
    classes = divide(LABELS, IDS, 3, Fit(epochs=1.5, batch=5, hold_out=0.0), 0)
    assert classes.rounds == 2
    np.testing.assert_array_equal(classes.until(0), 0)
    np.testing.assert_array_equal(classes.until(1), [2, 6, 3])
    # 1.5 x 8/5, 30/5, 13/5, to the nearest, ties to even
    np.testing.assert_array_equal(classes.until(2), [2, 9, 4])
    picks, live = classes.picks(1, 4)
    assert picks.shape == (3, 4, 5)
    np.testing.assert_array_equal(live.sum(1), [0, 3, 1])


def test_flows_of_a_class_have_its_rows_in_orders_of_their_own():
    classes = divide(LABELS, IDS, 3, Fit(epochs=1.0, batch=1, hold_out=0.25, members=2), 0)
    picks, live = classes.picks(0, classes.longest())
    for number in range(6):
        found = np.sort(picks[number][live[number]].ravel())
        np.testing.assert_array_equal(found, np.sort(classes.train[number]))
        assert not set(picks[number][live[number]].ravel()) & set(classes.held[number])
    for label, count in enumerate((6, 22, 10)):
        one, other = picks[2 * label : 2 * label + 2, :count, 0]
        assert sorted(one) == sorted(other) != list(one) != list(other)


def test_rows_held_out_lie_side_by_side():
    held = [np.array([4, 1]), np.array([], int), np.array([5])]
    places, counts = Classes([np.arange(9)] * 3, held, Fit(), 0).apart()
    np.testing.assert_array_equal(places, [[4, 1], [0, 0], [5, 0]])
    np.testing.assert_array_equal(counts, [2, 0, 1])
    assert Classes([np.arange(9)] * 2, [np.array([], int)] * 2, Fit(), 0).apart()[0].shape == (2, 1)


def test_a_class_of_few_images_is_named():
    labels = np.array([0] * 8 + [1] * 7 + [2] * 9)
    with pytest.raises(UserError, match='class 1 has 7 images'):
        divide(labels, np.arange(len(labels)), 3, Fit(), 0)
    with pytest.raises(UserError, match='class 3 has 0 images'):
        divide(np.repeat(np.arange(3), 9), np.arange(27), 4, Fit(), 0)


def test_epochs_too_few_for_an_update_of_a_class_are_refused():
    fit = Fit(epochs=0.5, batch=10, hold_out=0.25)  # of 6, 22 and 10 rows
    said = r'fit.epochs=0.5 of the 6 images that class 0 .* 10, is no update'
    with pytest.raises(UserError, match=said):
        divide(LABELS, IDS, 3, fit, 0)
    with pytest.raises(UserError, match=r'fit.epochs=0.5 of the 10 images that class 1 '):
        divide(LABELS[LABELS > 0] - 1, IDS[LABELS > 0], 2, fit, 0)
    found = divide(LABELS, IDS, 3, dataclasses.replace(fit, epochs=0.6), 0).until(1)
    np.testing.assert_array_equal(found, [1, 1, 1])


@pytest.mark.parametrize(
    ('name', 'value'),
    [
        ('epochs', 0.0),
        ('epochs', float('nan')),
        ('epochs', float('inf')),
        ('batch', 0),
        ('batch', 2.5),
        ('batch', True),
        ('members', 2.0),
        ('lr', -1.0),
        ('b1', 1.0),
        ('b2', -0.1),
        ('hold_out', 0.95),
        ('hold_out', float('nan')),
    ],
)
def test_settings_out_of_range_are_refused(name, value):
    with pytest.raises(UserError, match=f'{name}={value}'):
        dataclasses.replace(Fit(), **{name: value})
