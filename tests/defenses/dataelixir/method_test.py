import pytest

from purify.core.errors import UserError
from purify.defenses.dataelixir.candidates import Candidates, Remake
from purify.defenses.dataelixir.method import DataElixir, benign_recipe, finetuning_recipe
from purify.defenses.measures import Predictions
from purify.defenses.method import Decision, Look, Measure, Purifier
from purify.defenses.registry import DEFENSES
from purify.models.classifiers.registry import NETWORKS
from purify.stages.train_classifier import classifier
from purify.train.objectives.registry import OBJECTIVES
from purify.train.optim import OPTIMIZERS


def make(exact=False, released=False, **changes):
    told = [name for name, said in (('exact', exact), ('released', released)) if said]
    return DataElixir(
        **{key: value for name in told for key, value in DataElixir.presets[name].items()} | changes
    )


NETWORK, SCHEDULE = NETWORKS.part('resnet18'), OPTIMIZERS.part('sgd', lr=0.1)
STUDENT = classifier(NETWORK, SCHEDULE, epochs=10, batch=8, objective=OBJECTIVES.part('distill'))
STUDENT |= {'init_from': 'weights', 'load': 'finished'}
WORDS = [{}, {'exact': True}, {'released': True}, {'exact': True, 'released': True}]
WORDS += [{'labels': 'vote'}]


@pytest.mark.parametrize('words', WORDS, ids=str)
def test_steps_follow_from_earlier_ones_and_have_rules_of_their_kind(words):
    method = make(**words).method(STUDENT)
    known = {'poisoned', 'prior', 'teacher'}
    kinds = {'measure': Measure, 'decide': Decision, 'purify': Purifier, 'look': Look}
    for step in method.steps:
        assert set(step.inputs.values()) <= known
        known.add(step.name)
        assert kinds.get(step.kind, type(None)) in type(step.by).__mro__
        if step.kind == 'look':
            assert Measure in type(step.by.measure).__mro__
            assert Decision in type(step.by.decision).__mro__
    assert len(known) == len(method.steps) + 3
    assert {
        method.outcome.purified,
        method.outcome.classifier,
        method.outcome.findings,
        method.outcome.candidates,
    } <= known
    assert (method.outcome.benign in known) == (words.get('labels') != 'vote')


def test_the_benign_model_learns_from_all_but_the_open_images():
    steps = {step.name: step for step in make().method(STUDENT).steps}
    wanted = {'data': 'poisoned', 'edits': 'targets', 'replaced': 'replaced'}
    assert steps['benign'].inputs == wanted
    assert steps['finetuned'].inputs['init'] == 'benign'
    assert steps['finetuned'].inputs['edits'] == 'agreed'
    looks = {
        name: [steps[name].inputs[role] for role in ('classifier', 'picked', 'edits')]
        for name in ('agreed', 'verdicts')
    }
    assert looks == {
        'agreed': ['benign', 'targets', 'targets'],
        'verdicts': ['finetuned', 'agreed', 'agreed'],
    }
    assert steps['purified'].inputs['edits'] == 'verdicts'
    assert steps['student'].inputs['data'] == 'purified'
    assert steps['candidates'].inputs['classifier'] == 'teacher'
    assert {steps[name].by.measure for name in ('agreed', 'verdicts')} == {Predictions()}
    assert {steps[name].by.role for name in ('agreed', 'verdicts')} == {'measured'}
    assert 'prior' not in steps['agreed'].inputs
    agreeing = {step.name: step for step in make(released=True).method(STUDENT).steps}
    assert all(
        agreeing[name].by.measure == agreeing['candidates'].by for name in ('agreed', 'verdicts')
    )
    assert agreeing['agreed'].inputs['prior'] == agreeing['verdicts'].inputs['prior'] == 'prior'


@pytest.mark.parametrize(('choice', 'count'), [('all', 1), ('agreeing', 3)])
def test_remade_images_follow_the_chain_that_was_measured(choice, count):
    """At once where the choice does not wait for labels."""
    steps = make(exact=True, choice=choice).method(STUDENT).steps
    made = [step.name for step in steps if step.kind == 'purify']
    assert [
        name
        for name in next(step.inputs for step in steps if step.kind == 'rewrite')
        if name.startswith('replaced')
    ] == made
    measured = next(step.by for step in steps if step.name == 'candidates')
    assert isinstance(measured, Candidates)
    assert len(made) == count
    assert all(step.by == measured.remake() for step in steps if step.name in made)
    assert isinstance(measured.remake(), Remake)


def test_the_final_model_labels_the_rest_or_all():
    """All as released; then its images are chosen and made anew.

    What the first look leaves open is what the second looks at.
    """
    for words, again in (({}, False), ({'released': True}, True), ({'final': 'all'}, True)):
        steps = {step.name: step.by for step in make(**words).method(STUDENT).steps}
        looks = [steps[name].decision for name in ('agreed', 'verdicts')]
        assert [look.agreement for look in looks] == [True, False]
        assert looks[0].again == again


def test_votes_ask_no_benign_model():
    plainly = make(labels='vote').method(STUDENT)
    assert (
        make(labels='vote', final='all', finetune={'epochs_share': 0.5, 'lr_share': 0.1}).method(
            STUDENT
        )
        == plainly
    )
    assert make(final='all').method(STUDENT) != make().method(STUDENT)


def test_recipes():
    benign = benign_recipe(STUDENT)
    assert benign['objective'] == {'name': 'classify', 'label_smoothing': 0.0}
    # pretrained where the student is
    assert (benign['load'], benign['init_from']) == ('', 'weights')
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
        ({'choice': 'some'}, 'choice=.* agreeing, all'),
        ({'benign': 'raw'}, 'benign=.* given, predicted'),
        ({'labels': 'majority'}, 'labels=.* benign, vote'),
        ({'targets': {'name': 'none'}}, 'mad, significant'),
        ({'kept': 11}, 'kept=11'),
        ({'finetune': {'epochs_share': 1.0, 'lr_share': 0.0}}, 'both positive'),
        ({'finetune': {'epochs_share': 1.0}}, 'lr_share'),
        ({'final': 'none'}, 'final=.* all, rest'),
    ],
)
def test_refusals(changes, words):
    with pytest.raises(UserError, match=words):
        make(**changes)


def test_by_name():
    part = DEFENSES.part('dataelixir')
    assert DEFENSES.make(part.pop('name'), **part) == make()
