import pytest

from purify.report import words


@pytest.mark.parametrize(
    ('share', 'text'),
    [
        (0, '0 %'),
        (1, '100 %'),
        (0.5, '50.0 %'),
        (0.99999, '>99.9 %'),
        (0.9994, '99.9 %'),
        (0.0001, '<0.1 %'),
        (0.0006, '0.1 %'),
        (None, '–'),
        (float('nan'), '–'),
    ],
)
def test_a_percentage_is_never_rounded_to_all_or_nothing(share, text):
    assert words.say_percent(share) == text


def test_intervals_name_the_unit_once():
    assert words.say_interval(0.912, 0.934) == '91.2 to 93.4 %'
    assert words.say_interval(0, 1) == '0 to 100 %'
    assert words.say_interval(None, None) == '–'


@pytest.mark.parametrize(
    ('seconds', 'text'),
    [
        (0.417, '0.42 s'),
        (12.34, '12.3 s'),
        (59.97, '1 min 00 s'),
        (252, '4 min 12 s'),
        (11100, '3 h 05 min'),
        (None, '–'),
    ],
)
def test_durations(seconds, text):
    assert words.say_duration(seconds) == text


@pytest.mark.parametrize(
    ('value', 'text'),
    [(12345.6, '12,346'), (87.24, '87.2'), (0.01234, '0.0123'), (8, '8'), (None, '–')],
)
def test_numbers(value, text):
    assert words.say_number(value) == text


def test_classes_are_named_where_they_exist():
    assert words.say_class(1, ['cat', 'dog']) == 'dog (1)'
    assert words.say_class(1, ['0', '1']) == '1'
    assert words.say_class(7, ['cat', 'dog']) == '7'
    assert words.say_classes([0, 1], ['cat', 'dog']) == 'cat (0), dog (1)'
    assert words.say_classes([], ['cat']) == 'none'


def test_settings_are_flattened_in_order():
    settings = {'name': 'variation', 'prior': {'steps': 250, 'ema': True}, 'sizes': [1, 2]}
    settings |= {'lr': 0.1 + 0.2, 'none': None}
    wanted = [('name', 'variation'), ('prior.steps', '250'), ('prior.ema', 'yes')]
    wanted += [('sizes', '1, 2'), ('lr', '0.3'), ('none', '–')]
    assert words.flatten(settings) == wanted


def test_a_command_of_words_is_quoted():
    assert words.say_command(['python', '-m', 'purify', 'a b']) == "python -m purify 'a b'"
    assert words.say_command('python -m purify') == 'python -m purify'
