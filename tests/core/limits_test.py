"""Limits of settings: what they keep, what they refuse, and who inherits them."""

import dataclasses
import math
from dataclasses import dataclass
from typing import Annotated, Protocol

import numpy as np
import pytest

from purify.core.errors import UserError
from purify.core.limits import Chance, Count, Flag, Limited, Share, limits, number, one_of, whole
from purify.core.registry import Registry


class Rule(Protocol):
    """What settings may be of."""

    def size(self) -> int:
        """How many."""
        ...


@dataclass(frozen=True)
class Strip(Limited, Rule, place='strip: '):
    """Settings with and without a default, one of them without a limit."""

    draws: Count
    free: object
    overlay: Share = 0.5
    on: Annotated[str, one_of(('logits', 'features'))] = 'logits'
    wrap: Flag = False
    names: list = dataclasses.field(default_factory=list)

    def size(self) -> int:
        return self.draws


@dataclass(frozen=True)
class Wider(Strip, place='defense.'):
    """Another default under the inherited limit, and another limit."""

    overlay: float = 0.7
    draws: Annotated[int, whole(0, 3)] = 2
    free: object = None


def test_whole_numbers():
    limit = whole(0, 4)
    assert limit.check('k', np.int8(4)) == 4
    assert type(limit.check('k', np.int8(4))) is int
    said = r'^k=5 must be a whole number of at least 0 and at most 4\.$'
    with pytest.raises(UserError, match=said):
        limit.check('k', 5)
    with pytest.raises(UserError, match=r'^k=-1 must be a whole number of at least 0\.$'):
        whole(0).check('k', -1)
    for value in (10**5000, True, np.True_, 1.0, '1', None):
        with pytest.raises(UserError, match='k'):
            limit.check('k', value)


def test_numbers_are_finite_and_within_their_bounds():
    limit = number(least=0, most=3)
    assert [limit.check('x', value) for value in (0, 3, np.float32(0.5))] == [0.0, 3.0, 0.5]
    assert type(limit.check('x', 3)) is float
    for value in (-0.1, 3.1, math.inf, math.nan, 10**400, True, np.False_, '1', None):
        said = r'^x=.* must be a number of at least 0 and at most 3\.$'
        with pytest.raises(UserError, match=said):
            limit.check('x', value)
    for value in (0, 1):
        with pytest.raises(UserError, match=r'must be a number above 0 and below 1\.$'):
            number(above=0, below=1).check('x', value)
    with pytest.raises(UserError, match=r'^x=inf must be a finite number above 0\.$'):
        number(above=0).check('x', math.inf)


@pytest.mark.parametrize('value', [0, 1, 'True', None])
def test_a_flag_is_a_bool(value):
    assert Strip(1, None, wrap=np.bool_(True)).wrap is True
    with pytest.raises(UserError, match=r'^strip: wrap=.* must be True or False\.$'):
        Strip(1, None, wrap=value)


@pytest.mark.parametrize('value', ['other', 5, None, ['logits']])
def test_a_word_is_one_of_the_known(value):
    with pytest.raises(UserError, match=r'^strip: on=.* must be one of features, logits\.$'):
        Strip(1, None, on=value)


def test_settings_are_checked_and_kept_as_their_limits_say():
    wanted = (3, 'any', 0.25, 'logits', False, [])
    assert dataclasses.astuple(Strip(np.int64(3), 'any', overlay=np.float64(0.25))) == wanted
    with pytest.raises(UserError, match=r'^strip: draws=0 must be'):
        Strip(0, None)
    with pytest.raises(UserError, match=r'^strip: overlay=1 must be'):
        dataclasses.replace(Strip(1, None), overlay=1)


def test_limits_are_inherited():
    assert (Wider().overlay, Wider(draws=0).size()) == (0.7, 0)
    said = r'^defense\.overlay=1 must be a number above 0 and below 1'
    with pytest.raises(UserError, match=said):
        Wider(overlay=1)
    with pytest.raises(UserError, match=r'^defense\.draws=4 must be .* at most 3'):
        Wider(draws=4)
    assert list(limits(Wider)) == ['draws', 'overlay', 'on', 'wrap']


def test_defaults_are_read_as_of_any_dataclass():
    registry = Registry('score', strip=Strip)
    usual = {'overlay': 0.5, 'on': 'logits', 'wrap': False, 'names': []}
    wanted = {'name': 'strip', 'draws': 2, 'free': 1} | usual
    assert registry.part('strip', draws=2, free=1) == wanted
    assert registry.wanted('strip') == ('draws', 'free')


def test_long_values_are_cut():
    with pytest.raises(UserError, match=r"^strip: on='x{199}\.\.\. must"):
        Strip(1, None, on='x' * 10000)


def test_an_annotation_that_is_text_counts():
    @dataclass
    class Late(Limited):
        share: 'Chance'

    with pytest.raises(UserError, match=r'^share=2 must'):
        Late(2)
