import dataclasses
import functools

import pytest
from flax import nnx

from purify.core.errors import UserError
from purify.core.registry import Registry


@dataclasses.dataclass
class Patch:
    size_px: int
    colour: str = 'white'


class Broken:
    def __init__(self):
        len(3)  # pyright: ignore


def make_blend(ratio, *, pattern):
    return ratio, pattern


@pytest.fixture
def attacks():
    return Registry('attack', patch=Patch, blended=make_blend, broken=Broken)


def test_makes_what_is_asked_for(attacks):
    assert attacks.make('patch', size_px=3) == Patch(3)
    assert attacks.make('blended', 0.5, pattern='noise') == (0.5, 'noise')


def test_an_unknown_name_is_answered_with_the_nearest_and_all(attacks):
    with pytest.raises(UserError, match=r"^unknown attack 'pach'. Did you mean 'patch'\? Choose from: blended, broken, patch.$"):
        attacks.make('pach')


def test_a_name_like_none_gets_no_guess(attacks):
    with pytest.raises(UserError, match=r"^unknown attack 'xyz'. Choose from: blended, broken, patch.$"):
        attacks['xyz']


@pytest.mark.parametrize(
    ('name', 'arguments', 'expected'),
    [
        ('patch', {'sizepx': 3}, r"^attack 'patch': .*unexpected keyword argument 'sizepx'"),
        ('patch', {}, r"^attack 'patch': .*missing 1 required positional argument: 'size_px'"),
        ('blended', {'ratio': 1}, r"^attack 'blended': .*missing 1 required keyword-only argument: 'pattern'"),
    ],
)
def test_wrong_arguments_are_the_users_error(attacks, name, arguments, expected):
    with pytest.raises(UserError, match=expected):
        attacks.make(name, **arguments)


def test_wrong_arguments_of_a_class_that_is_called_by_another_are_the_users_error():
    """flax builds its modules in its own frames."""
    networks = Registry('network', linear=nnx.Linear, small=functools.partial(nnx.Linear, in_features=2))
    for name in networks:
        with pytest.raises(UserError, match=rf"^network '{name}': Linear.__init__\(\) got an unexpected keyword argument 'width'"):
            networks.make(name, width=3)


def test_a_mistake_inside_an_entry_stays_a_mistake(attacks):
    with pytest.raises(TypeError, match='has no len'):
        attacks.make('broken')


def test_an_entry_may_be_called_kind_or_name():
    registry = Registry('thing', kind=lambda name: name)
    assert registry.make('kind', name='x') == 'x'
