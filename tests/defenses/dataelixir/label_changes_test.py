import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import dataelixir_reference as reference

from purify.defenses.dataelixir.evidence import gather_evidence
from purify.defenses.dataelixir.label_changes import (
    BENIGN,
    POISONED,
    SUSPICIOUS,
    choose_candidate,
    count_labels,
    place_of,
    sort_into_sets,
    transition_coefficient,
    vote,
)
from purify.defenses.dataelixir.target_labels import Mad
from purify.defenses.outliers import outlier_index

LETTERS = {'B': BENIGN, 'P': POISONED, 'S': SUSPICIOUS}


def draw(seed, count=60, classes=5, k=10):
    """Candidates of images: all of one label, nearly, or in two parts; given and raw labels that
    often agree with them.
    """
    rng = np.random.default_rng(seed)
    candidates = np.repeat(rng.integers(0, classes, (count, 1)), k, axis=1)
    other, few = rng.integers(0, classes, count), rng.choice([0, 0, 0, 1, 4, 5], count)
    for row in range(count):
        candidates[row, rng.permutation(k)[: few[row]]] = other[row]
    given, raw = (
        np.where(rng.random(count) < 0.7, candidates[:, 0], rng.integers(0, classes, count))
        for _ in range(2)
    )
    return candidates.astype(np.int32), given.astype(np.int32), raw.astype(np.int32)


@pytest.mark.parametrize('reading', ['given', 'predicted'])
@pytest.mark.parametrize('seed', range(4))
def test_sets_and_scores_are_those_of_the_equations(reading, seed):
    candidates, labels, raw = draw(seed)
    counts = count_labels(candidates, 5)
    votes = vote(candidates, counts, first=reading == 'predicted')
    sets = sort_into_sets(
        counts, votes, labels if reading == 'given' else raw, 0.1, majority=reading == 'given'
    )
    rows = zip(candidates.tolist(), labels.tolist(), raw.tolist(), strict=True)
    theirs = [reference.sort_out(c, y, r, 0.1, reading) for c, y, r in rows]
    assert sets.tolist() == [LETTERS[letter] for letter, _, _ in theirs]
    assert transition_coefficient(counts).tolist() == [eta for _, eta, _ in theirs]
    assert len(set(sets.tolist())) == 3
    evidence = gather_evidence(labels, counts, votes, sets, raw, count_raw=reading == 'predicted')
    scores = []
    for y in range(5):
        mine = [row for row in range(len(labels)) if labels[row] == y and theirs[row][0] != 'B']
        assert evidence.anomalous[y] == len(mine)
        pooled = [
            label
            for row in mine
            for label in theirs[row][2] + [int(raw[row])] * (reading == 'predicted')
        ]
        scores.append(reference.divergence(y, pooled))
    np.testing.assert_allclose(evidence.divergence, scores, rtol=1e-12)
    rule = Mad(1.0, 'kl', two_sided=True)
    indices = reference.anomaly_indices(scores)
    wanted = [y for y in range(5) if indices[y] > 1]
    assert np.flatnonzero(rule.targets(evidence)).tolist() == wanted
    found = np.abs(outlier_index(np.array(scores), np.ones(5, bool)))
    np.testing.assert_allclose(found, indices, rtol=1e-4)


@pytest.mark.parametrize('reading', ['given', 'predicted'])
def test_votes_are_the_most_common_labels(reading):
    candidates = np.random.default_rng(9).integers(0, 4, (200, 6)).astype(np.int32)
    winners = vote(candidates, count_labels(candidates, 4), first=reading == 'predicted')
    assert winners.tolist() == [reference.most_common(row, reading) for row in candidates.tolist()]


def test_ties_of_votes_go_by_time():
    candidates = np.array([[2, 0, 0, 2, 1], [0, 2, 2, 0, 1], [1, 1, 1, 1, 0]], np.int32)
    counts = count_labels(candidates, 3)
    assert vote(candidates, counts, first=True).tolist() == [2, 0, 1]
    assert vote(candidates, counts, first=False).tolist() == [2, 0, 1]
    assert vote(candidates[:2, ::-1], counts[:2], first=True).tolist() == [2, 0]
    once = np.array([[2, 0, 1]], np.int32)
    wanted = [[2], [1]]
    assert [vote(once, count_labels(once, 3), first).tolist() for first in (True, False)] == wanted


def sort_by_own(candidates, own, tau, majority=True, classes=3):
    candidates = np.asarray(candidates, np.int32)
    counts = count_labels(candidates, classes)
    return sort_into_sets(
        counts, vote(candidates, counts, not majority), np.array(own), tau, majority
    ).tolist()


@pytest.mark.parametrize(
    ('k', 'eta', 'suspicious'),
    [(50, 4, False), (50, 5, True), (25, 2, False), (25, 3, True), (70, 7, True)],
)
def test_tau_is_a_share_and_reaching_it_counts(k, eta, suspicious):
    wanted = [SUSPICIOUS if suspicious else BENIGN]
    assert sort_by_own([[1] * (k - eta) + [0] * eta], [1], 0.1) == wanted


def test_a_small_eta_alone_is_no_majority():
    """Fifty candidates scattered over thirteen labels, none of which holds five: eta is small, and
    nothing dominates.
    """
    scattered = [[*(np.arange(48) % 12), 12, 12]]
    assert sort_by_own(scattered, [11], 0.1, classes=13) == [SUSPICIOUS]
    # the first seen
    assert sort_by_own(scattered, [0], 0.1, majority=False, classes=13) == [BENIGN]
    assert sort_by_own(scattered, [11], 0.1, majority=False, classes=13) == [POISONED]
    half, more = [1] * 5 + [0] * 3 + [2] * 2, [1] * 6 + [0] * 2 + [2] * 2
    assert sort_by_own([half, more], [1, 1], 0.8) == [SUSPICIOUS, BENIGN]
    assert sort_by_own([half, more], [1, 1], 0.8, majority=False) == [BENIGN, BENIGN]


def test_one_class_and_no_images():
    assert transition_coefficient(count_labels(np.zeros((2, 4), int), 1)).tolist() == [0, 0]
    assert sort_by_own(np.zeros((0, 4)), [], 0.1) == []


@pytest.mark.parametrize(('k', 'dtype'), [(50, np.uint8), (255, np.uint8), (256, np.uint16)])
def test_counts_are_small_numbers(k, dtype):
    """Of the smallest type that holds them, and nothing is lost in arithmetic with them; slices of
    rows change nothing.
    """
    candidates = np.random.default_rng(0).integers(0, 2000, (1100, k))
    candidates[:3] = 1999
    counts = count_labels(candidates, 2000)
    assert counts.dtype == dtype
    assert counts[:3, 1999].tolist() == [k] * 3
    for row in (0, 5, 523, 524, 525, 1048, 1049, 1099):  # around the ends of the slices
        assert (counts[row] == np.bincount(candidates[row], minlength=2000)).all()
    labels = np.full(1100, 1999, np.int32)
    votes = vote(candidates, counts, first=False)
    sets = sort_into_sets(counts, votes, labels, 0.1, majority=True)
    assert sets[:3].tolist() == [BENIGN] * 3
    evidence = gather_evidence(
        labels, counts, votes, np.full(1100, SUSPICIOUS, np.uint8), labels, count_raw=False
    )
    assert evidence.divergence[1999] == pytest.approx(-np.log((candidates == 1999).mean()))


def test_a_thousand_labels_fit_in_memory():
    """All of it in little more than the counts themselves and a copy: 10 MB each; of int64 they
    would be 80 MB.
    """
    rng = np.random.default_rng(0)
    candidates = rng.integers(0, 1000, (10000, 10)).astype(np.int32)
    labels = candidates[:, 0]
    tracemalloc.start()
    counts = count_labels(candidates, 1000)
    votes = vote(candidates, counts, first=False)
    gather_evidence(
        labels,
        counts,
        votes,
        sort_into_sets(counts, votes, labels, 0.1, majority=True),
        labels,
        count_raw=False,
    )
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 40e6


@pytest.mark.parametrize('with_raw', [False, True])
@settings(max_examples=60)
@given(st.integers(0, 10**6), st.floats(0, 1))
def test_choices_are_those_of_sorting(with_raw, seed, rank):
    rng = np.random.default_rng(seed)
    k = int(rng.integers(1, 12))
    distance, allowed = rng.random((4, k)), rng.random((4, k)) < 0.6
    allowed[0], allowed[1] = True, False
    found = choose_candidate(distance, allowed, rank, with_raw).tolist()
    rows = zip(distance.tolist(), allowed.tolist(), strict=True)
    assert found == [reference.choose(d, rank, with_raw, a) for d, a in rows]


def test_the_published_rank():
    """Fifty candidates and the raw image: place 40 of 51, the fortieth candidate by distance."""
    distance = np.random.default_rng(0).permutation(50)[None] / 50
    everything = np.ones((1, 50), bool)
    found = round(50 * distance[0, choose_candidate(distance, everything, 0.8, count_raw=True)[0]])
    assert found == 39
    found = round(50 * distance[0, choose_candidate(distance, everything, 0.8, count_raw=False)[0]])
    assert found == 40


def test_ties_of_distance_go_in_order_of_time():
    assert choose_candidate(
        np.zeros((1, 4)), np.array([[False, True, True, True]]), 0.5, count_raw=False
    ).tolist() == [2]


def test_places_by_rank():
    assert [int(place_of(rank, np.array(10))) for rank in (0, 0.79, 0.8, 1)] == [0, 7, 8, 9]
    assert place_of(0.5, np.array([0, 1, 2, 3])).tolist() == [-1, 0, 1, 1]
