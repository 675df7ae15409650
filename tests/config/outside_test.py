"""What is put into a registry from outside is a word of the configs at once, with the defaults of
its own class.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import pytest
from flax import nnx

from purify.attacks.fixed.patch import Patch
from purify.attacks.registry import ATTACKS
from purify.commands.check import check
from purify.config.load import load_config
from purify.data.sources.open_source import SOURCES, read_digits
from purify.defenses.method import Defense, Method, Outcome
from purify.defenses.needs import Needs
from purify.defenses.registry import DEFENSES
from purify.defenses.steps import student_step
from purify.models.classifiers.registry import NETWORKS

QUICKSTART = Path(__file__).parents[2] / 'configs' / 'quickstart.py'


@dataclass(frozen=True, kw_only=True)
class Mine(Patch):
    """A patch with a setting of its own, weaker than others, and with a preset for the digits."""

    shade: float = 0.25

    usual_rate: ClassVar[float] = 0.03
    covers: ClassVar[float] = 1.0
    presets: ClassVar = {'digits': {'shade': 0.5}}


@dataclass(frozen=True)
class Own(Defense):
    """A defence that trains a student, and says nothing of what it needs."""

    share: float = 0.3
    lengths: dict = field(default_factory=lambda: {'first': 1.0, 'last': 2.0})

    presets: ClassVar = {'small': {'lengths': {'last': 9.0}}}

    def method(self, student):
        return Method((student_step(student, 'poisoned'),), Outcome(classifier='student'))


@dataclass(frozen=True)
class Trusting(Own):
    """The same with needs."""

    needs: ClassVar[Needs] = Needs(trusted={'per_class': 3}, steps=True, dataset=True)


class Tiny(nnx.Module):
    """A network whose settings no other has."""

    def __init__(
        self, *, num_classes, channels, depth=2, mean=(0.0,), std=(1.0,), dtype='float32', rngs
    ):
        self.head = nnx.Linear(depth * channels, num_classes, dtype=dtype, rngs=rngs)


def read_mine(channels: int, path: str, *, year: int = 2024):
    return read_digits(1) if path and year else None


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    monkeypatch.setitem(ATTACKS, 'mine', Mine)
    monkeypatch.setitem(DEFENSES, 'mine', Own)
    monkeypatch.setitem(DEFENSES, 'trusting', Trusting)
    monkeypatch.setitem(NETWORKS, 'mine', Tiny)
    monkeypatch.setitem(SOURCES, 'mine', read_mine)


def configured(words, file=QUICKSTART):
    return load_config(f'{file}:{words}')


def test_an_attack():
    attack = configured('attack=mine')['attack']
    patch = configured('attack=patch')['attack']
    assert set(attack) == {*patch, 'shade'}
    own = {'name': 'mine', 'rate': 0.03, 'cover_rate': 0.03, 'shade': 0.5, 'size_px': 3}
    own |= {'colours': [], 'scheme': 'all_to_one'}
    assert attack.items() >= own.items()
    assert configured('attack=mine,source=arrays:x')['attack']['shade'] == 0.25
    assert configured('attack=mine', QUICKSTART.with_name('cifar10.py'))['attack']['rate'] == 0.03
    said = r"^attack='min': choose from .*lira, low_frequency, mine, none"
    with pytest.raises(ValueError, match=said):
        configured('attack=min')


def test_a_defence():
    config = configured('defense=mine')
    wanted = {'name': 'mine', 'share': 0.3, 'lengths': {'first': 1.0, 'last': 9.0}}
    assert config['defense'] == wanted
    assert config['student'] == config['teacher']
    assert not {'trusted', 'evaluation', 'prior'} & set(config)
    assert not check(config).problems
    said = r"^defense='min': choose from abl, .*fct, mine, nad, none"
    with pytest.raises(ValueError, match=said):
        configured('defense=min')


def test_what_a_defence_says_it_needs():
    config = configured('defense=trusting')
    assert config['trusted'] == {'per_class': 3, 'share': 0.0}
    assert config['evaluation'] == {'features': 'student', 'residual': False}
    student = config['student']
    assert (student['steps'], student['epochs'], student['optim']['name']) == (1500, 0, 'adam')
    small = configured('defense=trusting,small,source=arrays:x', QUICKSTART.with_name('cifar10.py'))
    assert small['defense']['lengths'] == {'first': 1.0, 'last': 2.0}
    assert small['student']['steps'] == 600


def test_a_network():
    assert NETWORKS.part('mine', depth=3) == {'name': 'mine', 'depth': 3, 'dtype': 'float32'}
    walls = QUICKSTART.with_name('castle_walls.py')
    network = configured('setting=imagenette,network=mine', walls)['teacher']['network']
    wanted = {'name': 'mine', 'depth': 2, 'dtype': 'bfloat16'}
    assert {name: network[name] for name in ('name', 'depth', 'dtype')} == wanted


def test_a_source():
    own = 'source=mine:here,size_px=48'
    source = configured(own)['source']
    assert (
        source.items()
        >= {
            'name': 'mine',
            'path': 'here',
            'year': 2024,
            'size_px': 48,
            'reference': 'held_out',
        }.items()
    )
    assert configured(own)['prior']['network']['sample_size'] == 48
    assert configured('source=mine:here')['prior']['load'] == 'photos32'
    said = r"^source='main': choose from arrays, digits, imagefolder, mine, tfds"
    with pytest.raises(ValueError, match=said):
        configured('source=main')
