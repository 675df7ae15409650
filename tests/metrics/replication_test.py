import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from purify.core.errors import UserError
from purify.metrics import replication
from purify.metrics.replication import Neighbours

RNG = np.random.default_rng(0)
POINTS = RNG.normal(0, 3, (23, 5)).astype(np.float32)


@pytest.fixture
def small(monkeypatch):
    """Blocks that do not divide the numbers of points."""
    monkeypatch.setattr(replication, 'QUERIES', 4)
    monkeypatch.setattr(replication, 'REFERENCES', 7)


def by_hand(queries, references, own=None):
    """One pair at a time, in float64."""
    rows, cosines = [], []
    for i, q in enumerate(queries.astype(np.float64)):
        scores = []
        for j, r in enumerate(references.astype(np.float64)):
            length = np.sqrt((q @ q) * (r @ r))
            scores.append(
                -np.inf if own is not None and own[i] == j else q @ r / length if length else 0
            )
        rows.append(int(np.argmax(scores)))
        cosines.append(max(scores))
    return rows, cosines


@pytest.mark.long
@settings(deadline=None, max_examples=5)
@given(st.integers(1, 9), st.integers(2, 23), st.booleans())
def test_the_nearest_are_those_of_all_pairs(queries, count, among):
    rng, references = np.random.default_rng(count), POINTS[:count]
    own = rng.integers(0, count, queries) if among else None
    asked = (
        references[own] if own is not None else rng.normal(0, 1, (queries, 5)).astype(np.float32)
    )
    rows, cosines = Neighbours(references).nearest(asked, own)
    expected = by_hand(asked, references, own)
    np.testing.assert_array_equal(rows, expected[0])
    np.testing.assert_allclose(cosines, expected[1], atol=1e-6)
    assert (rows.dtype, cosines.dtype) == (np.int64, np.float32)


def test_blocks_change_nothing(small):
    asked = RNG.normal(0, 1, (11, 5))
    rows, cosines = Neighbours(POINTS).nearest(asked)
    expected = by_hand(asked, POINTS)
    np.testing.assert_array_equal(rows, expected[0])
    np.testing.assert_allclose(cosines, expected[1], atol=1e-6)


def test_length_does_not_matter_and_no_point_is_its_own_neighbour(small):
    scaled = POINTS * RNG.uniform(0.1, 1e4, (23, 1)).astype(np.float32)
    rows, cosines = Neighbours(scaled).nearest(POINTS)
    np.testing.assert_array_equal(rows, np.arange(23))
    np.testing.assert_allclose(cosines, 1, atol=1e-6)
    assert cosines.max() <= 1
    others, _ = Neighbours(scaled).nearest(POINTS, np.arange(23))
    assert (others != np.arange(23)).all()


def test_copies_find_each_other_across_blocks(small):
    twice = np.concatenate([POINTS, POINTS[3:5]])
    rows, cosines = Neighbours(twice).nearest(twice[[3, 4, 23, 24]], np.array([3, 4, 23, 24]))
    assert rows.tolist() == [23, 24, 3, 4]
    np.testing.assert_allclose(cosines, 1, atol=1e-6)


def test_points_of_no_length_are_unlike_all(small):
    rows, cosines = Neighbours(-np.eye(3)).nearest(np.stack([np.zeros(3), np.ones(3)]))
    assert cosines.tolist() == [0, pytest.approx(-(3**-0.5))]
    assert len(rows) == 2


@pytest.mark.parametrize(
    ('points', 'queries', 'own', 'said'),
    [
        (np.zeros((0, 5)), POINTS, None, 'at least one'),
        (POINTS, POINTS[:, :3], None, '3 numbers are compared with points of 5'),
        (POINTS[:1], POINTS[:1], np.array([0]), 'at least two'),
        (np.full((2, 5), np.nan), POINTS, None, 'finite'),
        (POINTS, np.zeros(5), None, 'rows of finite'),
    ],
)
def test_what_cannot_be_compared_is_refused(points, queries, own, said):
    with pytest.raises(UserError, match=said):
        Neighbours(points).nearest(queries, own)
