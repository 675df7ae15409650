"""Poisoning schemes and learned triggers from the config to the numbers."""

import os
import shutil

import numpy as np
import pytest
from support.tiny import ROOT, SMALL, run_chain, shrink_fit

from purify.attacker.poison_plan import read_attacks
from purify.commands.plan import make_stages
from purify.config.load import load_config
from purify.core.errors import UserError
from purify.core.files import read_json, write_json
from purify.data.loader import Split
from purify.engine.chain import Chain

pytestmark = pytest.mark.usefixtures('few_devices')


def attacked(words, **changes):
    config = load_config(f'{ROOT}/configs/attacks.py:{words}', SMALL)
    config['attack'] |= changes
    return config


def evaluated(tmp_path, words, **changes):
    chain = run_chain(attacked(words, **changes), tmp_path)
    return chain, read_json(chain.folder('evaluate') / 'numbers.json')['teacher']


def test_each_of_several_triggers_is_evaluated_on_its_own_target(tmp_path):
    chain, teacher = evaluated(tmp_path, 'attack=three_patches,rate=0.2')
    labels = Split(chain.folder('prepare') / 'truth' / 'test', 'test').labels
    assert [trigger['target'] for trigger in teacher['triggers']] == [0, 1, 2]
    counts = [trigger['counts']['asr'] for trigger in teacher['triggers']]
    assert [count for _, count in counts] == [int((labels != target).sum()) for target in range(3)]
    assert teacher['counts']['asr'] == np.sum(counts, axis=0).tolist()


@pytest.mark.long
def test_all_to_all_counts_every_test_image(tmp_path):
    _, teacher = evaluated(tmp_path, 'attack=patch,rate=0.2', scheme='all_to_all')
    assert teacher['counts']['asr'][1] == 48
    assert 'triggers' not in teacher


@pytest.mark.long
def test_source_specific_counts_images_of_the_sources(tmp_path):
    chain, teacher = evaluated(tmp_path, 'attack=patch,rate=0.1', sources=[3, 4], cover_rate=0.1)
    labels = Split(chain.folder('prepare') / 'truth' / 'test', 'test').labels
    assert teacher['counts']['asr'][1] == int(np.isin(labels, [3, 4]).sum())


@pytest.mark.long
def test_labels_alone_have_no_success_rate(tmp_path):
    _, teacher = evaluated(tmp_path, 'attack=relabel_only')
    assert (teacher['asr'], teacher['ra']) == (None, None)
    assert teacher['acc'] is not None


@pytest.fixture(scope='module')
def lira(tmp_path_factory):
    config = attacked('attack=lira')
    shrink_fit(config)
    return config, run_chain(config, tmp_path_factory.mktemp('lira'))


def test_a_fitted_trigger_stamps_the_dataset_and_lies_with_the_truth(lira):
    config, chain = lira
    folder = chain.folder('prepare')
    (attack,) = read_attacks(folder / 'truth')
    given = Split(folder / 'poisoned', 'train')
    before = Split(folder / 'truth' / 'originals', 'train')
    now = given.images(given.position_of(before.ids).tolist())
    wanted = attack.stamp_many(
        list(before.images(range(len(before)))), before.ids.tolist(), 'training'
    )
    np.testing.assert_array_equal(now, wanted)
    assert (now != before.images(range(len(before)))).any()
    facts = read_json(folder / 'truth' / 'manifest.json')
    assert facts['digest'] == attack.digest()
    assert read_json(chain.folder('evaluate') / 'numbers.json')['teacher']['counts']['asr'][1] > 0
    assert config['attack']['load'] == '', 'where it lies is no part of the settings'


def test_the_rate_does_not_fit_the_trigger_again(lira):
    config, chain = lira
    other = Chain(make_stages(config | {'attack': config['attack'] | {'rate': 0.2}}), chain.store)
    assert other.prints['trigger'] == chain.prints['trigger']
    assert other.prints['prepare'] != chain.prints['prepare']


@pytest.mark.long
def test_a_finished_trigger_is_taken_by_load_from_the_same_store(lira):
    config, chain = lira
    loaded = config | {'attack': config['attack'] | {'load': str(chain.folder('trigger'))}}
    again = run_chain(loaded, chain.store)
    assert list(again.stages) == ['prepare', 'teacher', 'evaluate']
    first, second = (
        read_json(run.folder('prepare') / 'truth' / 'manifest.json')['digest']
        for run in (chain, again)
    )
    assert first == second


def test_a_trigger_that_changed_since_is_refused(lira, tmp_path):
    _, chain = lira
    truth = shutil.copytree(chain.folder('prepare') / 'truth', tmp_path / 'truth')
    facts = read_json(truth / 'manifest.json')
    write_json(truth / 'manifest.json', facts | {'digest': facts['digest'][::-1]})
    with pytest.raises(UserError, match='not the one that poisoned'):
        read_attacks(truth)


def test_pictures_and_control_points_are_kept_with_the_truth(tmp_path):
    points = np.random.default_rng(0).uniform(-1, 1, (2, 4, 4))
    np.save(tmp_path / 'field.npy', points)
    chain = run_chain(
        attacked('attack=warp', control=str(tmp_path / 'field.npy')),
        tmp_path / 'stages',
        ['prepare'],
    )
    (tmp_path / 'field.npy').unlink()
    (attack,) = read_attacks(chain.folder('prepare') / 'truth')
    np.testing.assert_allclose(attack.pattern_pixels(), points)


def test_what_the_attacker_made_is_shut_to_the_victim(lira):
    _, chain = lira
    with chain.confined('teacher'):
        for path in (
            chain.folder('trigger') / 'trigger.json',
            chain.folder('clean'),
            chain.folder('prepare') / 'truth',
        ):
            with pytest.raises(PermissionError, match='sealed'):
                path.read_text() if path.suffix else os.listdir(path)
    with chain.confined('prepare'):
        assert (chain.folder('trigger') / 'trigger.json').read_text()
    with chain.confined('trigger'):
        assert os.listdir(chain.folder('clean') / 'clean')
