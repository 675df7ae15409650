import numpy as np
import pytest
from scipy import linalg, special, stats

from purify.core.errors import UserError
from purify.metrics.distribution import Answers, Moments, frechet_distance, inception_score, merged

RNG = np.random.default_rng(3)
LEFT = RNG.normal(size=(200, 6)) @ RNG.normal(size=(6, 6)) + 40
RIGHT = RNG.normal(size=(300, 6)) @ RNG.normal(size=(6, 6)) + 41


def test_fid_is_that_of_scipys_matrix_root():
    """With `sqrtm` of the product itself, as the authors wrote it."""
    a, b = np.cov(LEFT.T), np.cov(RIGHT.T)
    root = linalg.sqrtm(a @ b)
    want = np.square(LEFT.mean(0) - RIGHT.mean(0)).sum() + np.trace(a + b - 2 * root.real)
    assert frechet_distance(Moments.of(LEFT), Moments.of(RIGHT)) == pytest.approx(want, rel=1e-9)


def test_fid_of_one_dimension_by_hand():
    """(3 - 1)^2 + (2 - 1)^2: means 1 and 3, deviations 1 and 2."""
    a, b = (
        np.array([[mean - spread], [mean], [mean + spread]])
        for mean, spread in ((1.0, 1.0), (3.0, 2.0))
    )
    assert frechet_distance(Moments.of(a), Moments.of(b)) == pytest.approx(5)


def test_fid_where_covariances_are_singular():
    """Fewer rows than numbers: the same set is 0 away, a shifted one by the shift squared."""
    few = LEFT[:3]
    assert frechet_distance(Moments.of(few), Moments.of(few)) == pytest.approx(0, abs=1e-6)
    assert frechet_distance(Moments.of(few), Moments.of(few + 2)) == pytest.approx(6 * 4)


def test_pieces_add_up_to_the_whole():
    pieces = np.split(LEFT, [1, 50, 50, 170])  # one of them is empty
    whole, parts = Moments.of(LEFT), merged([Moments.of(piece) for piece in pieces])
    assert parts.count == 200
    np.testing.assert_allclose(parts.mean, LEFT.mean(0), rtol=1e-13)
    np.testing.assert_allclose(parts.covariance, np.cov(LEFT.T), rtol=1e-10, atol=1e-11)
    np.testing.assert_allclose(whole.covariance, np.cov(LEFT.T), rtol=1e-10, atol=1e-11)


def test_far_from_zero_nothing_is_lost():
    """Sums of squares less squared sums would keep no digit here."""
    far = LEFT + 1e9
    parts = merged([Moments.of(piece) for piece in np.split(far, 10)])
    found = parts.covariance
    np.testing.assert_allclose(found, np.cov((far - far.mean(0)).T), rtol=1e-5, atol=1e-5)


def test_inception_score_is_scipys_entropy():
    logits = RNG.normal(size=(50, 7)) * 4
    p = special.softmax(logits, 1)
    want = np.exp(stats.entropy(p, p.mean(0)[None], axis=1).mean())
    parts = merged([Answers.of(piece) for piece in np.split(logits, [13, 13, 40])])
    assert inception_score(parts) == pytest.approx(want, rel=1e-12)
    assert inception_score(Answers.of(logits)) == pytest.approx(want, rel=1e-12)


def test_bounds_of_the_inception_score():
    sure = np.where(np.eye(5, dtype=bool), 0.0, -np.inf)
    with np.errstate(invalid='ignore'):
        wanted = pytest.approx(5)
        assert inception_score(Answers.of(np.where(np.eye(5, dtype=bool), 0.0, -1e4))) == wanted
        assert inception_score(Answers.of(np.zeros((9, 4)))) == pytest.approx(1)
        assert inception_score(Answers.of(sure * np.nan)) is None


def test_too_few_rows_are_no_number():
    assert frechet_distance(Moments.of(LEFT[:1]), Moments.of(RIGHT)) is None
    assert frechet_distance(Moments.of(LEFT[:0]), Moments.of(RIGHT)) is None
    assert inception_score(Answers.of(np.zeros((0, 3)))) is None
    broken = LEFT.copy()
    broken[0, 0] = np.nan
    assert frechet_distance(Moments.of(broken), Moments.of(RIGHT)) is None


def test_other_arrays_are_refused():
    with pytest.raises(UserError, match='6 and 5 numbers'):
        frechet_distance(Moments.of(LEFT), Moments.of(RIGHT[:, :5]))
    with pytest.raises(UserError, match='Flatten each row'):
        Moments.of(LEFT[0])
