"""The stage that fits a density to the features of each class: what it writes, refuses, and what
`check` sees of it.
"""

import dataclasses
import json

import numpy as np
import pytest
from support.small_dataset import work

from purify.core.errors import UserError
from purify.core.files import read_json
from purify.data import builders
from purify.data.table import Table
from purify.defenses.method import Step
from purify.engine.tables import read_table, write_table
from purify.stages import fit_densities
from purify.stages.fit_densities import describe_classes, prepare_features
from purify.stages.known import Data, Diagnosis, Known
from purify.stages.registry import KINDS
from purify.train.density import Densities

pytestmark = pytest.mark.usefixtures('few_devices')

RNG = np.random.default_rng(0)
COUNT = 36
IDS, LABELS = 900 - 7 * np.arange(COUNT), (np.arange(COUNT) % 3).astype(np.int32)
FEATURES = RNG.normal(size=(COUNT, 5)) @ RNG.normal(size=(5, 5)) + 3.0 * LABELS[:, None] + 10
FLOWS = {'couplings': 2, 'hidden': 4, 'transform': 'affine', 'mixing': 'swap', 'reduce': 3}
FIT = {'epochs': 6.0, 'batch': 4, 'lr': 0.03, 'b1': 0.9, 'b2': 0.99, 'hold_out': 0.2}


@pytest.fixture
def run(tmp_path):
    ranges = builders.cut(COUNT, COUNT)
    writer = builders.DatasetWriter(
        tmp_path / 'poisoned', 'poisoned', 'train', builders.make_features(2, 1, list('abc')), 1
    )
    blank = np.zeros((2, 2, 1), np.uint8)
    writer.write(
        0, [{'id': int(IDS[i]), 'image': blank, 'label': int(LABELS[i])} for i in ranges[0]]
    )
    writer.finish([COUNT])
    order = RNG.permutation(COUNT)
    (tmp_path / 'features').mkdir()
    write_table(
        tmp_path / 'features',
        Table({'ids': IDS[order], 'features': FEATURES[order].astype(np.float32)}),
    )

    def run(name, **changes):
        settings = {'flows': FLOWS, 'fit': FIT, 'seed': 0} | changes
        job = work(
            tmp_path / name,
            {role: tmp_path / role for role in ('poisoned', 'features')},
            **settings,
        )
        fit_densities.run(dataclasses.replace(job, run=job.run | {'save_every': 500}))
        return tmp_path / name

    return run


def test_every_image_is_judged_under_every_class(run):
    folder = run('densities')
    table = read_table(folder)
    np.testing.assert_array_equal(table['ids'], IDS)
    assert table['log_density'].shape == (COUNT, 3)
    assert (table['log_density'].argmax(1) == LABELS).mean() > 0.7
    facts = read_json(folder / 'findings.json')
    assert (facts['features'], facts['dimensions']) == (5, 3)
    assert 1 <= facts['epoch'] <= 6
    for label, (row, apart) in enumerate(zip(facts['labels'], facts['apart'], strict=True)):
        assert (row['label'], row['images'], row['nll_held']) == (label, 12, None)
        # on all images, up to the epoch that those held out liked
        assert row['updates'] == round(facts['epoch'] * 12 / 4)
        assert (apart['images'], apart['updates']) == (12, 15)  # 6 epochs of 10 in batches of 4
        assert apart['nll_held'] is not None
        assert row['nll_train'] == pytest.approx(
            -table['log_density'][label == LABELS, label].mean(), rel=1e-5
        )
    json.dumps(facts, allow_nan=False)


def test_a_class_is_described_by_its_own_density_alone():
    log_density = RNG.normal(size=(5, 3)).astype(np.float32)
    labels, held = np.array([2, 0, 2, 0, 2], np.int32), np.array([False, False, True, False, False])
    first, second, third = describe_classes(
        Densities(log_density, held, np.array([4, 0, 6]), 1), labels
    )
    assert [first['images'], second['images'], third['images']] == [2, 0, 3]
    wanted = pytest.approx(-(float(log_density[1, 0]) + float(log_density[3, 0])) / 2)
    assert first['nll_train'] == wanted
    wanted = pytest.approx(-(float(log_density[0, 2]) + float(log_density[4, 2])) / 2)
    assert third['nll_train'] == wanted
    assert third['nll_held'] == pytest.approx(-float(log_density[2, 2]))
    assert (first['nll_held'], second['nll_train'], second['nll_held']) == (None, None, None)


def test_features_are_standardised_and_whitened():
    plain, facts = prepare_features(FEATURES)
    wanted = (FEATURES - FEATURES.mean(0)) / FEATURES.std(0)
    np.testing.assert_allclose(plain, wanted, rtol=1e-5, atol=1e-6)
    assert facts == {'features': 5, 'dimensions': 5, 'explained': 1.0}
    small, facts = prepare_features(FEATURES, 3)
    left, sizes, _ = np.linalg.svd(plain.astype(np.float64), full_matrices=False)
    assert facts['explained'] == pytest.approx((sizes[:3] ** 2).sum() / (sizes**2).sum())
    signs = np.sign((small * left[:, :3]).sum(0))
    np.testing.assert_allclose(small, left[:, :3] * np.sqrt(COUNT) * signs, atol=1e-4)
    np.testing.assert_array_equal(small, prepare_features(FEATURES, 3)[0])


def test_features_that_never_vary_are_left_out():
    wide = np.concatenate([FEATURES[:, :2], np.full((COUNT, 1), 0.3), FEATURES[:, 2:]], 1)
    found, facts = prepare_features(wide)
    np.testing.assert_allclose(found, prepare_features(FEATURES)[0], atol=1e-6)
    assert (facts['features'], facts['dimensions']) == (6, 5)


@pytest.mark.parametrize(
    ('features', 'reduce', 'words'),
    [
        (np.where(np.arange(COUNT)[:, None] == 4, np.nan, FEATURES), 0, '1 images.*row 4'),
        (np.ones((COUNT, 5)), 0, 'of 5 features 0 vary'),
        (np.concatenate([FEATURES, FEATURES], 1), 6, 'flows.reduce=6: .*5 directions'),
        (FEATURES, 1, 'flows.reduce=1'),
    ],
)
def test_features_that_say_nothing_are_refused(features, reduce, words):
    with pytest.raises(UserError, match=words):
        prepare_features(features, reduce)


def test_check_shapes_the_flows():
    def shaped(**changes):
        found = Diagnosis()
        known = Known(found, {}, Data(2, 1, 3, COUNT), {}, widths={'features': 5})
        step = Step(
            'densities',
            'densities',
            {'features': 'features'},
            {'flows': FLOWS | changes, 'fit': FIT},
        )
        assert KINDS[step.kind] is fit_densities.KIND
        found.attempt(step.name, lambda: KINDS[step.kind].shape(known, step))
        return found

    # halves of 1 and 2, hidden 4, two numbers each
    numbers = (1 * 4 + 4 + 4 * 4 + 4) + (2 * 4 + 4 + 4 * 2 + 2)
    assert shaped().notes == [f'densities: 3 flows of {numbers} parameters on 5 features']
    assert 'flows.reduce=6' in shaped(reduce=6).problems[0]
    assert "'linear'" in shaped(transform='linear').problems[0]
