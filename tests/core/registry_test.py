import dataclasses
import functools

import pytest
from flax import nnx

from purify.core.errors import UserError
from purify.core.registry import Fixed, Registry


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
    said = r"^unknown attack 'pach'. Did you mean 'patch'\? Choose from: blended, broken, patch.$"
    with pytest.raises(UserError, match=said):
        attacks.make('pach')


def test_a_name_like_none_gets_no_guess(attacks):
    said = r"^unknown attack 'xyz'. Choose from: blended, broken, patch.$"
    with pytest.raises(UserError, match=said):
        attacks['xyz']


@pytest.mark.parametrize(
    ('name', 'arguments', 'expected'),
    [
        (
            'patch',
            {'sizepx': 3},
            r"^attack 'patch' has no setting 'sizepx'\. It has: .*size_px.* use a word",
        ),
        ('patch', {}, r"^attack 'patch': .*missing 1 required positional argument: 'size_px'"),
        (
            'blended',
            {'ratio': 1},
            r"^attack 'blended': .*missing 1 required keyword-only argument: 'pattern'",
        ),
    ],
)
def test_wrong_arguments_are_the_users_error(attacks, name, arguments, expected):
    with pytest.raises(UserError, match=expected):
        attacks.make(name, **arguments)


def test_wrong_arguments_of_a_class_that_is_called_by_another_are_the_users_error():
    """flax builds its modules in its own frames."""
    networks = Registry(
        'network', linear=nnx.Linear, small=functools.partial(nnx.Linear, in_features=2)
    )
    for name in networks:
        with pytest.raises(UserError, match=f"^network '{name}' has no setting 'width'. It has: "):
            networks.make(name, width=3)


def test_a_mistake_inside_an_entry_stays_a_mistake(attacks):
    with pytest.raises(TypeError, match='has no len'):
        attacks.make('broken')


def test_an_entry_may_be_called_kind_or_name():
    registry = Registry('thing', kind=lambda name: name)
    assert registry.make('kind', name='x') == 'x'


def train(total, *, lr, schedule='cosine'):
    return total, lr, schedule


@dataclasses.dataclass
class Clever:
    rounds: int = 3
    choice: dict = dataclasses.field(default_factory=lambda: {'name': 'first', 'share': 0.1})
    lengths: dict = dataclasses.field(default_factory=lambda: {'first': 1.0, 'last': 2.0})
    extra: dict | None = None


@pytest.fixture
def makers():
    return Registry(
        'maker',
        common=train,
        hidden=('total', 'ratio', 'clever.rounds'),
        patch=functools.partial(Patch, 3, colour='red'),
        fixed=Fixed(Patch, colour='red'),
        blended=make_blend,
        clever=Clever,
        linear=nnx.Linear,
    )


def test_a_part_is_the_defaults_and_what_changes_them(makers):
    wanted = {'name': 'patch', 'lr': 0.5, 'schedule': 'cosine', 'colour': 'red'}
    assert makers.part('patch', lr=0.5) == wanted
    wanted = {'name': 'fixed', 'lr': 0.5, 'schedule': 'cosine', 'size_px': 2}
    assert makers.part('fixed', lr=0.5, size_px=2) == wanted
    assert makers.part(
        'blended', {'lr': 1, 'pattern': 'a'}, {'lr': 2}, pattern='b', schedule='step'
    ) == {'name': 'blended', 'lr': 2, 'schedule': 'step', 'pattern': 'b'}
    assert makers.make('patch', colour='blue') == Patch(3, 'blue')
    assert makers.make('fixed', size_px=1) == Patch(1, 'red')
    with pytest.raises(UserError, match="'fixed' has its own colour, which cannot be changed"):
        makers.make('fixed', colour='blue')


def test_mappings_are_changed_leaf_by_leaf_unless_they_are_named(makers):
    usual = makers.part('clever', lr=1)
    assert usual == {'name': 'clever', 'lr': 1, 'schedule': 'cosine'} | {
        'choice': {'name': 'first', 'share': 0.1},
        'lengths': {'first': 1.0, 'last': 2.0},
    }
    changed = makers.part(
        'clever',
        lr=1,
        lengths={'last': 5.0},
        choice={'name': 'other'},
        rounds=2,
        extra={'a': 1},
        schedule=None,
    )
    assert changed['lengths'] == {'first': 1.0, 'last': 5.0}
    assert changed['choice'] == {'name': 'other'}
    assert (changed['rounds'], changed['extra'], 'schedule' in changed) == (2, {'a': 1}, False)
    usual['lengths']['first'] = 7.0
    assert makers.part('clever', lr=1)['lengths']['first'] == 1.0, "a part is nobody else's"


@pytest.mark.parametrize(
    ('name', 'changes', 'expected'),
    [
        ('pach', {}, "^maker='pach': choose from blended, clever, fixed, linear, patch"),
        (
            'clever',
            {'lr': 1, 'round': 2},
            r"^maker 'clever' has no setting 'round'\. Did you mean 'rounds'\? It has: choice, ",
        ),
        (
            'clever',
            {'lr': 1, 'lengths': {'frist': 2.0}},
            r"lengths, has no setting 'frist'\. Did you mean 'first'\?",
        ),
        ('fixed', {'lr': 1, 'size_px': 2, 'colour': 'blue'}, "has no setting 'colour'"),
        ('fixed', {'size_px': 2}, "^maker 'fixed' has no default for lr; give it"),
        ('blended', {}, "^maker 'blended' has no default for lr, pattern; give it"),
    ],
)
def test_parts_that_cannot_be_made_are_named(makers, name, changes, expected):
    with pytest.raises(ValueError, match=expected):
        makers.part(name, **changes)


def test_what_an_entry_wants_and_takes(makers):
    assert makers.wanted('blended') == ('lr', 'pattern')
    assert makers.wanted('clever') == ('lr',)
    assert makers.takes('linear', 'in_features')  # flax hides the signatures of its classes
    assert not makers.takes('patch', 'ratio')
    assert not makers.takes('nobody', 'ratio')
