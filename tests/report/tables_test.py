import csv
import io
import math

import pytest
from report.typed import typed_runs

from purify.core.errors import UserError
from purify.report import tables


def run(acc, asr=0.5, seconds=60.0):
    teacher = {'acc': 0.99, 'asr': 1.0, 'ra': 0.0, 'counts': {}, 'intervals': {}}
    return {
        'teacher': teacher,
        'student': teacher | {'acc': acc, 'asr': asr},
        'cost': {'seconds': seconds},
    }


@pytest.fixture
def rows():
    runs = [
        ({'attack': 'patch', 'rate': 0.1}, 0, run(0.90, seconds=50.0)),
        ({'attack': 'blended'}, 0, run(0.80)),
        ({'rate': 0.1, 'attack': 'patch'}, 1, run(0.92, seconds=60.0)),
        ({'attack': 'patch', 'rate': 0.1}, 2, run(0.97, asr=None, seconds=100.0)),
    ]
    return tables.collect(typed_runs(runs))


def test_seeds_are_grouped_by_point(rows):
    wanted = [({'attack': 'patch', 'rate': 0.1}, [0, 1, 2]), ({'attack': 'blended'}, [0])]
    assert [(row.overrides, row.seeds) for row in rows] == wanted
    acc = rows[0].spreads['student_acc']
    # mean (.90 + .92 + .97) / 3; s^2 = (.03^2 + .01^2 + .04^2) / 2 = .0013; t(.975; 2) = 4.302653
    half = 4.302653 * math.sqrt(0.0013 / 3)
    assert acc.n == 3
    assert [acc.mean, acc.min, acc.max] == pytest.approx([0.93, 0.90, 0.97])
    assert [acc.low, acc.high] == pytest.approx([0.93 - half, 0.93 + half], abs=1e-6)
    assert rows[0].spreads['student_asr'].n == 2  # the third seed did not measure it
    assert rows[0].spreads['seconds'].mean == pytest.approx(70)


def test_a_seed_given_twice_is_refused():
    with pytest.raises(UserError, match=r'seed 3 of attack=patch is given twice'):
        tables.collect(
            typed_runs([({'attack': 'patch'}, 3, run(0.9)), ({'attack': 'patch'}, 3, run(0.9))])
        )


def test_markdown(rows):
    lines = tables.to_markdown(rows).splitlines()
    assert lines[0].startswith('| attack | rate | runs | teacher ACC |')
    assert lines[1].startswith('| :-- | :-- | --: |')
    assert lines[2].startswith('| patch | 0.1 | 3 | 99.0 % (99.0 to 99.0 %)')
    assert '| 93.0 % (90.0 to 97.0 %) [84.0 to 100 %] |' in lines[2]
    assert '| 50.0 % (50.0 to 50.0 %) [50.0 to 50.0 %] 2 of 3 runs |' in lines[2]
    assert lines[3].startswith('| blended | – | 1 | 99.0 % | 100 % | 0 % | 80.0 % |')
    assert len({line.count('|') for line in lines}) == 1


def test_markdown_and_html_escape():
    rows = tables.collect(typed_runs([({'name': 'a|b <script>\n'}, 0, run(0.9))]))
    assert r'| a\|b &lt;script&gt; |' in tables.to_markdown(rows)
    assert '<script' not in tables.to_html(rows)
    assert '&lt;script&gt;' in tables.to_html(rows)


def test_csv_keeps_raw_numbers(rows):
    first, second = csv.DictReader(io.StringIO(tables.to_csv(rows)))
    wanted = ('patch', '0.1', '3', '0 1 2')
    assert (first['attack'], first['rate'], first['runs'], first['seeds']) == wanted
    assert float(first['student_acc_mean']) == pytest.approx(0.93)
    assert float(first['student_acc_high']) > 1  # raw, not cut
    wanted = ('', '0.8', '')
    assert (second['rate'], second['student_acc_mean'], second['student_acc_low']) == wanted


def test_what_a_defence_finds_has_columns_of_its_own(found):
    found['detection'] |= {'label_accuracy': 0.981}
    rows = tables.collect(typed_runs([({'rate': 0.1}, seed, found) for seed in (0, 1)]))
    head, _, line = tables.to_markdown(rows).splitlines()
    for title in ('TPR', 'FPR', 'label accuracy', 'residual ASR', 'FID', 'IS'):
        assert f'| {title} |' in head
    cells = dict(zip(head.split(' | '), line.split(' | '), strict=True))
    assert cells['TPR'].startswith('98.2 % (98.2 to 98.2 %)')
    assert cells['FPR'].startswith('0.4 %')
    assert cells['residual ASR'].startswith('2.8 %')
    assert cells['FID'] == '0.712 (0.712 to 0.712) [0.712 to 0.712]'
    (raw,) = csv.DictReader(io.StringIO(tables.to_csv(rows)))
    seen = (float(raw['tpr_mean']), float(raw['label_accuracy_max']), float(raw['is_mean']))
    assert seen == (0.982, 0.981, 9.99)


def test_unmeasured_quantities_take_no_column():
    bare = {'teacher': {'acc': 0.9}, 'student': None, 'cost': {'seconds': None}}
    rows = tables.collect(typed_runs([({}, 0, bare)]))
    assert tables.to_markdown(rows) == '| runs | teacher ACC |\n| --: | --: |\n| 1 | 90.0 % |\n'
    assert 'student_asr_mean' in tables.to_csv(rows)
