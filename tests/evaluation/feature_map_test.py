import sys
from importlib.machinery import ModuleSpec
from types import ModuleType

import numpy as np
import pytest
from sklearn.decomposition import PCA
from sklearn.preprocessing import StandardScaler
from support.made_run import MadeRun

from purify.attacker.manifest import Manifest
from purify.core.randomness import stream_seed
from purify.evaluation import feature_map as stage

RNG = np.random.default_rng(3)
FEATURES = (RNG.normal(0, 1, (60, 8)) * np.arange(1, 9) + 5).astype(np.float32)


@pytest.fixture
def without_umap(monkeypatch):
    monkeypatch.setattr(stage.importlib.util, 'find_spec', lambda name: None)


def test_components_are_those_of_scikit_learn(without_umap):
    method, points = stage.lay_out(FEATURES, 0)
    expected = PCA(2, svd_solver='full').fit_transform(
        StandardScaler().fit_transform(FEATURES.astype(np.float64))
    )
    signs = np.sign((points * expected).sum(0))
    assert method == 'pca'
    np.testing.assert_allclose(points, expected * signs, atol=1e-5)
    mirrored = stage.lay_out(-FEATURES, 0)[1]  # the loadings are the same, and so are the signs
    np.testing.assert_allclose(mirrored, -points, atol=1e-5)


def test_features_of_few_dimensions_and_constant_ones_make_a_map_too(without_umap):
    points = stage.lay_out(np.tile(np.float32([[3]]), (9, 1)), 0)[1]
    np.testing.assert_array_equal(points, np.zeros((9, 2)))
    points = stage.lay_out(FEATURES[:, :1], 0)[1]
    assert points[:, 0].std() == pytest.approx(1, abs=1e-4)
    assert not points[:, 1].any()


def test_umap_gets_components_and_the_seed_on_one_thread(monkeypatch):
    asked = {}

    class Umap:
        def __init__(self, **options):
            asked.update(options)

        def fit_transform(self, rows):
            asked['rows'] = rows
            return rows[:, :2]

    module = ModuleType('umap')
    module.__spec__ = ModuleSpec('umap', None)
    module.UMAP = Umap
    monkeypatch.setitem(sys.modules, 'umap', module)
    method, points = stage.lay_out(FEATURES, 7)
    rows = asked.pop('rows')
    assert (method, points.dtype, points.shape) == ('umap', np.float32, (60, 2))
    assert asked == {'n_neighbors': 15, 'random_state': stream_seed(7, 'umap'), 'n_jobs': 1}
    assert rows.shape == (60, stage.DIMENSIONS)
    # all of the variance, in as many components as there are
    np.testing.assert_allclose((rows**2).sum(), 60 * 8)
    assert not rows[:, 8:].any()


def manifest_of(count, hits):
    zeros, none = np.zeros(count, np.int32), np.full(count, -1)
    poisoned = np.isin(np.arange(count), np.random.default_rng(0).permutation(count)[:hits])
    return Manifest(
        10 * np.arange(count), zeros, zeros, poisoned, np.zeros(count, bool), none, none, {}
    )


@pytest.mark.parametrize(
    ('count', 'hits', 'shown', 'whole'),
    [
        (9000, 3000, 2000, 4000),
        (9000, 700, 700, 4000),
        (2500, 2400, 2000, 2100),
        (900, 90, 90, 900),
        (50, 0, 0, 50),
    ],
)
def test_the_map_holds_poisoned_images_first_then_others(count, hits, shown, whole):
    manifest = manifest_of(count, hits)
    rows = stage.choose_points(manifest, 1)
    assert (manifest.poisoned[rows].sum(), len(np.unique(rows)), len(rows)) == (shown, whole, whole)
    assert (np.diff(rows) > 0).all()
    np.testing.assert_array_equal(rows, stage.choose_points(manifest, 1))
    assert np.array_equal(rows, stage.choose_points(manifest, 2)) == (whole == count)


@pytest.mark.parametrize(
    ('named', 'aims', 'close'),
    [
        ([3], [3], [3, 0, 1]),
        ([3], [0], [3, 0, 1, 2]),
        ([], [], [0, 1]),
        ([], [0, 1, 2, 3, 4, 5, 6], [0, 1, 2, 3, 4, 5]),
    ],
)
def test_close_classes_are_the_suspects_and_two_others(named, aims, close):
    assert stage.close_classes(named, aims, list(range(7))) == close


@pytest.fixture(scope='module')
def made(tmp_path_factory):
    made = MadeRun(tmp_path_factory.mktemp('made'))
    made.count = len(made.given)
    made.features = np.random.default_rng(1).normal(0, 1, (made.count, 6)).astype(np.float32)
    return made


def draw(made, name, columns, order=slice(None), **facts):
    features = made.folder / f'features-{name}'
    features.mkdir()
    stage_columns = {'ids': made.given.ids[order], 'features': made.features[order]}
    np.savez(features / 'rows-00000-of-00001.npz', **stage_columns)
    findings = made.table(f'findings-{name}', columns, **facts)
    work = made.work(name, {'features': features, 'findings': findings}, {'seed': 4})
    stage.make_map(work)
    return stage.read_map(work.folder)


def test_the_map_of_a_run_stands_beside_the_truth(made, without_umap):
    score, foreign = np.arange(made.count) / 7, -np.arange(made.count) / 3
    verdict = (np.arange(made.count) % 4).astype(np.uint8)
    columns = {'flagged': verdict == 3, 'verdict': verdict, 'score': score, 'foreign': foreign}
    target = made.config['attack']['target']
    wrong = (target + 2) % 10
    found = draw(made, 'relabel', columns, slice(None, None, -1), target_labels=[wrong])
    truth = made.manifest
    assert found['facts']['images'] == made.count
    wanted = ('pca', [wrong], [target])
    assert (found['facts']['method'], found['facts']['named'], found['facts']['aims']) == wanted
    np.testing.assert_array_equal(found['ids'], truth.ids)  # few enough to show all
    np.testing.assert_array_equal(found['poisoned'], truth.poisoned)
    np.testing.assert_array_equal(found['true'], truth.true_labels)
    np.testing.assert_array_equal(found['named'], truth.given_labels == wrong)
    rows = made.given.position_of(truth.ids)
    np.testing.assert_array_equal(found['points'], stage.lay_out(made.features[rows], 4)[1])
    close = np.isin(truth.given_labels, found['facts']['classes'])
    np.testing.assert_array_equal(found['close_ids'], truth.ids[close])
    np.testing.assert_array_equal(found['close_score'], score[rows[close]])
    np.testing.assert_array_equal(found['close_foreign'], foreign[rows[close]])
    np.testing.assert_array_equal(found['close_verdict'], verdict[rows[close]])
    np.testing.assert_array_equal(found['close_poisoned'], truth.poisoned[close])


def test_equal_inputs_give_equal_bytes_and_filters_have_two_verdicts(made, without_umap):
    flagged = np.arange(made.count) % 5 == 0
    for name in ('one', 'other'):
        found = draw(made, name, {'flagged': flagged, 'keep': ~flagged})
    for file in (stage.FILE, stage.FACTS):
        seen = (made.folder / 'one' / file).read_bytes()
        assert seen == (made.folder / 'other' / file).read_bytes()
    assert found['facts']['named'] == []
    close = made.given.position_of(found['close_ids'])
    np.testing.assert_array_equal(found['close_verdict'], np.where(flagged[close], 3, 1))
    assert 'close_score' not in found
    assert 'close_foreign' not in found
