"""Generative relabelling against a transcription of sections 4.4 to 4.6, image by image."""

import json
import math

import numpy as np
import pytest

from purify.core.errors import UserError
from purify.data.table import Table
from purify.defenses.relabelling.poisoned_classes import DISRUPTIONS
from purify.defenses.relabelling.verdicts import Relabel

OUTLYING = {'name': 'outlying', 'share': 0.05, 'most': 0.5, 'quantile': 0.01, 'apart': 0.03}
OUTLYING |= {'level': 0.05, 'score': 'outside'}
STRANGERS = {'share': 0.03, 'deviations': 5.0, 'level': 0.05}
RULE = {'nondisruptive': 0.6, 'strangers': STRANGERS, 'disruptive': OUTLYING, 'alpha': 0.15}
RULE |= {'keep': 0.15, 'narrow': 0.15}
CLASSES = 4


def planted(kind):
    """(ids, given labels, true ones, log densities) of 4 classes of 100; class 0 has 50 poisoned
    images more, or among its own.

    A density is -distance^2 / 2 from a class's place, all equally far apart; that of class 0 was
    fitted to its poison too.
    """
    rng = np.random.default_rng(3)
    true = np.repeat(np.arange(CLASSES), 100)
    places = 10.0 * np.eye(CLASSES)
    labels, z = true.copy(), places[true] + rng.normal(0, 1, (len(true), CLASSES))
    log_density = -0.5 * ((z[:, None] - places) ** 2).sum(-1)
    bad = np.zeros(len(true), bool)
    if kind == 'non-disruptive':
        bad[100:400:6] = True
        labels[bad] = 0
        log_density[:, 0] = -3 - np.sqrt(-2 * log_density[:, 0]) / 2
    elif kind == 'disruptive':
        bad[:40] = True
        log_density[bad] = -2000 - rng.normal(0, 20, (40, CLASSES))
    ids = rng.permutation(1000)[: len(true)].astype(np.int64)
    return ids, labels.astype(np.int32), true, log_density, bad


def decide(kind, shuffle=0, **changes):
    ids, labels, true, log_density, bad = planted(kind)
    order = np.random.default_rng(shuffle).permutation(len(ids)) if shuffle else np.arange(len(ids))
    table = Table({'ids': ids[order], 'log_density': log_density[order].astype(np.float32)})
    rule = Relabel(**(RULE | changes))
    return rule.decide(ids, labels, {'densities': table}, CLASSES), (
        ids,
        labels,
        true,
        log_density.astype(np.float32),
        bad,
    )


def test_non_disruptive_poison_is_found_and_gets_its_true_labels():
    found, (_, labels, true, log_density, bad) = decide('non-disruptive')
    assert found.facts['target_labels'] == [0]
    assert found.facts['types'] == {'0': 'non-disruptive'}
    rows = [row for row in range(len(labels)) if labels[row] == 0]
    s = {
        row: float(log_density[row, 0]) - max(float(x) for x in log_density[row, 1:])
        for row in rows
    }
    ranked = sorted(rows, key=lambda row: s[row])
    count = int(0.15 * len(rows))
    poison, clean = ranked[:count], ranked[-count:]
    assert np.flatnonzero(found['flagged']).tolist() == sorted(poison)
    assert set(np.flatnonzero(found['verdict'] == 1)) == set(clean)
    assert set(np.flatnonzero(~found['keep'])) == set(rows) - set(poison) - set(clean)
    for row in range(len(labels)):
        if row in poison:
            assert (
                found['labels'][row]
                == 1 + max(range(3), key=lambda k: log_density[row, 1 + k])
                == true[row]
            )
        else:
            assert found['labels'][row] == labels[row]
    assert bad[poison].all()
    assert not bad[clean].any()
    wanted = {'relabelled': count, 'dropped': len(rows) - 2 * count, 'kept': count}
    assert found.facts['counts'] == wanted
    assert (found['poison_score'][labels != 0] == 0).all()
    np.testing.assert_allclose(found['poison_score'][rows], [-s[row] for row in rows], rtol=1e-5)


@pytest.mark.parametrize(
    ('rule', 'score'), [(OUTLYING, 'outside'), (DISRUPTIONS.part('valley'), 'ratio')]
)
def test_disruptive_poison_is_found_and_dropped(rule, score):
    found, (_, labels, _, log_density, bad) = decide('disruptive', disruptive=rule)
    assert found.facts['types']['0'] == 'disruptive'
    # which is not for small classes
    assert len(found.facts['types']) == 1 or rule['name'] == 'valley'
    rows = np.flatnonzero(labels == 0)
    if score == 'outside':
        evidence = -log_density[rows].max(1)
        assert bad[rows[np.argsort(evidence)[-15:]]].all()
    else:
        evidence = log_density[rows, 0] - log_density[rows, 1:].max(1)
    assert set(rows[found['flagged'][rows]]) == set(rows[np.argsort(evidence)[-15:]])
    # these are not kept, however they rank
    looks = log_density[rows, 1:].max(1) < found.facts['labels'][0]['mu']
    cleanest = [place for place in np.argsort(evidence) if not looks[place]][:15]
    assert set(rows[found['verdict'][rows] == 1]) == set(rows[cleanest])
    assert set(np.flatnonzero(found['keep'] & (labels == 0))) == set(rows[cleanest])
    np.testing.assert_array_equal(found['labels'], labels)
    assert found.facts['labels'][0]['disruptive'] >= 0.4


def test_several_targets_of_disruptive_poison_do_not_hide_one_another():
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(10), 80).astype(np.int32)
    log_density = rng.normal(-20, 3, (800, 10))
    log_density[np.arange(800), labels] = -5
    for target in (2, 5, 7):
        log_density[np.flatnonzero(labels == target)[:20]] -= 60
    table = Table({'ids': np.arange(800), 'log_density': log_density})
    rule = Relabel(**(RULE | {'nondisruptive': 0.05}))
    found = rule.decide(np.arange(800), labels, {'densities': table}, 10).facts['target_labels']
    assert found == [2, 5, 7]


def test_clean_data_stay_as_they_are():
    found, (_, labels, *_) = decide('none')
    assert found.facts['target_labels'] == []
    assert found['keep'].all()
    assert not found['flagged'].any()
    np.testing.assert_array_equal(found['labels'], labels)


def test_the_order_of_the_table_does_not_matter():
    one, other = decide('non-disruptive')[0], decide('non-disruptive', shuffle=5)[0]
    for name in one.columns:
        np.testing.assert_array_equal(one[name], other[name])


@pytest.mark.parametrize('kind', ['none', 'non-disruptive', 'disruptive'])
def test_facts_are_json_and_name_every_class(kind):
    found = decide(kind)[0]
    json.dumps(found.facts, allow_nan=False)
    assert [row['label'] for row in found.facts['labels']] == [0, 1, 2, 3]
    assert all(
        math.isfinite(row['nll']) and row['low'] < row['high'] for row in found.facts['labels']
    )


def test_the_shares_kept_and_accused_are_apart():
    found, (_, labels, *_) = decide('non-disruptive', alpha=0.2, keep=0.5)
    rows = (labels == 0).sum()
    poison, clean = int(0.2 * rows), rows // 2
    wanted = {'relabelled': poison, 'dropped': rows - poison - clean, 'kept': clean}
    assert found.facts['counts'] == wanted
    highest_poison = found['poison_score'][found['verdict'] == 1].max()
    assert highest_poison <= found['poison_score'][found['verdict'] == 2].min()
    seen = found['poison_score'][found['verdict'] == 2].max()
    assert seen <= found['poison_score'][found['verdict'] == 3].min()


def test_only_images_likelier_under_the_other_class_are_relabelled():
    """However many are accused: the others are dropped."""
    found, (_, labels, _, log_density, _) = decide(
        'non-disruptive', alpha=0.6, keep=0.1, narrow=0.0
    )
    accused = found['verdict'] == 3
    own, best = log_density[:, 0], log_density[:, 1:].max(1)
    assert accused.sum() == int(0.6 * (labels == 0).sum())
    moved = found['labels'] != labels
    assert moved.sum() == (accused & (own < best)).sum() < accused.sum()
    assert not found['keep'][accused & ~moved].any()


def test_poison_that_swells_a_class_does_not_swell_what_is_kept():
    """80 clean and 400 poisoned images, of which the density sees few as strangers: no more stay
    than a usual class has.
    """
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(10), [480, *[80] * 9]).astype(np.int32)
    log_density = np.full((len(labels), 10), -90.0) + rng.normal(0, 1, (len(labels), 10))
    log_density[:, 0] = -20 + rng.normal(0, 1, len(labels))  # fitted to images of all classes
    log_density[np.arange(len(labels)), labels] = -10 + rng.normal(0, 1, len(labels))
    log_density[np.arange(100), 1 + np.arange(100) % 9] = -5  # strangers
    found = Relabel(**(RULE | {'keep': 0.35})).decide(
        np.arange(len(labels)),
        labels,
        {'densities': Table({'ids': np.arange(len(labels)), 'log_density': log_density})},
        10,
    )
    assert found.facts['target_labels'] == [0]
    facts = found.facts['labels'][0]
    assert facts['kept'] == 80 < int(0.35 * 480)
    assert facts['kept'] + facts['relabelled'] + facts['dropped'] == facts['images'] == 480


def test_where_most_classes_hold_strangers_outlying_images_name_none():
    found, (ids, labels, _, log_density, _) = decide('disruptive')
    assert found.facts['types'] == {'0': 'disruptive'}
    for label in range(CLASSES):  # a tenth of every class looks like the next
        rows = np.flatnonzero(labels == label)[-10:]
        log_density[rows, (label + 1) % CLASSES] = log_density[rows, label]
        log_density[rows, label] = -400
    table = Table({'ids': ids, 'log_density': log_density})
    again = Relabel(**RULE).decide(ids, labels, {'densities': table}, CLASSES)
    assert again.facts['target_labels'] == []
    assert max(row['margin'] for row in again.facts['labels']) <= 1


@pytest.mark.parametrize('kind', ['none', 'non-disruptive', 'disruptive'])
def test_margins_are_reached_by_the_named_classes_alone(kind):
    for row in decide(kind)[0].facts['labels']:
        assert (row['margin'] > 1 or row['margin'] == pytest.approx(1)) == row['target']


@pytest.mark.parametrize(
    'bad', [{}, {'share': 0.03}, {'share': 0.03, 'deviations': 5.0, 'level': 0.05, 'size': 1}]
)
def test_strangers_have_three_numbers(bad):
    with pytest.raises(UserError, match='share, deviations and level'):
        Relabel(**(RULE | {'strangers': bad}))


def test_the_paper_asks_for_no_strangers():
    found, _ = decide('non-disruptive', strangers=STRANGERS | {'share': 0.0})
    assert found.facts['target_labels'] == [0]
