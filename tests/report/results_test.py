"""results.json as a file: what is written is read, a damaged one is refused with the place."""

import json

import msgspec
import pytest
from report.typed import list_lost, typed

from purify.core.errors import UserError
from purify.report.results import Results, StageCost
from purify.train.cost import Spent


def test_every_number_of_a_stage_s_cost_is_told():
    wanted = {*Spent.__annotations__, 'reused'}
    assert {field.name for field in msgspec.structs.fields(StageCost)} == wanted


@pytest.mark.parametrize('kind', ['results', 'found', 'relabelled', 'dissected'])
def test_nothing_of_a_file_is_lost(request, tmp_path, kind):
    value = request.getfixturevalue(kind)
    typed(value).write(tmp_path / 'results.json')
    written = json.loads((tmp_path / 'results.json').read_text())
    assert list(list_lost(value, written)) == []
    assert typed(written) == Results.read(tmp_path / 'results.json')


@pytest.mark.parametrize(
    ('place', 'value', 'said'),
    [
        (('attack', 'rate'), '0.1', r'Expected `float`, got `str` - at `\$\.attack\.rate`'),
        (('teacher', 'acc'), 1.5, r'`float` <= 1(\.0)? - at `\$\.teacher\.acc`'),
        (('teacher', 'counts'), {'acc': [1]}, r'length >= 2 - at `\$\.teacher\.counts\[\.\.\.\]`'),
        (('classes',), [1], r'Expected `str`, got `int` - at `\$\.classes\[0\]`'),
        (('defense',), {}, r'Expected `str` - at `\$\.defense\.name`'),
        (
            ('cost', 'stages'),
            {'prepare': {'seconds': 1e300}},
            r'at `\$\.cost\.stages\[\.\.\.\]\.seconds`',
        ),
        (('cost',), None, r'at `\$\.cost`'),
    ],
)
def test_a_file_of_another_form_is_refused_with_the_place(tmp_path, results, place, value, said):
    *way, last = place
    part = results
    for name in way:
        part = part[name]
    part[last] = value
    path = tmp_path / 'results.json'
    path.write_text(json.dumps(results))
    told = rf'results\.json: not what this program writes there .*{said}.*Write it again'
    with pytest.raises(UserError, match=told):
        Results.read(path)


@pytest.mark.parametrize(
    'name', ['version', 'seeds', 'attack', 'teacher', 'student', 'detection', 'cost']
)
def test_a_missing_part_is_refused(tmp_path, results, name):
    del results[name]
    (tmp_path / 'results.json').write_text(json.dumps(results))
    with pytest.raises(UserError, match=f'missing required field `{name}`'):
        Results.read(tmp_path / 'results.json')


def test_findings_of_another_form_are_the_user_s_error(found):
    found['findings']['chart'] = 'bars'
    said = r'findings of variation are not such as a report shows .*\$\.chart'
    with pytest.raises(UserError, match=said):
        _ = typed(found).facts
