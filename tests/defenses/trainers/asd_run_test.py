"""Adaptive splitting, whole and tiny: a round of each phase and the first, the copy, the verdicts;
and killed on its way.
"""

import itertools
from dataclasses import asdict

import numpy as np
import pytest
from support.command import named_weights
from support.tiny import quickstart, run_chain

from purify.commands.check import check
from purify.commands.plan import make_method, make_stages
from purify.core import preemption
from purify.core.errors import Preempted, UserError
from purify.core.writers import read_rows
from purify.data.loader import Split
from purify.defenses.registry import DEFENSES
from purify.defenses.settings import TrustedSettings
from purify.engine.chain import Chain
from purify.engine.tables import read_table
from purify.stages.decide import MEASURED
from purify.train.objectives.registry import OBJECTIVES

pytestmark = pytest.mark.usefixtures('one_device')
NETWORK = ('--config.student.network.norm=batch', '--config.student.network.stages=(1, 1)')


def tiny():
    config = quickstart('defense=augmentations,attack=patch,rate=0.2', *NETWORK)
    config['defense'] = DEFENSES.part('asd', rounds=(2, 1, 1), add=1)
    config['defense']['copy'] |= {'groups': 1, 'lr': 0.05}
    config['defense']['mixmatch'] |= {'pad_px': 1}
    config['trusted'] = asdict(TrustedSettings(per_class=2))
    config['student'] |= {'objective': OBJECTIVES.part('classify'), 'augment': {}, 'epochs': 0}
    config['student'] |= {'steps': 6}
    return config


def stages_of(config):
    return ['prepare', 'trusted', *(step.name for step in make_method(config).steps)]


@pytest.fixture(scope='module')
def chain(tmp_path_factory):
    config = tiny()
    return run_chain(config, tmp_path_factory.mktemp('asd'), stages_of(config))


def moved(chain, before, after):
    one, other = (named_weights(chain.folder(name)) for name in (before, after))
    return {name for name in one if not np.array_equal(one[name], other[name])}


@pytest.mark.long
def test_each_split_is_of_the_losses_of_the_round_before(chain):
    poisoned = Split(chain.folder('prepare') / 'poisoned', 'train')
    split = {k: read_table(chain.folder(f'split{k}')) for k in (1, 2, 3)}
    measured = {k: read_table(chain.folder(f'split{k}') / MEASURED)['loss'] for k in (1, 2, 3)}
    losses, after = measured | {3: read_table(chain.folder('losses3'))['loss']}, measured[3]
    seeds = read_table(chain.folder('trusted'))['keep']
    assert seeds.sum() == 20
    added = split[1]['keep'] & ~seeds
    assert np.bincount(poisoned.labels[added], minlength=10).tolist() == [1] * 10
    for label in range(10):
        others = (poisoned.labels == label) & ~seeds
        assert losses[1][others & added] == losses[1][others].min()
    scores = {2: losses[2], 3: losses[3].astype(np.float64) - after}
    for number, score in scores.items():
        np.testing.assert_array_equal(split[number]['keep'], seeds | (score <= np.sort(score)[47]))


@pytest.mark.long
def test_the_verdicts_are_the_students_where_nothing_is_believed(chain):
    poisoned = Split(chain.folder('prepare') / 'poisoned', 'train')
    split, verdicts = (read_table(chain.folder(name)) for name in ('split3', 'verdicts'))
    guesses = read_table(chain.folder('verdicts') / MEASURED)
    expected = np.where(split['keep'], poisoned.labels, guesses['label'])
    np.testing.assert_array_equal(verdicts['labels'], expected)
    np.testing.assert_array_equal(verdicts['flagged'], expected != poisoned.labels)


@pytest.mark.long
def test_of_the_copy_the_tail_learns(chain):
    parameters = {name for name in moved(chain, 'round2', 'copy3') if name.startswith("['params']")}
    assert parameters
    assert all(
        name.startswith(("['params']['blocks'][1]", "['params']['head']")) for name in parameters
    ), parameters
    everything = {
        name for name in named_weights(chain.folder('round2')) if name.startswith("['params']")
    }
    assert everything <= moved(chain, 'round2', 'student')


@pytest.mark.long
def test_the_weight_grows_over_all_rounds(chain):
    for done, name in zip([1, 3, 4, 6], ['round0', 'round1', 'round2', 'student'], strict=True):
        (row,) = read_rows(chain.folder(name) / 'metrics.jsonl')
        assert row['step'] == done
        assert row['loss'] == pytest.approx(
            row['supervised'] + 15 * (done - 1) / 6 * row['consistency'], rel=1e-5
        )


@pytest.mark.long
def test_killed_in_a_round_it_ends_with_the_same_bytes(chain, tmp_path, monkeypatch):
    config = tiny()
    config['run']['save_every'] = 1
    cut = Chain(make_stages(config), tmp_path)
    for name in ('prepare', 'trusted', 'round0', 'split1'):
        (tmp_path / cut.folder(name).name).symlink_to(chain.folder(name))
    calls = itertools.count()
    # not before the stage, but in its first step
    monkeypatch.setattr(preemption, 'asked', lambda: next(calls) > 0)
    with pytest.raises(Preempted):
        cut.run(['round1'], config['run'])
    monkeypatch.undo()
    assert not cut.finished('round1')
    cut.run(['round1'], config['run'])
    whole, resumed = (named_weights(run.folder('round1')) for run in (chain, cut))
    assert all(np.array_equal(whole[name], resumed[name]) for name in whole)


def test_without_trusted_images_there_is_no_first_round():
    config = tiny()
    del config['trusted']
    with pytest.raises(UserError, match="defense 'asd' needs trusted"):
        make_stages(config)


def test_check_shapes_every_step_and_finds_a_tail_that_is_too_long():
    config = {name: part for name, part in tiny().items() if name not in ('teacher', 'prior')}
    config['defense'] |= {'rounds': (1, 0, 1), 'copy': config['defense']['copy'] | {'groups': 3}}
    assert [problem for problem in check(config).problems if 'tail: groups=3' in problem]
