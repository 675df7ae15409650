import pytest

from purify.core.errors import UserError
from purify.defenses.dataelixir import DataElixir, benign_recipe, finetuning_recipe
from purify.defenses.registry import DECISIONS, DEFENSES, MEASURES, PURIFIERS
from purify.models.networks import NETWORKS
from purify.pipelines.training import classifier
from purify.train.objectives import OBJECTIVES
from purify.train.optim import OPTIMIZERS


def make(exact=False, released=False, **changes):
    told = [name for name, said in (('exact', exact), ('released', released)) if said]
    return DataElixir(**{key: value for name in told for key, value in DataElixir.presets[name].items()} | changes)


NETWORK, SCHEDULE = NETWORKS.part('resnet18'), OPTIMIZERS.part('sgd', lr=0.1)
STUDENT = classifier(NETWORK, SCHEDULE, epochs=10, batch=8, objective=OBJECTIVES.part('distill'))
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


def test_the_final_model_labels_the_rest_or_all():
    """All as released; then its images are chosen and made anew, and the decision and what it looks at agree on which."""
    for words, again in (({}, False), ({'released': True}, True), ({'final': 'all'}, True)):
        steps = {step.name: step.settings for step in make(**words).method(STUDENT).steps}
        assert [steps[name]['again'] for name in ('open_suspects', 'agreed')] == [False, False]
        assert [steps[name]['again'] for name in ('open_rest', 'verdicts')] == [again, again]


def test_votes_ask_no_benign_model():
    plainly = make(labels='vote').method(STUDENT)
    assert make(labels='vote', final='all', finetune={'epochs_share': 0.5, 'lr_share': 0.1}).method(STUDENT) == plainly
    assert make(final='all').method(STUDENT) != make().method(STUDENT)


def test_recipes():
    benign = benign_recipe(STUDENT)
    assert benign['objective'] == {'name': 'classify', 'label_smoothing': 0.0}
    assert (benign['load'], benign['init_from']) == ('', 'weights')  # pretrained where the student is
    smooth = OBJECTIVES.part('classify', label_smoothing=0.1)
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
        ({'final': 'none'}, "'rest' or 'all'"),
    ],
)
def test_refusals(changes, words):
    with pytest.raises(UserError, match=words):
        make(**changes)


def test_by_name():
    part = DEFENSES.part('dataelixir')
    assert DEFENSES.make(part.pop('name'), **part) == make()
