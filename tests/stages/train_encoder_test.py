"""Decoupling, whole and tiny: encoder, head, split, student, verdicts."""

import numpy as np
import pytest
from support.command import named_weights
from support.tiny import quickstart, run_chain

from purify.commands.plan import make_stages
from purify.core.errors import UserError
from purify.core.files import read_json
from purify.core.writers import read_rows
from purify.data.loader import Split
from purify.defenses.registry import DEFENSES
from purify.engine.chain import Chain
from purify.engine.tables import read_table
from purify.stages.decide import MEASURED
from purify.train.objectives.registry import OBJECTIVES

pytestmark = pytest.mark.usefixtures('few_devices')

STAGES = ('prepare', 'encoder', 'head', 'split', 'student', 'verdicts')
NETWORK = ('--config.student.network.norm=batch', '--config.student.network.stages=(1,)')


def tiny():
    config = quickstart('defense=augmentations,attack=patch,rate=0.2', *NETWORK)
    short = {'encoder': {'epochs': 1.0, 'batch': 16, 'projection': 8}, 'head': {'epochs': 1.0}}
    config['defense'] = DEFENSES.part('dbd', short)
    config['student'] |= {'objective': OBJECTIVES.part('classify')}
    return config


@pytest.fixture(scope='module')
def chain(tmp_path_factory):
    return run_chain(tiny(), tmp_path_factory.mktemp('dbd'), STAGES)


@pytest.mark.long
def test_the_head_is_all_that_the_second_part_moves(chain):
    encoder, head, student = (
        named_weights(chain.folder(name)) for name in ('encoder', 'head', 'student')
    )
    moved = {name for name in encoder if not np.array_equal(encoder[name], head[name])}
    assert moved == {"['params']['head']['kernel']", "['params']['head']['bias']"}
    assert {name for name in head if not np.array_equal(head[name], student[name])} == set(head)


@pytest.mark.long
def test_the_encoder_leaves_a_fresh_head(chain):
    kernel = named_weights(chain.folder('encoder'))["['params']['head']['kernel']"]
    bound = 1 / np.sqrt(kernel.shape[0])
    assert 0.8 * bound < np.abs(kernel).max() <= bound


@pytest.mark.long
def test_tables_agree_with_one_another(chain):
    poisoned = Split(chain.folder('prepare') / 'poisoned', 'train')
    split, verdicts = (read_table(chain.folder(name)) for name in ('split', 'verdicts'))
    losses, guesses = (read_table(chain.folder(name) / MEASURED) for name in ('split', 'verdicts'))
    assert split['keep'].sum() == len(poisoned) // 2
    assert losses['loss'][split['keep']].max() <= losses['loss'][~split['keep']].min()
    expected = np.where(split['keep'], poisoned.labels, guesses['label'])
    np.testing.assert_array_equal(verdicts['labels'], expected)
    np.testing.assert_array_equal(verdicts['flagged'], expected != poisoned.labels)
    found = read_json(chain.folder('verdicts') / 'findings.json')['relabelled']
    assert found == verdicts['flagged'].sum()


@pytest.mark.long
def test_an_epoch_of_the_student_is_the_credible_half_and_the_weight_grows_over_it(chain):
    last = read_rows(chain.folder('student') / 'metrics.jsonl')[-1]
    assert last['step'] == 96 // 2 // 16
    wanted = pytest.approx(last['supervised'] + 15 * 2 / 3 * last['consistency'], rel=1e-5)
    assert last['loss'] == wanted
    assert last['consistency'] > 0


@pytest.mark.long
def test_mixmatch_without_a_split_is_an_error(chain):
    config = tiny()
    config['defense'] = DEFENSES.part('augmentations')
    config['student'] |= {'objective': {'name': 'mixmatch', **DEFENSES.part('dbd')['mixmatch']}}
    with pytest.raises(UserError, match='labels to believe'):
        Chain(make_stages(config), chain.store).run(['student'], config['run'])
