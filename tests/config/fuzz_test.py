"""Random words and flags: every config is read and makes stages, or is refused with a message that
blames no config file.
"""

import os
import random
from pathlib import Path

import pytest

from purify.commands.plan import make_stages
from purify.config.load import load_config
from purify.config.resolve import leaves
from purify.core.errors import UserError

pytestmark = pytest.mark.long

CASES = int(os.environ.get('PURIFY_FUZZ', '500'))
CONFIGS = sorted((Path(__file__).parents[2] / 'configs').glob('*.py'))
VALUES = (
    *(
        'patch',
        'blended',
        'warp',
        'lira',
        'input_aware',
        'sinusoidal',
        'none',
        'badnets',
        'variations',
        'augmentations',
        'relabel',
    ),
    *(
        'generation',
        'diffusion_classifier',
        'dataelixir',
        'castle_walls',
        'abl',
        'asd',
        'dbd',
        'nad',
        'ft',
        'edm',
        'ddpm',
        'latent',
    ),
    *(
        'digits',
        'arrays:here',
        'imagefolder:here',
        'tfds:mnist',
        'cifar10',
        'imagenette',
        'imagenet100',
        'cifar10_small',
        'gtsrb',
    ),
    *(
        'ddim',
        'reference',
        'poisoned',
        'own',
        'pixel',
        'sd',
        'sd_img2img',
        'resnet18',
        'embedded',
        'clip',
        'sscd',
        'vary',
        'usual',
    ),
    *('1', '3', '0.05', '0.5', '32', '100', '1000', 'True', 'False'),
)
ODD = (
    '',
    '0',
    '-1',
    '1e400',
    'nan',
    'inf',
    'True',
    'None',
    '[]',
    '{}',
    '()',
    '1,2',
    '(1, 2)',
    '"x"',
    "'",
    '=',
    ':',
    'ä',
    '9' * 5000,
)
ODD += ('\\', '\n', '\0', '0x10', '1_000', '1j', '-0.0', '..', '~', 'a' * 300, '%s', '{0}')
ODD += ('__import__("os")', '3 4', '[1, "a"]')


def mutate(rng, text):
    """A few characters less, more or other."""
    letters = list(text)
    for _ in range(rng.randint(1, 3)):
        place = rng.randint(0, len(letters))
        letters[place : place + rng.randint(0, 2)] = rng.choice(('', '', *'=:,.-0aZ[ ]', *ODD[:12]))
    return ''.join(letters)


def known_words(path):
    """The words that a config takes; its message for another one names them."""
    with pytest.raises(ValueError, match='This config takes: ') as caught:
        load_config(f'{path}:no_such_word=1')
    return str(caught.value).partition('This config takes: ')[2].rstrip('.').split(', ')


def words_of(rng, known):
    """Words as people write them, with a chance of nonsense."""
    pairs = []
    for name in rng.sample(known, rng.randint(0, min(3, len(known)))):
        value = rng.choice(VALUES if rng.random() < 0.8 else ODD)
        pairs.append(name if rng.random() < 0.05 else f'{name}={value}')
    text = ','.join(pairs)
    return mutate(rng, text) if rng.random() < 0.1 else text


def flag_of(rng, name, value):
    """A flag of the config with another value, or with a name that is nearly right."""
    name = mutate(rng, name) if rng.random() < 0.1 else name
    value = rng.choice((str(value), mutate(rng, str(value)), rng.choice(VALUES), rng.choice(ODD)))
    return (
        f'--config.{name}={value}'
        if rng.random() < 0.9
        else rng.choice((f'--config.{name}', f'{name}={value}'))
    )


def test_random_words_and_flags_are_read_or_refused_with_a_message():
    rng, known = random.Random(0), {path: known_words(path) for path in CONFIGS}
    plain = {path: sorted(leaves(load_config(str(path))).items()) for path in CONFIGS}
    read, refused = 0, 0

    def find(load, revision):  # a prior or an encoder, which may not be on this machine
        return Path(load), revision

    for case in range(CASES):
        path = rng.choice(CONFIGS)
        words = words_of(rng, known[path])
        flags = [flag_of(rng, *rng.choice(plain[path])) for _ in range(rng.choice((0, 0, 1, 2)))]
        spec = f'{path}:{words}' if words else str(path)
        try:
            config = load_config(spec, flags)
            make_stages(config, find, find)
        except (ValueError, UserError) as error:
            told, refused = str(error).strip(), refused + 1
        except Exception as error:
            raise AssertionError(
                f'case {case}: {spec} {flags}: {type(error).__name__}: {error}'
            ) from error
        else:
            told, read = 'read', read + 1
            assert all(
                isinstance(value, str | int | float | bool | list)
                for value in leaves(config).values()
            )
        assert told, f'case {case}: {spec} {flags}: refused without a word'
        assert 'Correct the file' not in told, f'case {case}: {spec} {flags}: {told}'
    wanted = CASES // 10
    assert min(read, refused) > wanted, f'{read} read, {refused} refused: the cases are all alike'
