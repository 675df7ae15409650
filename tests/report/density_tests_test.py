from report.typed import findings_of

from purify.report.density_tests import MOST_ROWS, list_tests

CLASSES = ['zero', 'one', 'two']


def test_the_table_says_what_is_beyond_its_threshold(relabelled):
    table = list_tests(findings_of(relabelled['findings']), [0, 2], CLASSES)
    wanted = ['named', 'images', 'S_ND (below 0.6)', 'S_D (above 0.05)', 'μ', 'aimed at']
    assert table.head == wanted
    assert table.left_out == 0
    assert [(name, [cell for cell, _ in cells], named) for name, cells, named in table.lines] == [
        ('zero (0)', ['non-disruptive', '40', '0.2', '0.01', '–', 'yes'], True),
        ('one (1)', ['–', '30', '1', '0', '-3', '–'], False),
        ('two (2)', ['–', '30', '1.5', '0.3', '-7', 'yes'], False),
    ]
    assert bold_of(table) == [[True, False], [False, False], [False, True]]
    assert table.note.startswith('S_ND is asked first')
    assert 'chance' not in table.note


def bold_of(table):
    """Of each class, whether S_ND and S_D speak for poison."""
    return [[beyond for _, beyond in cells][2:4] for _, cells, _ in table.lines]


def test_a_share_that_may_be_chance_is_not_bold(relabelled):
    rows = relabelled['findings']['labels']
    for row, suspect in zip(rows, (True, False, False), strict=True):
        row['suspect'] = suspect
    relabelled['findings']['rule'] = {'name': 'outlying', 'most': 0.5}
    table = list_tests(findings_of(relabelled['findings']), [], CLASSES)
    assert bold_of(table) == [[True, True], [False, False], [False, False]]
    assert 'too many to be chance' in table.note
    assert table.note.endswith('more than 50.0 % looks so is taken to lie apart.')


def test_strangers_and_the_margin_of_every_class_are_told(relabelled):
    for row, share, margin in zip(
        relabelled['findings']['labels'], (0.125, 0.0, 0.01), (1.5, 0.2, 0.9), strict=True
    ):
        row |= {'strangers': share, 'strange': share > 0.1, 'margin': margin}
    table = list_tests(findings_of(relabelled['findings']), None, CLASSES)
    wanted = ['named', 'images', 'S_ND (below 0.6)', 'strangers', 'S_D (above 0.05)', 'μ', 'margin']
    assert table.head == wanted
    cells = [cells for _, cells, _ in table.lines]
    assert [row[3] for row in cells] == [('12.5 %', True), ('0 %', False), ('1.0 %', False)]
    assert [row[6] for row in cells] == [('1.5', True), ('0.2', False), ('0.9', False)]
    assert 'The margin is how far a class has come to being named' in table.note


def test_of_many_classes_the_named_and_the_nearest_are_shown(relabelled):
    row = relabelled['findings']['labels'][1]
    rows = [
        row | {'label': label, 'nd': 1 + label / 100, 'target': label == 50} for label in range(60)
    ]
    rows[3]['nd'] = None
    table = list_tests(findings_of(relabelled['findings'] | {'labels': rows}), [55], [])
    shown = [int(name) for name, *_ in table.lines]
    assert shown == [label for label in range(MOST_ROWS - 1) if label != 3] + [50, 55]
    assert table.left_out == 60 - MOST_ROWS


def test_methods_without_densities_have_no_table(found):
    assert list_tests(findings_of(found['findings']), [0], CLASSES) is None
    assert list_tests(findings_of({}), [0], CLASSES) is None
