import pytest
from report.typed import typed

from purify.report.sections.detection import MOST_FATES, list_detection, list_fates


def test_who_lost_a_label_comes_before_who_was_flagged(relabelled):
    lines = list_detection(typed(relabelled))
    wanted = [('Removed', '90.0 %'), ('TPR', '98.2 %'), ('FPR', '0.4 %')]
    assert [line[:2] for line in lines[:3]] == wanted
    assert lines[0][2].endswith('dropped or relabelled; 5.0 % of the clean ones did too')
    assert (
        lines[1][2]
        == 'of the poisoned training images were flagged; only the top 20.0 % of a class can be'
    )


def test_without_relabelled_images_the_removed_are_shown_too(relabelled):
    relabelled['detection'] |= {
        'counts': {'relabel_accuracy': [0, 0], 'relabel_accuracy_poisoned': [0, 0]}
    }
    assert list_detection(typed(relabelled))[0][:2] == ('Removed', '90.0 %')


@pytest.mark.parametrize('removed', [None, {'tpr': 0.982, 'fpr': 0.004}])
def test_where_the_removed_are_the_flagged_they_are_not_said_twice(results, removed):
    results['detection']['removed'] = removed
    lines = list_detection(typed(results))
    assert lines[0] == ('TPR', '98.2 %', 'of the poisoned training images were flagged')
    assert 'Removed' not in [name for name, *_ in lines]


def test_clean_data_loses_clean_images_only(results):
    results['detection'] |= {'tpr': None, 'fpr': 0.01, 'removed': {'tpr': None, 'fpr': 0.08}}
    assert list_detection(typed(results))[0] == (
        'Removed',
        '8.0 %',
        'of the clean training images lost the label they were given: dropped or relabelled',
    )


def row_of(label):
    return {
        'label': label,
        'clean': {'kept': label, 'dropped': 2000, 'relabelled': 1},
        'poisoned': {'kept': 4, 'dropped': 5, 'relabelled': 6},
    }


def test_fates_are_counted_by_class_and_kind(results):
    assert list_fates(typed(results)) is None
    results['detection'] |= {'fates': [row_of(1), row_of(2)], 'target_labels': [2]}
    table = list_fates(typed(results))
    assert (table.head, table.left_out) == (['kept', 'dropped', 'relabelled'], 0)
    wanted = [('two (2), clean', ['2', '2,000', '1']), ('two (2), poisoned', ['4', '5', '6'])]
    wanted += [('one (1), clean', ['1', '2,000', '1']), ('one (1), poisoned', ['4', '5', '6'])]
    assert table.lines == wanted


def test_of_many_classes_the_named_are_counted_first(results):
    results['detection'] |= {'fates': [row_of(label) for label in range(9)], 'target_labels': [7]}
    table = list_fates(typed(results | {'classes': []}))
    wanted = [f'{label}, clean' for label in (7, 0, 1, 2, 3, 4)]
    assert [name for name, _ in table.lines[::2]] == wanted
    assert table.left_out == 9 - MOST_FATES
