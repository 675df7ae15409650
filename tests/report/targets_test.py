import re

from report.typed import findings_of
from support.drawings import parse, words_of

from purify.report.canvas import WIDTH_PX
from purify.report.targets import MAX_BARS, draw_targets, list_sets, read_bars, say_chart

CLASSES = ['zero', 'one', 'two']


def test_bars_say_their_numbers_and_the_targets(found):
    drawing = draw_targets(findings_of(found['findings']), CLASSES, 'a')
    assert (
        drawing.text
        == 'Bars. score by label: zero (0) 2.5; one (1) 0.125; two (2) 0. Threshold 1. Targets:'
        ' zero (0).'
    )
    assert parse(drawing).get('aria-label') == drawing.text
    assert parse(drawing).get('viewBox', '').startswith(f'0 0 {WIDTH_PX} ')
    words = words_of(drawing)
    assert {'zero (0)', 'one (1)', 'two (2)', 'score; dashed: 1'} <= set(words)
    assert words.count('target') == 1  # not told by colour alone
    fills = re.findall(r'fill: var\(--(before|after)\)', str(drawing.svg))
    assert (fills.count('before'), fills.count('after')) == (1, 2)
    assert not re.findall(r'#[0-9a-f]{3,8}\b(?!")', str(drawing.svg).replace('url(#', ''))


def test_the_other_quantity_and_negative_bars(found):
    found['findings']['chart'] = {'quantity': 'index', 'threshold': 2.0}
    drawing = draw_targets(findings_of(found['findings']), CLASSES, 'a')
    assert 'index by label: zero (0) 4; one (1) -0.5; two (2) 0. Threshold 2.' in drawing.text


def test_many_labels_leave_the_innocent_out():
    rows = [{'label': label, 'score': label / 100, 'target': label == 3} for label in range(60)]
    drawing = draw_targets(
        findings_of({'labels': rows, 'chart': {'quantity': 'score', 'threshold': 0.5}}), [], 'a'
    )
    shown = [int(word) for word in words_of(drawing) if word.isdecimal() and word != '0']
    assert {3, *range(60 - MAX_BARS + 1, 60)} <= set(shown)
    assert 36 not in shown
    found = f'{60 - MAX_BARS} labels that are no targets, with less than those shown, are left out.'
    wanted = drawing.text
    assert found in wanted


def test_names_are_text_and_short(found):
    words = words_of(draw_targets(findings_of(found['findings']), ['$x^2$', '<b>' * 9, 'two'], 'a'))
    assert '$x^2$ (0)' in words
    assert '<b><b><b><b>…' in words


def test_clusters_are_bars_too():
    rows = [
        {'label': 0, 'share': 0.2, 'flagged': True},
        {'label': 1, 'share': 0.48, 'flagged': False},
    ]
    facts = findings_of({'target_labels': [0], 'classes': rows, 'size': 0.35})
    assert read_bars(facts)[:2] == ('share', 0.35)
    assert 'Targets: zero (0).' in draw_targets(facts, CLASSES, 'a').text
    assert say_chart(facts).startswith('Share of the smaller of two clusters')


def test_of_many_clusters_the_smallest_are_shown():
    rows = [
        {'label': label, 'share': 0.5 - label / 200, 'flagged': label == 3} for label in range(60)
    ]
    drawing = draw_targets(findings_of({'classes': rows, 'size': 0.35}), [], 'a')
    labels = {
        int(said.split()[0])
        for said in drawing.text.partition('label: ')[2].partition('. Threshold')[0].split('; ')
    }
    assert labels == {3, *range(60 - MAX_BARS + 1, 60)}
    found = f'{60 - MAX_BARS} labels that are no targets, with more than those shown, are left out.'
    wanted = drawing.text
    assert found in wanted


def test_a_low_density_score_speaks_against_a_label(relabelled):
    relabelled['findings']['labels'][2]['nd'] = None  # not known: no bar
    drawing = draw_targets(findings_of(relabelled['findings']), CLASSES, 'a')
    assert (
        drawing.text
        == 'Bars. S_ND by label: zero (0) 0.2; one (1) 1. Threshold 0.6. Targets: zero (0).'
    )
    assert say_chart(findings_of(relabelled['findings'])).startswith('S_ND: how much worse')


def test_facts_of_other_methods_draw_nothing():
    for facts in ({}, {'classes': [{'label': 0, 'images': 3, 'removed': 1}], 'remove': 0.15}):
        assert draw_targets(findings_of(facts), CLASSES, 'a') is None
        assert list_sets(findings_of(facts)) == []


def test_the_rule_is_said(found):
    wanted = '(0.5 nats, 0.03 of the images, or 5 deviations of the others'
    assert wanted in say_chart(findings_of(found['findings']))
    # of a run of version 0.1
    found['findings']['rule'] = {'name': 'significant', 'score': 1.0, 'level': 0.001}
    wanted = '(1 nats, – of the images, or – deviations of the others'
    assert wanted in say_chart(findings_of(found['findings']))
    found['findings']['rule'] = {'name': 'mad', 'threshold': 2.0, 'score': 'kl', 'two_sided': True}
    assert say_chart(findings_of(found['findings'])).endswith(
        'Dashed: the threshold. A label beyond the threshold is named. Low ones are named too.'
    )


def test_sets_are_counted(found):
    wanted = ('Benign', '1,200', '83.3 %: images keep their label on nearly all candidates')
    assert list_sets(findings_of(found['findings']))[0] == wanted


def test_a_class_that_another_test_named_says_which(relabelled):
    rows = relabelled['findings']['labels']
    words = words_of(draw_targets(findings_of(relabelled['findings']), CLASSES, 'a'))
    assert [word for word in words if word.startswith('target')] == ['target']
    assert 'S_ND; dashed: 0.6' in words
    rows[2] |= {'target': True, 'type': 'disruptive'}  # its S_ND of 1.5 is beyond suspicion
    words = words_of(draw_targets(findings_of(relabelled['findings']), CLASSES, 'a'))
    assert [word for word in words if word.startswith('target')] == ['target', 'target (S_D)']
    # no bar but S_ND's is explained so
    relabelled['findings']['chart'] = {'quantity': 'disruptive', 'threshold': 0.05}
    wanted = 'target (S_D)'
    assert wanted not in words_of(draw_targets(findings_of(relabelled['findings']), CLASSES, 'a'))
