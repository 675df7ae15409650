"""Names of classes that look alike, and names that only resemble each other."""

import pytest

from purify.core.errors import UserError
from purify.data.names import check_class_names


@pytest.mark.parametrize(
    'twins',
    [
        ('caf\u00e9', 'cafe\u0301'),
        ('caf\u00e9', 'cafe\u200b\u0301'),
        ('\ufb01sh', 'fish'),
        ('\uff41', 'a'),
        ('a', 'a\u034f'),
        ('a', 'a\ufe0f'),
        ('a', 'a\u3164'),
        ('co\u00adop', 'coop'),
    ],
)
def test_names_that_look_alike_are_refused_and_shown(twins):
    with pytest.raises(UserError, match=r'differ in their Unicode form alone: .*U\+'):
        check_class_names('x', ['dog', *twins])


@pytest.mark.parametrize(
    'pair',
    [
        ('m\u00b2', 'm2'),
        ('H\u2082O', 'H2O'),
        ('1', '\u2460'),
        ('\u0645\u06cc\u200c\u062e', '\u0645\u06cc\u062e'),
    ],
)
def test_names_that_can_be_told_apart_pass(pair):
    check_class_names('x', ['dog', *pair])


@pytest.mark.parametrize('name', ['\u200b', '', ' ', '\ufeff'])
def test_a_name_that_nobody_sees_is_refused(name):
    with pytest.raises(UserError, match='each must be there once'):
        check_class_names('x', ['dog', name])
