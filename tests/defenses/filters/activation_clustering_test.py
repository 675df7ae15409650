import itertools
import json

import numpy as np
import pytest
import sklearn.cluster
import sklearn.metrics
from sklearn.decomposition import FastICA
from support.made_features import planted, table_of
from threadpoolctl import threadpool_info

from purify.core.errors import UserError
from purify.data.table import Table
from purify.defenses.filters.activation_clustering import (
    MOST,
    ActivationClustering,
    clearness,
    reduce_features,
    two_clusters,
)

USUAL = {'reduction': 'ica', 'dimensions': 4, 'size': 0.35, 'silhouette': 0.0}


@pytest.mark.parametrize('reduction', ['ica', 'pca'])
def test_the_planted_group_is_found_by_id(reduction):
    """The table has another order than the dataset: a filter that went by position would fail."""
    ids, labels, features, bad = planted(shift=40.0)
    found = ActivationClustering(**USUAL | {'reduction': reduction}).decide(
        ids, labels, {'features': features}, 3
    )
    flagged = found['flagged']
    np.testing.assert_array_equal(flagged[labels == 1], bad[labels == 1])
    np.testing.assert_array_equal(found['keep'], ~flagged)
    np.testing.assert_array_equal(found['ids'], ids)
    np.testing.assert_array_equal(found['labels'], labels)
    assert (found['candidate'] == -1).all()
    assert 1 in found.facts['target_labels']
    assert [row['images'] for row in found.facts['classes']] == [60, 60, 60]
    assert found.facts['classes'][1]['share'] == pytest.approx(9 / 60)
    json.dumps(found.facts, allow_nan=False)


def test_only_small_and_clear_clusters_go():
    ids, labels, features, bad = planted(shift=40.0)

    def flagged(**changes):
        rule = ActivationClustering(**USUAL | {'reduction': 'pca', 'dimensions': 1} | changes)
        return rule.decide(ids, labels, {'features': features}, 3)

    clear = flagged(silhouette=0.7)  # noise has a silhouette of about .5 in one dimension
    np.testing.assert_array_equal(clear['flagged'], bad)
    assert clear.facts['target_labels'] == [1]
    assert not flagged(size=9 / 60, silhouette=0.7)['flagged'].any()  # below the share, not at it
    assert flagged(size=9 / 60 + 1e-9, silhouette=0.7)['flagged'].any()


def test_whitened_components_stand_for_independent_ones():
    """All distances, all that k-means and silhouettes see, are those of scikit-learn's FastICA."""
    features = np.random.default_rng(1).laplace(size=(40, 6)) @ np.random.default_rng(2).normal(
        size=(6, 6)
    )
    ours = reduce_features(features, 'ica', 3)
    theirs = FastICA(3, whiten='unit-variance', random_state=0, max_iter=2000).fit_transform(
        features
    )
    gram = lambda x: x @ x.T
    np.testing.assert_allclose(gram(ours), gram(theirs), atol=1e-8)
    assert ours.var(0) == pytest.approx(1.0)


def test_principal_components_are_the_eigenvectors_of_the_covariance():
    features = np.random.default_rng(1).normal(size=(30, 5)) * [5, 4, 3, 2, 1]
    centred = features - features.mean(0)
    values, vectors = np.linalg.eigh(centred.T @ centred)
    wanted = centred @ vectors[:, ::-1][:, :2]
    found = np.abs(reduce_features(features, 'pca', 2))
    np.testing.assert_allclose(found, np.abs(wanted), atol=1e-8)
    assert (reduce_features(features, 'pca', 2) ** 2).sum(0) == pytest.approx(values[::-1][:2])


def test_clusters_are_the_best_of_all_splits():
    points = np.random.default_rng(3).normal(size=(11, 2))
    points[:4] += 3

    def spread(inside):
        return sum(((points[side] - points[side].mean(0)) ** 2).sum() for side in (inside, ~inside))

    splits = (np.array(bits, np.bool_) for bits in itertools.product((0, 1), repeat=11))
    best = min((split for split in splits if 0 < split.sum() < 5.5), key=spread)
    np.testing.assert_array_equal(two_clusters(points), best)
    distance = np.linalg.norm(points[:, None] - points[None], axis=-1)
    widths = []
    for i in range(11):
        same = (best == best[i]) & (np.arange(11) != i)
        near, far = distance[i][same].mean(), distance[i][best != best[i]].mean()
        widths.append((far - near) / max(far, near))
    assert clearness(points, best) == pytest.approx(np.mean(widths))


def test_a_silhouette_is_of_some_points_only_and_only_when_asked_for(monkeypatch):
    rng, seen = np.random.default_rng(0), []
    monkeypatch.setattr(
        sklearn.metrics,
        'silhouette_score',
        lambda points, sides: seen.append((points, sides)) or 0.5,
    )
    points, smaller = np.arange(40_000.0)[:, None], rng.random(40_000) < 0.1
    assert [clearness(points, smaller) for _ in range(2)] == [0.5, 0.5]
    (first, sides), (second, _) = seen
    np.testing.assert_array_equal(first, second)
    assert (len(first), len(np.unique(first))) == (MOST, MOST)
    assert sides.mean() == pytest.approx(smaller.mean(), abs=1e-3)
    np.testing.assert_array_equal(sides, smaller[first[:, 0].astype(int)])
    rare = np.arange(40_000) == 7
    clearness(points, rare)
    assert seen[-1][1].sum() == 1
    assert clearness(points, rare & False) == 0
    seen.clear()
    ids, labels, features, _ = planted()
    facts = ActivationClustering(**USUAL).decide(ids, labels, {'features': features}, 3).facts
    assert not seen
    assert {row['silhouette'] for row in facts['classes']} == {None}


def test_clusters_are_sought_on_one_thread(monkeypatch):
    threads, fit = [], sklearn.cluster.KMeans.fit_predict

    def watched(self, points):
        threads.extend(pool['num_threads'] for pool in threadpool_info())
        return fit(self, points)

    monkeypatch.setattr(sklearn.cluster.KMeans, 'fit_predict', watched)
    two_clusters(np.arange(12.0)[:, None])
    assert set(threads) == {1}


def test_classes_that_nothing_can_be_said_of_stay_whole():
    rng = np.random.default_rng(0)
    # constant, few, a line, nothing (3), plenty
    labels = np.array([0] * 20 + [1] * 3 + [2] * 12 + [4] * 20, np.int32)
    features = rng.normal(size=(55, 6))
    features[labels == 0] = 0.1
    features[labels == 2] = np.arange(12)[:, None] * np.ones(6)
    ids = np.arange(55)
    found = ActivationClustering(**USUAL).decide(
        ids, labels, {'features': table_of(ids, features)}, 5
    )
    wanted = [(0, 0), (1, 0), (2, 1), (4, 4)]
    assert [(row['label'], row['dimensions']) for row in found.facts['classes']] == wanted
    assert not found['flagged'][labels < 3].any()
    json.dumps(found.facts, allow_nan=False)


def test_verdicts_are_a_function_of_the_features_and_missing_images_are_told():
    ids, labels, features, _ = planted()
    rule = ActivationClustering(**USUAL)
    first, second = (rule.decide(ids, labels, {'features': features}, 3) for _ in range(2))
    np.testing.assert_array_equal(first['cluster'], second['cluster'])
    part = Table({name: column[1:] for name, column in features.columns.items()})
    with pytest.raises(UserError, match=f'lacks 1 images .such as id {features["ids"][0]}'):
        rule.decide(ids, labels, {'features': part}, 3)


def test_its_steps_lead_from_the_teacher_to_a_student():
    student = {'objective': {'name': 'classify'}}
    method = ActivationClustering(**USUAL).method(student)
    expected = [('features', 'measure'), ('verdicts', 'decide'), ('purified', 'rewrite')]
    expected += [('student', 'classifier')]
    assert [(step.name, step.kind) for step in method.steps] == expected
    assert method.step('verdicts').facts() == {'by': {'name': 'ActivationClustering'} | USUAL}
    wanted = ('verdicts', 'purified', 'student')
    assert (method.outcome.findings, method.outcome.purified, method.outcome.classifier) == wanted


@pytest.mark.parametrize(
    'bad',
    [{'reduction': 'umap'}, {'dimensions': 0}, {'size': 0.6}, {'size': 0.0}, {'silhouette': 1.0}],
)
def test_bad_settings_are_refused(bad):
    with pytest.raises(UserError, match=next(iter(bad))):
        ActivationClustering(**USUAL | bad)
