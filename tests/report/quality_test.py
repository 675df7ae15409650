from report.typed import typed

from purify.report.sections.quality import list_likeness, say_likeness
from purify.report.sections.result import list_extras


def test_the_benign_model_and_the_residual_attack(found):
    lines = {name: (value, meaning) for name, value, meaning in list_extras(typed(found))}
    wanted = ['Benign model ACC', 'Benign model ASR', 'Benign model RA', 'Residual ASR']
    assert list(lines) == wanted
    assert lines['Benign model ASR'][0] == '1.5 %'
    assert lines['Residual ASR'][0] == '2.8 %'
    assert '9 of 324; 95 % interval 1.5 to 5.2 %' in lines['Residual ASR'][1]


def test_what_was_not_measured_is_left_out(results):
    assert list_extras(typed(results)) == list_likeness(typed(results)) == []
    assert say_likeness(typed(results)) == ''
    assert list_extras(typed(results | {'student': None})) == []


def test_image_quality_names_its_network(found):
    wanted = [('FID', '0.712'), ('IS', '9.99'), ('IS before', '10.2')]
    assert [line[:2] for line in list_likeness(typed(found))] == wanted
    said = say_likeness(typed(found))
    assert 'student (resnet, 3 classes), not of Inception' in said
    assert said.endswith('A note on the number of images.')
    found['purified'] |= {'fid': None}
    assert [name for name, *_ in list_likeness(typed(found))] == ['IS', 'IS before']


def test_numbers_that_round_to_nothing_are_nothing(found):
    found['purified'] |= {'fid': 2.7e-10, 'is': 0.0006}
    assert [value for _, value, _ in list_likeness(typed(found))] == ['0', '0.0006', '10.2']
    found['purified']['fid'] = -3e-9  # of the matrix root
    assert list_likeness(typed(found))[0][1] == '0'
