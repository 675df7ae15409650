"""Random numbers as functions of (seed, stream, id, step); no generator is carried along."""

import hashlib

import jax
import numpy as np

from purify.core.errors import UserError

SEED_LIMIT = 2**32  # jax keeps 32 bits of a seed and would take two seeds for one


def stream_number(name: str) -> int:
    """A stable 31-bit number for a stream's name (Python's own `hash` changes from run to run)."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], 'big') >> 1


def stream_key(seed: int, name: str) -> jax.Array:
    """The typed jax key of a named stream: `stream_key(seed, 'variations')`."""
    return jax.random.fold_in(jax.random.key(check_seed(seed)), stream_number(name))


def id_keys(key: jax.Array, ids: jax.Array) -> jax.Array:
    """Gives every image a key of its own, key[b] from ids i32[b], whatever its batch."""
    return jax.vmap(jax.random.fold_in, (None, 0))(key, ids)


def stream_rng(seed: int, name: str, *numbers: int) -> np.random.Generator:
    """Makes a NumPy generator for a named stream and numbers such as the id, always as many."""
    return np.random.default_rng([check_seed(seed), stream_number(name), *numbers])


def stream_seed(seed: int, name: str) -> int:
    """A 31-bit seed for libraries that take an int (grain)."""
    sequence = np.random.SeedSequence([check_seed(seed), stream_number(name)])
    return int(sequence.generate_state(1)[0] >> 1)


def check_seed(seed: int) -> int:
    """Returns a seed that all libraries take for what it is; raises `UserError` for others."""
    if not 0 <= seed < SEED_LIMIT:
        raise UserError(f'seed {seed}: choose a whole number from 0 to {SEED_LIMIT - 1}.')
    return seed
