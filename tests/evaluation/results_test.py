import shutil
from types import SimpleNamespace

import numpy as np
import pytest
from support.tiny import ROOT, SMALL, run_chain

from purify.attacker.manifest import Manifest
from purify.config.load import load_config
from purify.core.errors import UserError
from purify.data.table import Table
from purify.engine.chain import Chain
from purify.engine.stage import Stage
from purify.engine.tables import write_table
from purify.evaluation.results import count_trusted, gather, gather_cost, samples, true_targets

pytestmark = pytest.mark.usefixtures('few_devices')


def attacked(words, **changes):
    config = load_config(f'{ROOT}/configs/attacks.py:{words}', SMALL)
    config['attack'] |= changes
    return config


@pytest.mark.long
@pytest.mark.parametrize(
    ('words', 'changes', 'targets'),
    [
        ('attack=patch,rate=0.2', {'target': 3}, [3]),
        ('attack=three_patches,rate=0.2', {}, [0, 1, 2]),
        (
            'attack=patch,rate=0.2',
            {'more': {'b': {'corner': 'top_left'}, 'c': {'target': 5, 'corner': 'top_right'}}},
            [0, 5],
        ),
        ('attack=patch,rate=0.1', {'scheme': 'clean_label', 'target': 4, 'base': 'target'}, [4]),
        ('attack=patch,rate=0.1', {'scheme': 'all_to_all', 'sources': [3, 9]}, [0, 4]),
        ('attack=patch,rate=0.5', {'scheme': 'all_to_all'}, list(range(10))),
        ('attack=none', {}, []),
        ('attack=none', {'target': 7}, []),
    ],
)
def test_the_targets_are_the_labels_that_poison_carries(tmp_path, words, changes, targets):
    chain = run_chain(attacked(words, **changes), tmp_path, ['prepare'])
    manifest = Manifest.read(chain.folder('prepare') / 'truth')
    carried = np.unique(manifest.given_labels[manifest.poisoned]).tolist()
    assert true_targets(manifest.facts) == targets == carried


@pytest.mark.long
@pytest.mark.parametrize(
    ('words', 'targets'), [('attack=three_patches,rate=0.2', [0, 1, 2]), ('attack=none', [])]
)
def test_results_name_every_true_target(tmp_path, words, targets):
    config = attacked(words)
    assert gather(config, run_chain(config, tmp_path), {}).attack.targets == targets


@pytest.fixture(scope='module')
def prepared(tmp_path_factory):
    return run_chain(
        attacked('attack=patch,rate=0.2'), tmp_path_factory.mktemp('prepared'), ['prepare']
    )


def test_costs_of_a_run_that_is_not_whole_are_refused(tmp_path):
    chain = Chain([Stage(name, lambda work: None, {}) for name in 'abc'], tmp_path)
    chain.run(['a', 'b', 'c'], {})
    spent = [chain.done(name)['cost'] for name in 'abc']
    cost = gather_cost(chain, {})
    assert cost.seconds == pytest.approx(sum(one['seconds'] for one in spent))
    assert cost.device_seconds == pytest.approx(sum(one['device_seconds'] for one in spent))
    shutil.rmtree(chain.folder('b'))
    (chain.folder('c') / 'DONE').unlink()
    with pytest.raises(UserError, match='b, c is not finished'):
        gather_cost(chain, {})


@pytest.mark.parametrize('facts', [{}, {'images': 'five'}, {'images': None}])
def test_trusted_images_that_nobody_counted_are_the_users_error(tmp_path, facts):
    write_table(tmp_path, Table({'ids': np.arange(5)}, facts))
    stages = {'b': SimpleNamespace(inputs={'trusted': SimpleNamespace(stage='trusted')})}
    with pytest.raises(UserError, match='does not say how many images'):
        count_trusted(SimpleNamespace(stages=stages, folder=lambda name: tmp_path))


def shown_with(prepared, folder, columns):
    """The samples of a run whose findings hold those columns; None: no findings."""
    inputs = {} if columns is None else {'findings': folder}
    if columns is not None:
        write_table(folder, Table(columns, {}))
    stages = {'evaluate': SimpleNamespace(inputs=inputs)}
    chain = SimpleNamespace(folder=prepared.folder, stages=stages, path=lambda source: source)
    return samples(chain, 8)


def test_samples_know_their_label_after_the_defence(prepared, tmp_path):
    manifest = Manifest.read(prepared.folder('prepare') / 'truth')
    names = manifest.facts['class_names']
    # findings stand in their own order
    order = np.random.default_rng(0).permutation(len(manifest.ids))
    ids, labels = manifest.ids[order], (manifest.given_labels[order] + 1) % 10
    columns = {'ids': ids, 'labels': labels.astype(np.int32), 'keep': ids % 3 != 0}
    shown = shown_with(prepared, tmp_path / 'a', columns)
    given = {one['id']: names.index(one['given_label']) for one in shown}
    expected = {
        identity: 'dropped' if identity % 3 == 0 else names[(label + 1) % 10]
        for identity, label in given.items()
    }
    assert {one['id']: one['label_after'] for one in shown} == expected
    assert len({label == 'dropped' for label in expected.values()}) == 2  # both are among them
    del columns['keep']
    assert 'dropped' not in [
        one['label_after'] for one in shown_with(prepared, tmp_path / 'b', columns)
    ]


@pytest.mark.parametrize('known', [False, True])
def test_methods_that_say_nothing_of_labels_leave_them_open(prepared, tmp_path, known):
    ids = Manifest.read(prepared.folder('prepare') / 'truth').ids
    shown = shown_with(
        prepared, tmp_path / 'a', {'ids': ids, 'flagged': ids < 0} if known else None
    )
    assert {one['label_after'] for one in shown} == {None}
