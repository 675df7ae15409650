import json

import numpy as np
import pytest

from purify.core.errors import UserError
from purify.data.table import Table
from purify.defenses.filters.fct import FeatureConsistency
from purify.defenses.filters.score_filter import SCORES, HighestScores, score, score_steps
from purify.defenses.filters.strip import Strip
from purify.defenses.registry import DEFENSES

STUDENT = {
    'network': {'name': 'resnet18'},
    'epochs': 3,
    'steps': 0,
    'batch': 16,
    'augment': {},
    'load': '',
    'init_from': '',
    'optim': {
        'name': 'adam',
        'lr': 0.1,
        'b1': 0.9,
        'b2': 0.999,
        'clip': 0.0,
        'schedule': 'cosine',
        'warmup': 0.0,
    },
    'objective': {'name': 'classify'},
}


def made(name, remove=0.05, **changes):
    part = DEFENSES.part(name, score=changes, remove=remove)
    return DEFENSES.make(part.pop('name'), **part)


def scores_of(ids, score):
    return {'scores': Table({'ids': ids, 'score': np.asarray(score, np.float32)})}


def test_the_highest_scores_of_all_are_flagged_by_id():
    rng = np.random.default_rng(0)
    ids = rng.permutation(900)[:50]
    labels = rng.integers(0, 3, 50).astype(np.int32)
    score = rng.normal(size=50)
    order = rng.permutation(50)
    found = HighestScores(0.1).decide(ids, labels, scores_of(ids[order], score[order]), 4)
    wanted = set(sorted(range(50), key=lambda k: -score[k])[:5])
    assert set(np.flatnonzero(found['flagged']).tolist()) == wanted
    np.testing.assert_array_equal(found['keep'], ~found['flagged'])
    np.testing.assert_array_equal(found['labels'], labels)
    np.testing.assert_allclose(found['score'], score, rtol=1e-6)
    assert found.facts['removed'] == [sum(labels[k] == label for k in wanted) for label in range(4)]
    assert found.facts['comparable'] is True
    assert 'target_labels' not in found.facts
    json.dumps(found.facts, allow_nan=False)


def test_ties_go_by_id_and_the_share_is_cut_off():
    ids = np.array([9, 2, 7, 4, 5, 1, 30, 31, 32, 33])
    found = HighestScores(0.39).decide(ids, np.zeros(10, np.int32), scores_of(ids, np.ones(10)), 1)
    assert set(ids[found['flagged']].tolist()) == {1, 2, 4}
    assert (
        HighestScores(0.3)
        .decide(ids, np.zeros(10, np.int32), scores_of(ids, np.ones(10)), 1)['flagged']
        .sum()
        == 3
    )


@pytest.mark.parametrize('name', SCORES)
def test_a_defence_measures_decides_rewrites_and_trains(name):
    method = made(name, remove=0.07).method(STUDENT)
    steps = {step.name: step for step in method.steps}
    network = ['fct_early', 'fct_spread'] if name == 'fct' else []
    assert list(steps) == [*network, f'{name}_given', 'verdicts', 'purified', 'student']
    measured = steps[f'{name}_given']
    wanted = {'poisoned': 'poisoned', 'classifier': 'fct_spread' if name == 'fct' else 'teacher'}
    assert measured.inputs == wanted
    own = {key: x for key, x in score(name).items() if key not in ('network', 'early', 'spread')}
    assert measured.by == (FeatureConsistency(**own) if name == 'fct' else SCORES.make(name, **own))
    assert steps['verdicts'].inputs == {'poisoned': 'poisoned', 'scores': f'{name}_given'}
    assert steps['verdicts'].by == HighestScores(remove=0.07)
    assert steps['student'].inputs == {'data': 'purified'}
    outcome = method.outcome
    wanted = ('verdicts', 'purified', 'student')
    assert (outcome.findings, outcome.purified, outcome.classifier) == wanted


def test_scores_of_two_sets_share_fct_s_network():
    chosen = {'strip': score('strip', draws=7), 'fct': score('fct', times=3)}
    steps, names = score_steps(chosen, STUDENT, {'given': 'poisoned', 'made': 'generated'})
    assert names == {'strip': ('strip_given', 'strip_made'), 'fct': ('fct_given', 'fct_made')}
    wanted = ['strip_given', 'strip_made', 'fct_early', 'fct_spread', 'fct_given', 'fct_made']
    assert [step.name for step in steps] == wanted
    found = {step.name: step for step in steps}
    assert found['strip_made'].inputs == {'poisoned': 'generated', 'classifier': 'teacher'}
    assert found['fct_made'].inputs == {'poisoned': 'generated', 'classifier': 'fct_spread'}
    assert found['strip_made'].by == Strip(draws=7, image=1.0, overlay=1.0)
    assert found['fct_given'].by == FeatureConsistency(rotation=180.0, shift=0.2, times=3)
    assert 'early' in chosen['fct']  # settings of a config are left as they are


def test_fct_may_look_through_the_teacher():
    chosen = {'fct': score('fct', network='teacher', early=None, spread=None, rotation=45.0)}
    (step,), _ = score_steps(chosen, STUDENT, {'given': 'poisoned'})
    assert step.inputs == {'poisoned': 'poisoned', 'classifier': 'teacher'}
    assert step.by == FeatureConsistency(rotation=45.0, shift=0.2, times=1)


def test_every_setting_of_a_score_reaches_a_step():
    for name in SCORES:
        whole = score(name)
        steps, _ = score_steps({name: whole}, STUDENT, {'given': 'poisoned'})
        own = {key for step in steps if step.kind == 'measure' for key in step.facts()['by']} - {
            'name'
        }
        assert own == set(whole) - {'network', 'early', 'spread'}
        for key in own:
            changed = {'on': 'features', 'shift': 0.1, 'rotation': 90.0}.get(key) or whole[key] + 1
            steps, _ = score_steps({name: whole | {key: changed}}, STUDENT, {'given': 'poisoned'})
            (by,) = [step.facts()['by'] for step in steps if step.kind == 'measure']
            assert by[key] == changed != whole[key], (name, key)


def test_names_and_shares_that_are_none_are_refused():
    with pytest.raises(UserError, match='unknown score'):
        score_steps({'spectral': {}}, STUDENT, {'given': 'poisoned'})
    fct = score('fct')
    for wrong in ({'network': 'teacher'}, {'network': 'student'}):
        with pytest.raises(UserError, match='fct: network'):
            score_steps({'fct': fct | wrong}, STUDENT, {'given': 'poisoned'})
    said = r"score='spectral': choose from cognitive_distillation, fct, strip"
    with pytest.raises(ValueError, match=said):
        score('spectral')
    with pytest.raises(ValueError, match=r"score 'strip' has no setting 'times'"):
        score('strip', times=2)
    for remove in (0.0, 1.0, float('nan')):
        for make in (HighestScores, lambda remove: made('strip', remove=remove)):
            with pytest.raises(UserError, match=r'defense\.remove'):
                make(remove)
