"""`purify COMMAND --config NAME --help`: every setting is explained by a docstring."""

import re
import shlex

import pytest

from purify import cli
from purify.attacks.settings import attack_words
from purify.commands.explain import explain, meanings_of, typed
from purify.config.load import load_config, packaged_configs
from purify.config.resolve import leaves
from purify.defenses.registry import DEFENSES

SPECS = [
    *packaged_configs(),
    *(f'attacks:attack={name}' for name in attack_words()),
    *(f'quickstart:defense={name}' for name in DEFENSES if not DEFENSES.wanted(name)),
    'castle_walls:setting=cifar10',
    'castle_walls:setting=imagenette',
    'castle_walls:objective=edm',
    'castle_walls:copies=simclr',
    'castle_walls:defense=diffusion_classifier',
    'dataelixir:setting=tiny',
    'dataelixir:exact',
    'relabel:setting=cifar10',
    'imagenette:defense=augmentations',
    'imagenette:model=sd_img2img',
    'quickstart:source=imagefolder:/data',
]


@pytest.mark.parametrize('spec', SPECS)
def test_every_setting_has_a_meaning(spec):
    """A leaf has a meaning of its own, or the heading of its part names it."""
    config = load_config(spec)
    found = list(explain(config))
    shown = {setting.name: setting.value for setting in found if setting.value is not None}
    assert shown == {name: value for name, value in leaves(config).items() if value != {}}
    headings = {setting.name: setting.meaning for setting in found if setting.value is None}
    assert all(headings.values()), [name for name, text in headings.items() if not text]
    for setting in found:
        if not setting.meaning:
            part, _, last = setting.name.rpartition('.')
            assert re.search(rf'\b{last}\b', headings.get(part, '')), setting.name


@pytest.mark.parametrize(
    'spec', ['quickstart', 'attacks:attack=three_patches', 'castle_walls:objective=edm', 'bench']
)
def test_a_setting_can_be_typed_as_it_is_printed(spec):
    config = load_config(spec)
    flags = [
        shlex.split(f'--config.{setting.name}={typed(setting.value)}')
        for setting in explain(config)
        if setting.value is not None
    ]
    assert all(len(words) == 1 for words in flags)
    assert load_config(spec, [words[0] for words in flags]) == config


def test_meanings_come_from_docstrings_the_first_is_believed():
    class Base:
        """One.

        Attributes:
          a, b: of the base.
          c: of the base, on
            two lines.
        """

    class Own(Base):
        """Two.

        Attributes:
          a: its own.
        """

    assert meanings_of(Own) == {
        'a': 'its own.',
        'b': 'of the base.',
        'c': 'of the base, on two lines.',
    }


def test_help_on_a_config_prints_its_words_and_its_settings(capsys):
    flags = ['--config.student.optim.lr=0.5', '--help']
    assert cli.main(['run', '--config', 'quickstart:attack=blended', *flags]) == 0
    said = capsys.readouterr().out
    assert 'Words: attack=' in said
    assert re.search(r'student\.optim\.lr=0\.5\s+peak learning rate', said)
    assert re.search(r"attack\.name='blended'\s+which attack; another one has other", said)
    assert 'teacher.network.stages="(1, 1, 1)"  the number of blocks of each stage' in said
    assert max(map(len, said.splitlines())) <= 120


def test_help_on_a_config_that_is_none(capsys):
    assert cli.main(['run', '--config', 'quickstrat', '--help']) == 2
    assert 'Did you mean quickstart?' in capsys.readouterr().err
