import numpy as np
import pytest
from ml_collections import ConfigDict

from purify.config import parts
from purify.core.errors import UserError
from purify.defenses.dataelixir import DataElixir, LabelTransition, LeftOut, TrueLabels, benign_recipe, finetuning_recipe
from purify.defenses.method import Table
from purify.defenses.registry import DECISIONS, DEFENSES, MEASURES, PURIFIERS
from purify.defenses.transitions import BENIGN, POISONED, SUSPICIOUS

IDS = np.array([70, 10, 30, 20, 60, 50, 40])
GIVEN = np.array([0, 0, 0, 0, 1, 1, 0], np.int32)
CANDIDATES = np.array(
    [
        [0] * 10,  # benign
        [2] * 10,  # poisoned under the target label
        [0] * 5 + [1] * 5,  # suspicious under it
        [0] * 3 + [2] * 7,  # the same
        [2] * 10,  # poisoned, but not under it
        [1] * 6 + [2] * 4,  # suspicious, but not under it
        [2] * 9 + [1],  # poisoned under it, and one candidate is passed over
    ],
    np.int32,
)
DISTANCE = np.linspace(0, 1, 70, dtype=np.float32).reshape(7, 10)
MEASURED = {'ids': IDS, 'raw': GIVEN, 'candidates': CANDIDATES, 'distance': DISTANCE}
CHOICE = {'rank': 0.8, 'count_raw': False, 'choice': 'all'}
TO_ZERO = {'name': 'mad', 'threshold': 0.5, 'score': 'count', 'two_sided': False}  # label 0 has most anomalous images: the target


def shuffled(columns):
    """A table with its rows in another order: what matters are the ids."""
    order = np.random.default_rng(1).permutation(len(columns['ids']))
    return Table({name: column[order] for name, column in columns.items()})


def find(**changes):
    settings = {'tau': 0.2, 'benign': 'given', 'targets': TO_ZERO, 'labels': 'benign', **CHOICE} | changes
    return LabelTransition(**settings).decide(IDS, GIVEN, {'candidates': shuffled(MEASURED)}, 3)


def relabel(edits, label, agreement, **changes):
    """`label`: id -> the benign classifier's answer."""
    measured = Table({'ids': np.array(list(label)), 'label': np.array(list(label.values()), np.int32)})
    tables = {'edits': edits, 'candidates': shuffled(MEASURED), 'measured': measured}
    return TrueLabels(agreement=agreement, **CHOICE | changes).decide(IDS, GIVEN, tables, 3)


def test_what_becomes_of_every_image():
    found = find()
    assert found.facts['target_labels'] == [0]
    assert found['set'].tolist() == [BENIGN, POISONED, SUSPICIOUS, SUSPICIOUS, POISONED, SUSPICIOUS, POISONED]
    assert found['labels'].tolist() == [0, 2, 0, 0, 1, 1, 2]  # only images under the target label are changed
    assert found['candidate'].tolist() == [-1, 8, 8, 8, -1, -1, 8]  # of those left out too: the choice does not wait for labels
    assert found['keep'].tolist() == [True, True, False, False, True, True, True]
    assert found['flagged'].tolist() == [False, True, False, False, False, False, True]
    assert found['pick'].tolist() == (found['candidate'] >= 0).tolist()
    assert found.facts['sets'] == {'benign': 1, 'poisoned': 3, 'suspicious': 3}
    assert found['ids'].tolist() == IDS.tolist()
    assert found['given'].dtype == found['labels'].dtype == found['candidate'].dtype == np.int32


def test_choices_as_released():
    """The raw image counts, and candidates that were passed over do not."""
    found = find(choice='agreeing', count_raw=True)
    assert found['candidate'][IDS == 10] == [7]  # place 8 of 11, the raw image first
    assert found['candidate'][IDS == 40] == [7]  # place 8 of 10
    assert find(choice='agreeing')['candidate'][IDS == 40] == [7]  # place 7 of 9
    assert find(rank=0.0, count_raw=True)['candidate'].tolist() == [-1] * 7
    assert not find(rank=0.0, count_raw=True)['pick'].any()


def test_the_released_benign_set_asks_the_classifier():
    """An image that the classifier sees as its candidates are is benign whatever its label."""
    columns = MEASURED | {'raw': np.where(IDS == 10, 2, GIVEN)}
    settings = {'tau': 0.2, 'benign': 'predicted', 'targets': TO_ZERO, 'labels': 'benign', **CHOICE}
    found = LabelTransition(**settings).decide(IDS, GIVEN, {'candidates': shuffled(columns)}, 3)
    assert found['set'][IDS == 10] == [BENIGN]
    assert find()['set'][IDS == 10] == [POISONED]


def test_without_targets_nothing_changes():
    found = find(targets={'name': 'mad', 'threshold': 50.0, 'score': 'kl', 'two_sided': False})
    assert found.facts['target_labels'] == []
    assert found['keep'].all()
    assert not found['flagged'].any()
    assert (found['labels'] == GIVEN).all()


def test_votes_alone():
    found = find(labels='vote')
    assert found['labels'].tolist() == [0, 2, 0, 2, 2, 1, 2]
    assert (found['pick'] == found['flagged']).all()
    assert (found['pick'] == (found['candidate'] >= 0)).all()
    assert found['keep'].all()


def test_two_stages():
    """The one that vote and classifier agree on first, the other by the final model."""
    edits = find()
    still_open = LeftOut().decide(IDS, GIVEN, {'edits': edits}, 3)
    assert still_open['ids'][still_open['pick']].tolist() == [30, 20]
    agreed = relabel(edits, {20: 2, 30: 1}, agreement=True)
    assert agreed['labels'].tolist() == [0, 2, 0, 2, 1, 1, 2]
    assert agreed['keep'].tolist() == [True, True, False, True, True, True, True]
    assert not agreed['pick'].any()  # all were made at first
    assert agreed['candidate'].tolist() == [-1, 8, 8, 8, -1, -1, 8]
    final = relabel(agreed, {30: 1}, agreement=False)
    assert final['keep'].all()
    assert final['labels'].tolist() == [0, 2, 1, 2, 1, 1, 2]
    assert final['candidate'].tolist() == [-1, 8, 8, 8, -1, -1, 8]
    assert final['ids'][final['flagged']].tolist() == [10, 30, 20, 40]
    assert final.facts['target_labels'] == [0]
    assert (final.facts['labels'], final.facts['settled']) == (edits.facts['labels'], 1)
    assert set(final.columns) == set(edits.columns)


def test_a_false_alarm_gets_its_label_back():
    """Its image is one of its candidates all the same, for the classifier may be wrong."""
    final = relabel(find(), {20: 2, 30: 0}, agreement=False)
    assert not final['flagged'][IDS == 30]
    assert final['candidate'][IDS == 30] == [8]


def test_agreeing_candidates_are_the_benign_classifiers():
    theirs = np.where(np.arange(10) < 4, 2, 1) * np.ones((2, 1), np.int32)
    measured = Table({'ids': np.array([20, 30]), 'raw': np.array([2, 0], np.int32), 'candidates': theirs})
    tables = {'edits': find(choice='agreeing'), 'candidates': shuffled(MEASURED), 'measured': measured}
    rule = TrueLabels(agreement=False, rank=0.8, count_raw=False, choice='agreeing')
    found = rule.decide(IDS, GIVEN, tables, 3)
    assert found['candidate'][IDS == 20] == [3]  # place 3 of 4
    assert found['pick'][IDS == 20]
    assert found['candidate'][IDS == 30] == [-1]  # none agrees: the raw image
    assert not found['pick'][IDS == 30]
    assert found['keep'].all()


def test_nothing_left_to_label():
    edits = find(targets={'name': 'mad', 'threshold': 50.0, 'score': 'kl', 'two_sided': False})
    empty = Table({'ids': np.zeros(0, np.int64), 'label': np.zeros(0, np.int32)})
    tables = {'edits': edits, 'candidates': shuffled(MEASURED), 'measured': empty}
    found = TrueLabels(agreement=True, **CHOICE).decide(IDS, GIVEN, tables, 3)
    assert not found['pick'].any()
    assert (found['labels'] == GIVEN).all()


def make(**words):
    return DataElixir(**{name: value for name, value in plain(parts.dataelixir(**words)).items() if name != 'name'})


def plain(part):
    return part.to_dict() if isinstance(part, ConfigDict) else part


NETWORK, SCHEDULE = parts.network('resnet18'), parts.optim('sgd', lr=0.1)
STUDENT = plain(parts.classifier(NETWORK, SCHEDULE, epochs=10, batch=8, augment={}, objective=parts.distill()))
STUDENT |= {'init_from': 'weights', 'load': 'finished'}
WORDS = [{}, {'exact': True}, {'released': True}, {'exact': True, 'released': True}, {'labels': 'vote'}]


@pytest.mark.parametrize('words', WORDS, ids=str)
def test_steps_follow_from_earlier_ones_and_their_rules_exist(words):
    method = make(**words).method(STUDENT)
    known = {'poisoned', 'prior', 'teacher'}
    registries = {'measure': MEASURES, 'decide': DECISIONS, 'purify': PURIFIERS}
    for step in method.steps:
        assert set(step.inputs.values()) <= known
        known.add(step.name)
        if step.kind in registries:
            rule = {name: value for name, value in step.settings.items() if name != 'name'}
            registries[step.kind].make(step.settings['name'], **rule)
    assert len(known) == len(method.steps) + 3
    assert {method.outcome.purified, method.outcome.classifier, method.outcome.findings, method.outcome.candidates} <= known
    assert (method.outcome.benign in known) == (words.get('labels') != 'vote')


def test_the_benign_model_learns_from_all_but_the_open_images():
    steps = {step.name: step for step in make().method(STUDENT).steps}
    assert steps['benign'].inputs == {'data': 'poisoned', 'edits': 'targets', 'replaced': 'replaced'}
    assert steps['finetuned'].inputs['init'] == 'benign'
    assert steps['finetuned'].inputs['edits'] == 'agreed'
    assert (steps['suspects'].inputs['classifier'], steps['rest'].inputs['classifier']) == ('benign', 'finetuned')
    assert steps['purified'].inputs['edits'] == 'verdicts'
    assert steps['student'].inputs['data'] == 'purified'
    assert steps['candidates'].inputs['classifier'] == 'teacher'
    assert {steps[name].settings['name'] for name in ('suspects', 'rest')} == {'predictions'}
    agreeing = {step.name: step for step in make(released=True).method(STUDENT).steps}
    assert {agreeing[name].settings['name'] for name in ('suspects', 'rest')} == {'candidates'}
    assert agreeing['suspects'].inputs['prior'] == 'prior'


@pytest.mark.parametrize(('choice', 'count'), [('all', 1), ('agreeing', 3)])
def test_remade_images_follow_the_chain_that_was_measured(choice, count):
    """At once where the choice does not wait for labels."""
    steps = make(exact=True, choice=choice).method(STUDENT).steps
    made = [step.name for step in steps if step.kind == 'purify']
    assert [name for name in next(step.inputs for step in steps if step.kind == 'rewrite') if name.startswith('replaced')] == made
    chains = [{k: v for k, v in step.settings.items() if k != 'name'} for step in steps if step.settings.get('name') == 'remade']
    measured = next(step.settings for step in steps if step.name == 'candidates')
    assert len(chains) == count
    assert all(chain == {k: v for k, v in measured.items() if k != 'name'} for chain in chains)


def test_recipes():
    benign = benign_recipe(STUDENT)
    assert benign['objective'] == {'name': 'classify', 'label_smoothing': 0.0}
    assert (benign['load'], benign['init_from']) == ('', 'weights')  # pretrained where the student is
    smooth = plain(parts.classify(0.1))
    assert benign_recipe(STUDENT | {'objective': smooth})['objective'] == smooth
    tuned = finetuning_recipe(benign, epochs_share=0.5, lr_share=0.2)
    assert (tuned['epochs'], tuned['steps'], tuned['init_from']) == (5.0, 0, '')
    assert tuned['optim'] == benign['optim'] | {'lr': pytest.approx(0.02)}
    assert finetuning_recipe(benign | {'steps': 7}, epochs_share=0.1, lr_share=1.0)['steps'] == 1
    assert benign['optim']['lr'] == STUDENT['optim']['lr'] == 0.1


@pytest.mark.parametrize(
    ('changes', 'words'),
    [
        ({'tau': 0.0}, 'tau=0'),
        ({'rank': 1.1}, r'rank=1\.1'),
        ({'choice': 'some'}, "'all' or 'agreeing'"),
        ({'benign': 'raw'}, "'given' or 'predicted'"),
        ({'labels': 'majority'}, "'benign' or 'vote'"),
        ({'targets': {'name': 'none'}}, 'mad, significant'),
        ({'kept': 11}, 'kept=11'),
        ({'finetune': {'epochs_share': 1.0, 'lr_share': 0.0}}, 'both positive'),
        ({'finetune': {'epochs_share': 1.0}}, 'lr_share'),
    ],
)
def test_refusals(changes, words):
    with pytest.raises(UserError, match=words):
        make(**changes)


def test_by_name():
    part = plain(parts.dataelixir())
    assert DEFENSES.make(part.pop('name'), **part) == make()
