import json

import numpy as np
import pytest
from support.made_features import planted, table_of

from purify.core.errors import UserError
from purify.defenses.filters.spectral import Spectral, spectral_scores


def by_hand(features):
    """Squared projections on the direction that power iteration finds."""
    centred = np.asarray(features, np.float64) - np.mean(features, 0, dtype=np.float64)
    direction = np.ones(centred.shape[1])
    for _ in range(3000):
        direction = centred.T @ (centred @ direction)
        direction /= np.linalg.norm(direction)
    return (centred @ direction) ** 2


def test_scores_are_squared_projections_of_centred_features():
    """The features lie far from zero: uncentred, as in some code, the mean would win."""
    features = np.random.default_rng(0).normal(size=(50, 8)) * [4, 1, 1, 1, 1, 1, 1, 1] + 100
    np.testing.assert_allclose(spectral_scores(features), by_hand(features), rtol=1e-6, atol=1e-9)


def test_the_planted_group_is_found_by_id():
    ids, labels, features, bad = planted(shift=20.0)
    found = Spectral(remove=9 / 60).decide(ids, labels, {'features': features}, 3)
    np.testing.assert_array_equal(found['flagged'][labels == 1], bad[labels == 1])
    in_order = features.of(ids, 'features')
    for label in range(3):
        rows = labels == label
        scores = by_hand(in_order[rows])
        np.testing.assert_allclose(found['score'][rows], scores, rtol=1e-4, atol=1e-6)
        np.testing.assert_array_equal(found['flagged'][rows], scores >= np.sort(scores)[-9])
    np.testing.assert_array_equal(found['keep'], ~found['flagged'])
    assert 'target_labels' not in found.facts
    json.dumps(found.facts, allow_nan=False)


@pytest.mark.parametrize(('remove', 'gone'), [(0.29, 29), (0.5, 50), (0.005, 0), (0.15, 15)])
def test_the_share_is_of_every_class(remove, gone):
    rng = np.random.default_rng(0)
    labels, ids = np.repeat([0, 2], 100).astype(np.int32), np.arange(200)
    found = Spectral(remove=remove).decide(
        ids, labels, {'features': table_of(ids, rng.normal(size=(200, 4)))}, 3
    )
    assert [found['flagged'][labels == k].sum() for k in (0, 2)] == [gone, gone]


def test_equal_images_are_no_poison():
    ids, labels = np.arange(20), np.zeros(20, np.int32)
    features = table_of(ids, np.full((20, 4), 0.25))
    assert not Spectral(remove=0.5).decide(ids, labels, {'features': features}, 1)['flagged'].any()


def test_its_steps_and_its_limits():
    method = Spectral(remove=0.1).method({'objective': {'name': 'distill'}})
    assert method.steps[0].inputs['classifier'] == 'teacher'
    assert method.step('verdicts').facts() == {'by': {'name': 'Spectral', 'remove': 0.1}}
    assert method.steps[-1].inputs == {'data': 'purified', 'teacher': 'teacher'}
    for remove in (0.0, 0.51, float('nan')):
        with pytest.raises(UserError, match=r'defense\.remove'):
            Spectral(remove=remove)
