"""Defences that leave no student: a repaired network, or the teacher behind a guard."""

import csv
import io
import re

import msgspec
import pytest
from report.typed import typed, typed_runs
from rich.console import Console

from purify.report import tables
from purify.report.before_after import before_after, print_before_after
from purify.report.headline import write_detail, write_headline
from purify.report.page import write_report
from purify.report.results import Results
from purify.report.run import Finished
from purify.report.trackers import list_numbers, make_sheets

RARE = {f'{side}_{name}' for side in ('repaired', 'guarded') for name in ('acc', 'asr', 'ra')}


@pytest.fixture
def repaired(results, side):
    return results | {'student': None, 'repaired': side((350, 360), (6, 324), (300, 324))}


@pytest.fixture
def guarded(results, side):
    return results | {
        'student': None,
        'guarded': side((353, 360), (9, 324), (250, 324)) | {'guard': 'blur'},
    }


@pytest.fixture
def both(results, repaired, guarded):
    return results | {
        'student': None,
        'repaired': repaired['repaired'],
        'guarded': guarded['guarded'],
    }


def test_the_sentence_says_what_stands_after_the_defence(repaired, guarded):
    assert (
        write_headline(typed(repaired))
        == 'The backdoor fires on 100 % of triggered test images before, 1.9 % after in the'
        ' repaired classifier; clean accuracy falls from 98.9 % to 97.2 %.'
    )
    assert (
        '2.8 % after in the teacher behind the guard blur; clean accuracy falls from 98.9 % to'
        ' 98.1 %.' in write_headline(typed(guarded))
    )
    assert (
        'After is the repaired classifier: a network made from the teacher, without its backdoor.'
        in write_detail(typed(repaired))
    )
    said = write_detail(typed(guarded))
    assert (
        'After is the teacher behind the guard blur: the guard is a rule that changes test inputs.'
        in said
    )
    assert 'true class in 0 % of cases before, 77.2 % after.' in said
    del guarded['guarded']['guard']
    assert 'After is the teacher behind the guard: the guard is' in write_detail(typed(guarded))
    guarded['teacher'] = None
    wanted = 'after the defence in the teacher behind the guard, and was not measured before'
    assert wanted in write_headline(typed(guarded))


def test_the_footer_says_what_after_is(tmp_path, results, repaired, guarded):
    for numbers, said in (
        (results, 'after is the student, trained on what the defence made of it.'),
        (
            repaired,
            (
                'after is the repaired classifier: a network made from the teacher, without its'
                ' backdoor.'
            ),
        ),
        (
            guarded,
            (
                'after is the teacher behind the guard blur: the guard is a rule that changes test'
                ' inputs.'
            ),
        ),
    ):
        footer = (
            write_report(tmp_path, Finished(typed(numbers), {}, [], {}))
            .read_text('utf-8')
            .partition('<footer>')[2]
        )
        assert said in ' '.join(footer.split())


def test_a_student_comes_first_and_others_have_a_sentence(results, both):
    said = both | {'student': results['student']}
    assert write_headline(typed(said)) == write_headline(typed(results))
    assert 'After is' not in write_detail(typed(said))
    for which in (said, both):
        assert (
            'With the teacher behind the guard blur the backdoor fires on 2.8 % of triggered test'
            ' images and clean accuracy is 98.1 %.' in write_detail(typed(which))
        )
    assert 'With the repaired classifier the backdoor fires on 1.9 %' in write_detail(typed(said))
    # it is what stands after the defence
    assert 'With the repaired classifier' not in write_detail(typed(both))


def test_triggers_are_told_of_what_stands_after_the_defence(repaired):
    for side, rates in (('teacher', (1.0, 0.5)), ('repaired', (0.01, 0.0))):
        repaired[side]['triggers'] = [
            {'target': target, 'asr': rate} for target, rate in enumerate(rates)
        ]
    assert write_detail(typed(repaired)).endswith('and fires on 50.0 % before, 0 % after.')


def test_each_has_its_rows_beside_the_teacher(results, both):
    rows = before_after(typed(both | {'student': results['student']}))
    names = ['ACC', 'ASR', 'RA']
    wanted = [name + of for of in ('', ', repaired', ', guarded') for name in names]
    assert [row.title for row in rows] == wanted
    expected = [(324, 3), (324, 6), (324, 9)]
    assert [(row.before.hits, row.after.hits) for row in rows[1::3]] == expected
    assert (
        rows[6].meaning
        == 'clean test images given their true class; after: the teacher behind the guard blur'
    )
    assert [row.title for row in before_after(typed(both))] == [row.title for row in rows[3:]]
    out = io.StringIO()
    print_before_after(typed(both), Console(file=out, force_terminal=False, width=20))
    lines = [' '.join(line.split()) for line in out.getvalue().splitlines()]
    assert lines[2] == 'ASR, repaired 100 % 324 of 324 99.0 to 100 % 1.9 % 6 of 324 0.9 to 2.9 %'
    assert lines[5].startswith('ASR, guarded 100 % 324 of 324 99.0 to 100 % 2.8 % 9 of 324')


def test_trackers_and_tables_of_many_runs_know_them(results, both):
    numbers = list_numbers(typed(both))
    assert set(numbers) >= RARE
    assert not {'student_acc', 'student_asr'} & set(numbers)
    assert (numbers['repaired_asr'], numbers['guarded_acc']) == (6 / 324, 353 / 360)
    wanted = ['ACC, guarded', 'ASR, guarded', 'RA, guarded']
    assert [row[0] for row in make_sheets(typed(both))[0].rows][3:] == wanted
    rows = tables.collect(typed_runs([({'defense': 'a'}, 0, both), ({'defense': 'b'}, 0, results)]))
    head, _, first, second = tables.to_markdown(rows).splitlines()
    cells = [
        dict(zip(head.split(' | '), line.split(' | '), strict=True)) for line in (first, second)
    ]
    assert [row['repaired ASR'] for row in cells] == ['1.9 %', '–']
    assert [row['guarded RA'] for row in cells] == ['77.2 %', '–']
    raw = list(csv.DictReader(io.StringIO(tables.to_csv(rows))))
    assert [row['guarded_acc_mean'] for row in raw] == [str(353 / 360), '']
    assert [row['student_acc_mean'] for row in raw] == ['', str(351 / 360)]


def test_sweeps_without_them_have_no_columns_of_theirs(results):
    rows = tables.collect(typed_runs([({}, 0, results)]))
    assert 'repaired' not in tables.to_csv(rows) + tables.to_markdown(rows)
    assert 'guarded' not in tables.to_csv(rows) + tables.to_markdown(rows)


def test_the_page_shows_them(tmp_path, both, curves, samples, environment):
    page = write_report(tmp_path, Finished(typed(both), curves, samples, environment)).read_text(
        'utf-8'
    )
    result = page.partition('<h2 id="result">')[2].partition('</section>')[0]
    assert [
        re.sub(r'<small>.*', '', row) for row in re.findall(r'<th scope="row">(.*?)</th>', result)
    ] == ['ACC', 'ASR', 'RA'] * 2
    assert (
        result.count('after: the repaired classifier')
        == result.count('after: the teacher behind the guard blur')
        == 3
    )
    drawn = [
        text.strip()
        for text in re.findall(r'<text[^>]*>([^<]*)</text>|<tspan[^>]*>([^<]*)</tspan>', result)
        for text in text
    ]
    assert {'repaired', 'guarded'} <= set(drawn)
    assert 'ASR, guarded 100 % before, 2.8 % after' in result


def test_they_are_written_only_where_there_is_one(tmp_path, results, both, guarded):
    for value, keys in ((results, set()), (guarded, {'guarded'}), (both, {'repaired', 'guarded'})):
        typed(value).write(tmp_path / 'results.json')
        read = Results.read(tmp_path / 'results.json')
        assert read == typed(value)
        assert set(msgspec.to_builtins(read)) & {'repaired', 'guarded'} == keys
    assert read.guarded.guard == 'blur'
