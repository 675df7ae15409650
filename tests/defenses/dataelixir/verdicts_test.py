import functools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import dataelixir_reference as reference

from purify.core.errors import UserError
from purify.data.table import Table
from purify.defenses.dataelixir.label_changes import BENIGN, POISONED, SUSPICIOUS
from purify.defenses.dataelixir.verdicts import LabelTransition, TrueLabels

IDS = np.array([70, 10, 30, 20, 60, 50, 40])
GIVEN = np.array([0, 0, 0, 0, 1, 1, 0], np.int32)
CANDIDATES = np.array(
    [
        [0] * 10,  # benign
        [2] * 10,  # poisoned under the target label
        [0] * 5 + [1] * 5,  # suspicious under it
        [0] * 3 + [2] * 7,  # the same
        [2] * 10,  # poisoned, but not under it
        [1] * 6 + [2] * 4,  # suspicious, but not under it
        [2] * 9 + [1],  # poisoned under it, and one candidate is passed over
    ],
    np.int32,
)
DISTANCE = np.linspace(0, 1, 70, dtype=np.float32).reshape(7, 10)
MEASURED = {'ids': IDS, 'raw': GIVEN, 'candidates': CANDIDATES, 'distance': DISTANCE}
CHOICE = {'rank': 0.8, 'count_raw': False, 'choice': 'all'}
# label 0 has most anomalous images: the target
TO_ZERO = {'name': 'mad', 'threshold': 0.5, 'score': 'count', 'two_sided': False}


def shuffled(columns):
    """A table with its rows in another order: what matters are the ids."""
    order = np.random.default_rng(1).permutation(len(columns['ids']))
    return Table({name: column[order] for name, column in columns.items()})


def find(**changes):
    settings = {
        'tau': 0.2,
        'benign': 'given',
        'targets': TO_ZERO,
        'labels': 'benign',
        **CHOICE,
    } | changes
    return LabelTransition(**settings).decide(IDS, GIVEN, {'candidates': shuffled(MEASURED)}, 3)


def relabel(edits, label, agreement, again=False, **changes):
    """`label`: id -> the benign classifier's answer."""
    measured = Table(
        {'ids': np.array(list(label)), 'label': np.array(list(label.values()), np.int32)}
    )
    tables = {'edits': edits, 'candidates': shuffled(MEASURED), 'measured': measured}
    return TrueLabels(agreement=agreement, again=again, **CHOICE | changes).decide(
        IDS, GIVEN, tables, 3
    )


def test_what_becomes_of_every_image():
    found = find()
    assert found.facts['target_labels'] == [0]
    wanted = [BENIGN, POISONED, SUSPICIOUS, SUSPICIOUS, POISONED, SUSPICIOUS, POISONED]
    assert found['set'].tolist() == wanted
    # only images under the target label are changed
    assert found['labels'].tolist() == [0, 2, 0, 0, 1, 1, 2]
    # of those left out too: the choice does not wait for labels
    assert found['candidate'].tolist() == [-1, 8, 8, 8, -1, -1, 7]
    assert found['keep'].tolist() == [True, True, False, False, True, True, True]
    assert found['open'].tolist() == (~found['keep']).tolist()
    assert found['flagged'].tolist() == [False, True, False, False, False, False, True]
    assert found['pick'].tolist() == (found['candidate'] >= 0).tolist()
    assert found.facts['sets'] == {'benign': 1, 'poisoned': 3, 'suspicious': 3}
    assert found['ids'].tolist() == IDS.tolist()
    assert found['given'].dtype == found['labels'].dtype == found['candidate'].dtype == np.int32


def test_choices_as_released():
    """The raw image counts, and candidates that were passed over do not."""
    found = find(choice='agreeing', count_raw=True)
    assert found['candidate'][IDS == 10] == [7]  # place 8 of 11, the raw image first
    assert found['candidate'][IDS == 40] == [7]  # place 8 of 10
    assert find(choice='agreeing')['candidate'][IDS == 40] == [7]  # place 7 of 9
    assert find(rank=0.0, count_raw=True)['candidate'].tolist() == [-1] * 7
    assert not find(rank=0.0, count_raw=True)['pick'].any()


def test_the_released_benign_set_asks_the_classifier():
    """An image that the classifier sees as its candidates are is benign whatever its label."""
    columns = MEASURED | {'raw': np.where(IDS == 10, 2, GIVEN)}
    settings = {'tau': 0.2, 'benign': 'predicted', 'targets': TO_ZERO, 'labels': 'benign', **CHOICE}
    found = LabelTransition(**settings).decide(IDS, GIVEN, {'candidates': shuffled(columns)}, 3)
    assert found['set'][IDS == 10] == [BENIGN]
    assert find()['set'][IDS == 10] == [POISONED]


def test_without_targets_nothing_changes():
    found = find(targets={'name': 'mad', 'threshold': 50.0, 'score': 'kl', 'two_sided': False})
    assert found.facts['target_labels'] == []
    assert found['keep'].all()
    assert not found['flagged'].any()
    assert (found['labels'] == GIVEN).all()


def test_votes_alone():
    found = find(labels='vote')
    # of 0 and 1, as common, the one seen last
    assert found['labels'].tolist() == [0, 2, 1, 2, 2, 1, 2]
    assert (found['pick'] == found['flagged']).all()
    assert (found['pick'] == (found['candidate'] >= 0)).all()
    assert found['keep'].all()
    assert 'open' not in found.columns  # nobody looks again


def test_two_stages():
    """The one that vote and classifier agree on first, the other by the final model."""
    edits = find()
    assert edits['ids'][edits['open']].tolist() == [30, 20]
    agreed = relabel(edits, {20: 2, 30: 2}, agreement=True)
    assert agreed['labels'].tolist() == [0, 2, 0, 2, 1, 1, 2]
    assert agreed['keep'].tolist() == [True, True, False, True, True, True, True]
    assert agreed['ids'][agreed['open']].tolist() == [30]
    assert not agreed['pick'].any()  # all were made at first
    assert agreed['candidate'].tolist() == [-1, 8, 8, 8, -1, -1, 7]
    final = relabel(agreed, {30: 1}, agreement=False)
    assert final['keep'].all()
    assert final['labels'].tolist() == [0, 2, 1, 2, 1, 1, 2]
    assert final['candidate'].tolist() == [-1, 8, 8, 8, -1, -1, 7]
    assert final['ids'][final['flagged']].tolist() == [10, 30, 20, 40]
    assert final.facts['target_labels'] == [0]
    assert (final.facts['labels'], final.facts['settled']) == (edits.facts['labels'], 1)
    # nothing is left to look at
    assert set(agreed.columns) == set(edits.columns) == {*final.columns, 'open'}


def test_a_false_alarm_gets_its_label_back():
    """Its image is one of its candidates all the same, for the classifier may be wrong."""
    final = relabel(find(), {20: 2, 30: 0}, agreement=False)
    assert not final['flagged'][IDS == 30]
    assert final['candidate'][IDS == 30] == [8]


def test_agreeing_candidates_are_the_benign_classifiers():
    theirs = np.where(np.arange(10) < 4, 2, 1) * np.ones((2, 1), np.int32)
    measured = Table(
        {'ids': np.array([20, 30]), 'raw': np.array([2, 0], np.int32), 'candidates': theirs}
    )
    tables = {
        'edits': find(choice='agreeing'),
        'candidates': shuffled(MEASURED),
        'measured': measured,
    }
    rule = TrueLabels(agreement=False, again=False, rank=0.8, count_raw=False, choice='agreeing')
    found = rule.decide(IDS, GIVEN, tables, 3)
    assert found['candidate'][IDS == 20] == [3]  # place 3 of 4
    assert found['pick'][IDS == 20]
    assert found['candidate'][IDS == 30] == [-1]  # none agrees: the raw image
    assert not found['pick'][IDS == 30]
    assert found['keep'].all()


def test_nothing_left_to_label():
    edits = find(targets={'name': 'mad', 'threshold': 50.0, 'score': 'kl', 'two_sided': False})
    empty = Table({'ids': np.zeros(0, np.int64), 'label': np.zeros(0, np.int32)})
    tables = {'edits': edits, 'candidates': shuffled(MEASURED), 'measured': empty}
    assert not edits['open'].any()
    found = TrueLabels(agreement=True, again=False, **CHOICE).decide(IDS, GIVEN, tables, 3)
    assert not found['pick'].any()
    assert not found['open'].any()
    assert (found['labels'] == GIVEN).all()


def test_p_chooses_among_the_candidates_of_its_vote():
    """Whatever `choice` says: eq.

    3 passed the others over. Image 40's last candidate, the farthest, is one of them.
    """
    for choice in ('all', 'agreeing'):
        found = find(rank=1.0, choice=choice)
        assert found['candidate'][IDS == 40] == [8]
        assert found['candidate'][IDS == 10] == [9]
    assert find(rank=1.0)['candidate'][IDS == 20] == [9]  # of S any
    assert find(rank=1.0, labels='vote')['candidate'][IDS == 40] == [8]


def test_without_a_majority_the_papers_reading_waits():
    wanted = [BENIGN, POISONED, SUSPICIOUS, POISONED, POISONED, BENIGN, POISONED]
    assert find(tau=0.9)['set'].tolist() == wanted
    # 0 and 1 are as common; 0 was seen first
    assert find(tau=0.9, benign='predicted')['set'][IDS == 30] == [BENIGN]


def test_the_final_model_may_label_the_settled_again():
    edits = find()
    rest, agreed = (
        relabel(edits, {20: 2, 30: 2}, agreement=True, again=again) for again in (False, True)
    )
    assert (IDS[rest['open']].tolist(), IDS[agreed['open']].tolist()) == ([30], [30, 20])
    assert rest['keep'].tolist() == agreed['keep'].tolist()
    measured = Table({'ids': np.array([20, 30]), 'label': np.array([1, 0], np.int32)})
    tables = {'edits': agreed, 'candidates': shuffled(MEASURED), 'measured': measured}
    found = TrueLabels(agreement=False, again=False, **CHOICE).decide(IDS, GIVEN, tables, 3)
    assert found['labels'].tolist() == [0, 2, 0, 1, 1, 1, 2]
    assert found.facts['settled'] == 2
    assert not found['pick'].any()  # the choice did not wait for labels


def without(columns, name):
    rows = columns['ids'] != name
    return {key: column[rows] for key, column in columns.items()}


def test_rows_that_were_not_measured_are_missed():
    settings = {'tau': 0.2, 'benign': 'given', 'targets': TO_ZERO, 'labels': 'benign', **CHOICE}
    with pytest.raises(UserError, match='id 60'):
        LabelTransition(**settings).decide(
            IDS, GIVEN, {'candidates': shuffled(without(MEASURED, 60))}, 3
        )
    with pytest.raises(UserError, match='id 30'):
        relabel(find(), {20: 2}, agreement=False)
    tables = {'candidates': shuffled(without(MEASURED, 20)), 'edits': find()}
    tables['measured'] = Table({'ids': np.array([20, 30]), 'label': np.array([1, 0], np.int32)})
    with pytest.raises(UserError, match='id 20'):
        TrueLabels(agreement=False, again=False, **CHOICE).decide(IDS, GIVEN, tables, 3)


def draw(seed, count=24, classes=4, k=6):
    """A dataset measured by three classifiers, with ties of votes and of distances."""
    rng = np.random.default_rng(seed)
    main, other = rng.integers(0, classes, (2, count, 1))
    share = rng.choice([0, 0.1, 0.5, 0.9, 1], (count, 1))
    candidates = [
        np.where(rng.random((count, k)) < share, other, main).astype(np.int32) for _ in range(3)
    ]
    given, raw, *labels = (
        np.where(rng.random(count) < 0.6, main[:, 0], rng.integers(0, classes, count))
        for _ in range(4)
    )
    return {
        'ids': rng.permutation(1000)[:count],
        'given': given.astype(np.int32),
        'victim': (raw.astype(np.int32), candidates[0]),
        'benign': (labels[0].astype(np.int32), candidates[1]),
        'finetuned': (labels[1].astype(np.int32), candidates[2]),
        'distance': rng.integers(0, 4, (count, k)).astype(np.float32) / 4,
    }


def decide_all(data, classes, *, reading, choice, final, rank=0.6, count_raw=False):
    """The three tables of decisions, each from what the one before asked to be measured."""
    ids, labels = data['ids'], data['given']
    raw, candidates = data['victim']
    first = {'ids': ids, 'raw': raw, 'candidates': candidates, 'distance': data['distance']}
    tables = {'candidates': shuffled(first)}
    choices = {'rank': rank, 'count_raw': count_raw, 'choice': choice}
    targets = {'name': 'mad', 'threshold': 0.3, 'score': 'count', 'two_sided': False}
    rule = LabelTransition(tau=0.4, benign=reading, targets=targets, labels='benign', **choices)
    found = [rule.decide(ids, labels, tables, classes)]
    for name, agreement, again in (('benign', True, final == 'all'), ('finetuned', False, False)):
        picked = found[-1]['open']
        theirs, their_candidates = data[name]
        columns = {'ids': ids, 'raw': theirs, 'label': theirs, 'candidates': their_candidates}
        measured = shuffled({key: column[picked] for key, column in columns.items()})
        now = tables | {'edits': found[-1], 'measured': measured}
        found.append(
            TrueLabels(agreement=agreement, again=again, **choices).decide(
                ids, labels, now, classes
            )
        )
    return found


READINGS = [
    (reading, choice, final)
    for reading in ('given', 'predicted')
    for choice in ('all', 'agreeing')
    for final in ('rest', 'all')
]


@pytest.mark.long
@pytest.mark.parametrize(('reading', 'choice', 'final'), READINGS)
@settings(max_examples=40)
@given(st.integers(0, 10**6), st.booleans(), st.sampled_from([0, 0.3, 0.6, 0.8, 1]))
def test_final_verdicts_are_those_of_the_paper_image_by_image(
    reading, choice, final, seed, count_raw, rank
):
    data = draw(seed)
    words = {'reading': reading, 'choice': choice, 'final': final, 'rank': rank}
    words |= {'count_raw': count_raw}
    tables = decide_all(data, 4, **words)
    last, made = tables[-1], set()
    for row in range(len(data['ids'])):
        image = {
            'given': data['given'][row],
            'raw': data['victim'][0][row],
            'candidates': data['victim'][1][row].tolist(),
        }
        image |= {'distance': data['distance'][row].tolist()}
        image |= {
            name: (data[name][0][row], data[name][1][row].tolist())
            for name in ('benign', 'finetuned')
        }
        letter, label, candidate = reference.final_verdict(
            image, last.facts['target_labels'], tau=0.4, **words
        )
        mine = 'BPS'[last['set'][row]], last['labels'][row], last['candidate'][row]
        assert mine == (letter, label, candidate)
    assert last['keep'].all()
    for table in tables:  # every image that is used has been made by then, and none twice
        rows = table['pick'].nonzero()[0]
        new = set(zip(rows.tolist(), table['candidate'][rows].tolist(), strict=True))
        assert not new & made
        made |= new
        used = (table['keep'] & (table['candidate'] >= 0)).nonzero()[0]
        assert set(zip(used.tolist(), table['candidate'][used].tolist(), strict=True)) <= made


def test_the_drawn_datasets_hold_all_cases():
    """What the comparison above is worth: every set, targets, settled and unsettled images, labels
    that the last stage changes.
    """
    seen = {'sets': set(), 'targets': 0, 'settled': 0, 'again': 0, 'made_again': 0}
    for seed in range(80):
        first, middle, last = decide_all(
            draw(seed), 4, reading='given', choice='agreeing', final='all'
        )
        seen['sets'] |= set(last['set'].tolist())
        seen['targets'] += len(last.facts['target_labels'])
        seen['settled'] += middle.facts['settled']
        settled = middle['keep'] & ~first['keep']
        seen['again'] += (settled & (middle['labels'] != last['labels'])).sum()
        seen['made_again'] += (settled & last['pick'] & (middle['candidate'] >= 0)).sum()
    assert seen['sets'] == {BENIGN, POISONED, SUSPICIOUS}
    assert min(seen['targets'], seen['settled'], seen['again'], seen['made_again']) > 5


@pytest.mark.parametrize('reading', ['given', 'predicted'])
@settings(max_examples=40)
@given(st.integers(0, 10**6))
def test_how_classes_are_numbered_decides_nothing(reading, seed):
    data = draw(seed)
    other = np.random.default_rng(seed).permutation(4).astype(np.int32)
    renamed = data | {'given': other[data['given']]}
    renamed |= {
        name: tuple(other[x] for x in data[name]) for name in ('victim', 'benign', 'finetuned')
    }
    decide = functools.partial(decide_all, reading=reading, choice='agreeing', final='rest')
    for mine, theirs in zip(decide(data, 4), decide(renamed, 4), strict=True):
        assert sorted(other[mine.facts['target_labels']].tolist()) == theirs.facts['target_labels']
        for name in ('set', 'eta', 'candidate', 'keep', 'pick', 'flagged'):
            assert (mine[name] == theirs[name]).all(), name
        for name in ('labels', 'vote', 'raw'):
            assert (other[mine[name]] == theirs[name]).all(), name
