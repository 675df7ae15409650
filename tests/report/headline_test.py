import pytest
from report.typed import typed

from purify.report.headline import list_targets, write_detail, write_headline
from purify.report.sections.detection import list_relabelled


def test_success_names_both_numbers(results):
    assert (
        write_headline(typed(results))
        == 'The backdoor fires on 100 % of triggered test images before, 0.9 % after; clean'
        ' accuracy falls from 98.9 % to 97.5 %.'
    )


@pytest.mark.parametrize(
    ('before', 'after', 'start'),
    [
        (320, 322, 'The defence fails: the backdoor fires on 98.8 % '),  # within the intervals
        (320, 200, 'The defence weakens the backdoor and does not remove it: it fires on 98.8 % '),
        (100, 324, 'The defence makes it worse: the backdoor fires on 30.9 % '),
        (3, 1, 'The backdoor never took hold: it fires on 0.9 % '),
        (35, 30, 'The defence makes no measurable difference: the backdoor fires on 10.8 % '),
        (320, 20, 'The backdoor fires on 98.8 % '),
    ],
)
def test_the_verdict_follows_the_numbers(results, side, before, after, start):
    results['teacher'] = side((356, 360), (before, 324), (0, 324))
    results['student'] = side((356, 360), (after, 324), (0, 324))
    assert write_headline(typed(results)).startswith(start)
    assert write_headline(typed(results)).endswith('; clean accuracy stays at 98.9 %.')


def test_a_collapsed_student_is_not_praised(results, side):
    results['student'] = side((36, 360), (0, 324), (32, 324))
    assert write_headline(typed(results)).endswith(
        '; the price is high: clean accuracy falls from 98.9 % to 10.0 %.'
    )


def test_a_better_student_rises(results, side):
    results['student'] = side((359, 360), (0, 324), (320, 324))
    assert write_headline(typed(results)).endswith('; clean accuracy rises from 98.9 % to 99.7 %.')


def test_clean_data(results, side):
    results |= {'attack': None, 'teacher': side((356, 360), None, None)}
    results |= {'student': side((351, 360), None, None)}
    results['detection']['target_labels'] = []
    found = write_headline(typed(results))
    assert found == 'The data was not attacked; clean accuracy falls from 98.9 % to 97.5 %.'
    found = write_detail(typed(results))
    assert found == 'No training image was poisoned. The defence is variation.'


def test_an_attack_that_was_not_measured_is_not_called_clean(results, side):
    results |= {'teacher': side((356, 360), None, None), 'student': None}
    found = write_headline(typed(results))
    assert found == 'The attack success was not measured; clean accuracy is 98.9 %.'


def test_without_a_student(results):
    results['student'] = None
    assert (
        write_headline(typed(results))
        == 'The backdoor fires on 100 % of triggered test images before, and no purified classifier'
        ' was trained; clean accuracy is 98.9 %.'
    )


def test_without_a_teacher(results):
    results['teacher'] = None
    assert (
        write_headline(typed(results))
        == 'The backdoor fires on 0.9 % of triggered test images after the defence, and was not'
        ' measured before; clean accuracy is 97.5 %.'
    )


def test_without_a_classifier(results):
    results |= {'teacher': None, 'student': None}
    assert write_headline(typed(results)).startswith(
        'The defence finds 98.2 % of the poisoned samples and accuses 0.4 % of the clean'
    )
    results['detection'] = {'tpr': None, 'fpr': None, 'target_labels': None, 'label_accuracy': None}
    assert write_headline(typed(results)) == 'No classifier was evaluated in this run.'


def test_missing_intervals_compare_values(results):
    for name in ('teacher', 'student'):
        results[name]['intervals'] = {}
    assert write_headline(typed(results)).startswith('The backdoor fires on 100 % ')


def test_the_detail_says_what_was_done(results):
    assert (
        write_detail(typed(results))
        == 'The patch attack poisoned 144 of 1,440 training images (10.0 %), with target class zero'
        ' (0). The defence is variation. Triggered images get their true class in 0 % of cases'
        ' before, 95.4 % after.'
    )


@pytest.mark.parametrize(
    ('targets', 'aim'),
    [
        ([2], ', with target class two (2).'),
        ([0, 2], ', with target classes zero (0), two (2).'),
        ([0, 1, 2], ', with every class a target.'),
        ([], '.'),
    ],
)
def test_the_detail_names_every_true_target(results, targets, aim):
    results['attack']['targets'] = targets
    assert f'images (10.0 %){aim} The defence' in write_detail(typed(results))


def test_clean_data_is_aimed_at_by_nobody(results):
    results['attack'] |= {'poisoned': 0, 'targets': []}
    assert list_targets(typed(results)) == []
    assert write_detail(typed(results)).startswith('No training image was poisoned. ')
    # of an older version; its `target` is the class that was asked about
    del results['attack']['targets']
    assert list_targets(typed(results)) == []
    results['attack'] |= {'poisoned': 3}
    assert list_targets(typed(results)) == [0]


def test_each_of_several_triggers_has_its_sentence(results):
    for side, rates in (('teacher', (1.0, 0.5)), ('student', (0.01, 0.0))):
        results[side]['triggers'] = [
            {'target': target, 'asr': rate} for target, rate in enumerate(rates)
        ]
    text = write_detail(typed(results))
    assert 'Trigger 1 of 2 aims at' in text
    assert text.endswith('and fires on 50.0 % before, 0 % after.')
    del results['student']['triggers']
    assert write_detail(typed(results)).endswith('and fires on 50.0 %.')


def test_relabelled_images_are_counted_below_the_headline(relabelled):
    assert 'Of 8 relabelled images 75.0 % got their true class.' in write_detail(typed(relabelled))
    wanted = [('Relabelling accuracy', '75.0 %'), ('Of those poisoned', '83.3 %')]
    assert [line[:2] for line in list_relabelled(typed(relabelled).detection)] == wanted
    none = {'relabel_accuracy': [0, 0], 'relabel_accuracy_poisoned': [0, 0]}
    relabelled['detection'] |= {'counts': none}
    assert 'relabelled' not in write_detail(typed(relabelled))
    assert list_relabelled(typed(relabelled).detection) == []


def test_a_false_alarm_is_said_to_be_one(results, side):
    results |= {'teacher': side((356, 360), None, None), 'student': side((351, 360), None, None)}
    results['attack'] |= {'poisoned': 0, 'targets': []}
    assert write_headline(typed(results)).startswith(
        'The data was not attacked, and the defence raised a false alarm; clean'
    )
    wanted = 'It accused class zero (0): a false alarm, for nothing is aimed at.'
    assert wanted in write_detail(typed(results))
    for named in ([], None):
        results['detection']['target_labels'] = named
        assert 'false alarm' not in write_headline(typed(results)) + write_detail(typed(results))


@pytest.mark.parametrize(
    ('named', 'aims', 'said'),
    [
        ([1], [0], 'It accused class one (1); the attack aims at class zero (0).'),
        ([0, 1], [0], 'It accused classes zero (0), one (1); the attack aims at class zero (0).'),
        ([0], [0, 1, 2], 'It accused class zero (0); the attack aims at every class.'),
        ([], [0], 'It accused no class; the attack aims at class zero (0).'),
        ([2, 0], [0, 2], ''),
        (None, [0], ''),
    ],
)
def test_whom_it_accused_is_said_where_the_attack_aims_at_others(results, named, aims, said):
    results['attack']['targets'], results['detection']['target_labels'] = aims, named
    text = write_detail(typed(results))
    assert said in text
    assert ('It accused' in text) == bool(said)


def test_what_became_of_the_accused_classes_is_counted(relabelled):
    assert 'Of the' not in write_detail(typed(relabelled))
    relabelled['findings']['counts'] = {'relabelled': 24, 'dropped': 1113, 'kept': 24}
    said = 'Of the 1,161 images of class zero (0), 1,113 were dropped, 24 relabelled, 24 kept.'
    assert said in write_detail(typed(relabelled))
    relabelled['findings']['target_labels'] = []
    assert 'were dropped' not in write_detail(typed(relabelled))
