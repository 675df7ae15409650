import hashlib
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from purify.core import randomness
from purify.core.errors import UserError

NAMES = ('init', 'train', 'variations', 'selection', 'trigger', 'classes')


def bits(keys):
    return np.asarray(jax.random.key_data(keys)).tolist()


def test_stream_number_is_31_bits_of_sha256():
    for name in NAMES:
        found = randomness.stream_number(name)
        assert found == int(hashlib.sha256(name.encode()).hexdigest()[:8], 16) // 2


def test_streams_and_seeds_differ():
    keys = [tuple(bits(randomness.stream_key(seed, name))) for seed in range(3) for name in NAMES]
    assert len(set(keys)) == len(keys)
    numbers = [
        randomness.stream_rng(seed, name).integers(2**62) for seed in range(3) for name in NAMES
    ]
    assert len(set(numbers)) == len(numbers)
    seeds = [randomness.stream_seed(seed, name) for seed in range(3) for name in NAMES]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**31 for seed in seeds)


def test_further_numbers_make_further_streams():
    draws = {
        randomness.stream_rng(0, 'x', *numbers).integers(2**62)
        for numbers in ((0, 0), (0, 1), (1, 0), (1, 1), (2, 0))
    }
    assert len(draws) == 5


@pytest.mark.long
def test_streams_are_the_same_in_another_process_with_another_hash_seed():
    code = (
        'from purify.core.randomness import stream_number, stream_rng, stream_seed; '
        'print(stream_number("a"), stream_seed(3, "a"), stream_rng(3, "a", 1).integers(99999))'
    )
    environment = {'PYTHONHASHSEED': '12345', 'JAX_PLATFORMS': 'cpu'}
    done = subprocess.run(
        [sys.executable, '-c', code],
        cwd=Path(__file__).parents[2],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    here = (
        randomness.stream_number('a'),
        randomness.stream_seed(3, 'a'),
        randomness.stream_rng(3, 'a', 1).integers(99999),
    )
    assert done.stdout.split() == [str(number) for number in here]


@pytest.mark.long
@given(st.lists(st.integers(0, 2**31 - 1), min_size=1, max_size=9, unique=True), st.randoms())
def test_the_key_of_an_id_does_not_depend_on_its_batch(ids, random):
    key = randomness.stream_key(7, 'variations')
    whole = dict(zip(ids, bits(randomness.id_keys(key, np.array(ids, np.int32))), strict=True))
    mixed = random.sample(ids, len(ids))
    assert bits(randomness.id_keys(key, np.array(mixed, np.int32))) == [whole[k] for k in mixed]
    assert bits(randomness.id_keys(key, np.array(ids[:1], np.int32))) == [whole[ids[0]]]
    assert len({tuple(value) for value in whole.values()}) == len(ids)


def test_id_keys_are_the_same_compiled():
    key, ids = randomness.stream_key(0, 'x'), np.arange(5, dtype=np.int32)
    assert bits(jax.jit(randomness.id_keys)(key, ids)) == bits(randomness.id_keys(key, ids))


@pytest.mark.parametrize('seed', [-1, 2**32, 2**70])
def test_seeds_that_libraries_would_refuse_or_cut_are_named(seed):
    for draw in (randomness.stream_key, randomness.stream_rng, randomness.stream_seed):
        said = f'seed {seed}: choose a whole number from 0 to 4294967295'
        with pytest.raises(UserError, match=said):
            draw(seed, 'x')


def test_the_largest_seed_is_one_of_its_own():
    assert bits(randomness.stream_key(2**32 - 1, 'x')) != bits(randomness.stream_key(0, 'x'))
