import pytest
from ml_collections import ConfigDict

from purify.config.resolve import leaves, plain


def test_plain_values_all_the_way_down():
    config = ConfigDict({'a': {'b': (1, (2.5, None)), 'c': {}}, 'd': 'x', 'e': True})
    value = plain(config)
    assert value == {'a': {'b': [1, [2.5, None]], 'c': {}}, 'd': 'x', 'e': True}
    assert type(value['a']) is dict
    assert type(value['a']['b'][1]) is list


@pytest.mark.parametrize('odd', [object(), {1, 2}, b'x', 1j, print])
def test_anything_else_is_refused_with_its_type(odd):
    with pytest.raises(ValueError, match=type(odd).__name__):
        plain({'a': [odd]})


def test_leaves_by_dotted_path():
    config = {'a': {'b': 1, 'c': {'d': [1, 2], 'e': {}}}, 'f': None}
    assert leaves(config) == {'a.b': 1, 'a.c.d': [1, 2], 'f': None}
