"""Detectors as defences, as whole runs, tiny, against the truth."""

import numpy as np
import pytest
from configs.leaves_test import reaching
from support.tiny import ROOT, SMALL, STUDENT

from purify.attacker.manifest import Manifest
from purify.commands.check import check
from purify.commands.plan import make_stages
from purify.config.load import load_config
from purify.config.resolve import leaves
from purify.data.loader import Split
from purify.defenses.filters.score_filter import SCORES, score
from purify.engine.chain import Chain
from purify.engine.tables import read_table
from purify.evaluation.evaluate import describe_findings
from purify.metrics.detection import auroc

pytestmark = pytest.mark.usefixtures('few_devices')

SHORT = {  # changes to the scores
    'cognitive_distillation': {'steps': 2},
    'fct': {
        'early': {'epochs': 0.5, 'lr': 3e-3},
        'spread': {'epochs': 0.5, 'lr': 3e-3, 'weight': 0.1},
    },
    'strip': {'draws': 3},
}


@pytest.fixture(scope='module')
def store(tmp_path_factory):
    return tmp_path_factory.mktemp('scored')


def small(name):
    """FCT has a network of its own."""
    config = load_config(
        f'{ROOT}/configs/quickstart.py:defense={name}',
        [*SMALL, *STUDENT, '--config.defense.remove=0.25'],
    )
    config['defense']['score'] = score(name, **SHORT[name])
    return config


@pytest.mark.long
@pytest.mark.parametrize('name', SCORES)
def test_a_score_leaves_out_the_highest_and_is_held_against_the_truth(store, name):
    config = small(name)
    chain = Chain(make_stages(config), store)
    chain.run(
        [stage for stage in chain.stages if stage not in ('student', 'evaluate')], config['run']
    )
    split = Split(chain.folder('prepare') / 'poisoned', 'train')
    score = read_table(chain.folder(f'{name}_given')).of(split.ids, 'score')
    gone = np.lexsort((split.ids, -score))[:24]
    purified = Split(chain.folder('purified'), 'train')
    np.testing.assert_array_equal(np.sort(purified.ids), np.sort(np.delete(split.ids, gone)))
    manifest = Manifest.read(chain.folder('prepare') / 'truth')
    poisoned = np.isin(split.ids, manifest.ids[manifest.poisoned])
    found = describe_findings(chain.folder('verdicts'), manifest)
    assert found['auroc'] == pytest.approx(auroc(score, poisoned))
    assert found['tpr'] == pytest.approx(poisoned[gone].sum() / poisoned.sum())
    assert found['target_labels'] is None


@pytest.mark.long
@pytest.mark.parametrize('name', SCORES)
def test_its_stages_can_be_shaped(name):
    assert check(small(name)).problems == []


@pytest.mark.parametrize('name', SCORES)
def test_every_leaf_changes_some_stage(name):
    config = small(name)
    assert {leaf for leaf in leaves(config) if leaf.startswith('defense.')} <= reaching(config)
