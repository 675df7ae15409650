import pytest

from purify.config.arguments import parse_words

SPEC = {'attack': 'patch', 'rate': 0.1, 'seed': 0, 'distill': True, 'smoke': False}


def test_defaults_without_words():
    assert parse_words(None, **SPEC).to_dict() == SPEC
    assert parse_words('', **SPEC).to_dict() == SPEC


def test_words_take_the_types_of_their_defaults():
    words = parse_words('attack=blended,rate=1,seed=7,distill=False,smoke', **SPEC).to_dict()
    assert words == {'attack': 'blended', 'rate': 1.0, 'seed': 7, 'distill': False, 'smoke': True}
    assert [type(value) for value in words.values()] == [type(SPEC[name]) for name in words]


@pytest.mark.parametrize('text', ['true', 'True', '1', 'yes'])
def test_ways_to_say_yes(text):
    assert parse_words(f'smoke={text}', **SPEC).smoke is True


def test_a_value_may_hold_a_colon_and_an_equals_sign():
    assert parse_words('attack=imagefolder:/data/a=b', **SPEC).attack == 'imagefolder:/data/a=b'


@pytest.mark.parametrize(
    ('text', 'expected'),
    [
        (
            'atack=patch',
            (
                r"^unknown word 'atack' after the colon. Did you mean 'attack'\? This config takes:"
                r' attack, distill, rate, '
            ),
        ),
        ('zzz', r"^unknown word 'zzz' after the colon. This config takes: attack, "),
        ('rate=high', r"^rate='high' must be of type float, like 0\.1"),
        ('seed=1.5', r"^seed='1\.5' must be of type int, like 0"),
        ('rate', r"^rate='True' must be of type float"),
        ('distill=maybe', r"^distill='maybe' must be True or False"),
    ],
)
def test_mistakes_are_named(text, expected):
    with pytest.raises(ValueError, match=expected):
        parse_words(text, **SPEC)
