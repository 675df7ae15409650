"""A defence that was handed clean images is marked wherever it stands beside others."""

import csv
import io

from report.typed import typed, typed_runs

from purify.report import tables
from purify.report.headline import write_detail
from purify.report.page import write_report
from purify.report.run import Finished


def of(results, defense, trusted):
    return results | {'defense': {'name': defense}, 'trusted': trusted}


def test_the_sentence_below_the_headline_says_how_many(results):
    told = write_detail(typed(of(results, 'nad', {'images': 1200})))
    assert 'The defence is nad, which was handed 1,200 training images known to be clean.' in told
    assert 'handed 1 training image known' in write_detail(typed(of(results, 'nad', {'images': 1})))
    for blind in (of(results, 'abl', None), results):
        assert 'handed' not in write_detail(typed(blind))


def test_rows_of_such_defences_bear_a_star(results):
    runs = [({'defense': name, 'rate': 0.1}, 0, of(results, name, trusted)) for name, trusted in
            (('abl', None), ('nad', {'images': 40}), ('asd', {'images': 1100}))]  # fmt: skip
    rows = tables.collect(typed_runs(runs))
    markdown = tables.to_markdown(rows)
    wanted = ['abl', 'nad*', 'asd*']
    assert [line.split(' | ')[0].strip('| ') for line in markdown.splitlines()[2:5]] == wanted
    note = 'was handed training images as clean ones: 40 (nad), 1,100 (asd)'
    assert markdown.endswith(f'\n\n\\* {note}.\n')
    html = tables.to_html(rows)
    assert note in html
    assert (html.count('nad*'), html.count('asd*'), html.count('abl*')) == (1, 1, 0)
    wanted = ['0', '40', '1100']
    assert [row['trusted'] for row in csv.DictReader(io.StringIO(tables.to_csv(rows)))] == wanted
    wanted = ['abl', 'nad', 'asd']
    assert [row['defense'] for row in csv.DictReader(io.StringIO(tables.to_csv(rows)))] == wanted


def test_a_row_that_does_not_name_the_defence_bears_it_where_it_begins(results):
    handed = of(results, 'nad', {'images': 40})
    wanted = '| 0.1* |'
    assert wanted in tables.to_markdown(tables.collect(typed_runs([({'rate': 0.1}, 0, handed)])))
    assert '| 1* |' in tables.to_markdown(tables.collect(typed_runs([({}, 0, handed)])))


def test_nobody_is_marked_where_nobody_was_handed_any(results):
    rows = tables.collect(typed_runs([({'defense': 'abl'}, 0, of(results, 'abl', None))]))
    assert '*' not in tables.to_markdown(rows) + tables.to_html(rows)


def test_the_page_says_it_twice(tmp_path, results, curves, samples, environment):
    page = write_report(
        tmp_path, Finished(typed(of(results, 'nad', {'images': 40})), curves, samples, environment)
    ).read_text()
    assert 'which was handed 40 training images known to be clean' in page
    assert 'trusted.images' in page
