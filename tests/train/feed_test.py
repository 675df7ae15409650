"""Batches are the same, to the last bit, from rows and from numbers of rows on the devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.meshes import mesh_of

from purify.core import devices
from purify.data.augment import AlternatingFlip, Flip, PadCrop, Rotation
from purify.train.feed import Feed

RNG = np.random.default_rng(0)
COUNT, BATCH = 24, 16
CHANGES = (PadCrop(2), Flip(0.5), Rotation(20.0))
COLUMNS = {
    'image': RNG.integers(0, 256, (COUNT, 7, 6, 3), np.uint8),
    'label': RNG.integers(0, 3, COUNT).astype(np.int32),
    'id': np.arange(COUNT, dtype=np.int32) // 2 + 50,
    'variation': np.arange(COUNT, dtype=np.int32) % 2,
}
HELD = {'position': COLUMNS, 'other': {'unlabelled': COLUMNS['image'][::-1].copy()}}
NUMBERS = {name: RNG.integers(0, COUNT, BATCH).astype(np.int32) for name in HELD}


def whole(numbers):
    """The rows that numbers stand for."""
    return {
        name: column[numbers[number]]
        for number, columns in HELD.items()
        for name, column in columns.items()
    }


def rows(held, drawn, step, changes=CHANGES, seed=1):
    feed = Feed(lambda start: iter(()), held, changes, seed)
    return jax.jit(feed.rows)(held, drawn, jnp.int32(step))


@pytest.mark.parametrize('changes', [(), CHANGES])
def test_numbers_and_rows_make_one_batch(changes):
    numbers, given = rows(HELD, NUMBERS, 3, changes), rows({}, whole(NUMBERS), 3, changes)
    assert set(numbers) == set(given) == {*COLUMNS, 'unlabelled'}
    for name, column in given.items():
        np.testing.assert_array_equal(numbers[name], column)
    kept = {name: given[name] for name in ('label', 'id', 'unlabelled')}
    for name, column in kept.items():
        np.testing.assert_array_equal(column, whole(NUMBERS)[name])


def test_an_image_is_changed_by_seed_id_variation_and_step_alone():
    twice = {'position': np.array([5, 8, 5], np.int32), 'other': np.zeros(3, np.int32)}
    found = rows(HELD, twice, 4)['image']
    np.testing.assert_array_equal(found[0], found[2])
    alone = {name: column[:1] for name, column in twice.items()}
    np.testing.assert_array_equal(rows(HELD, alone, 4)['image'][0], found[0])
    assert (rows(HELD, twice, 5)['image'][0] != found[0]).any()
    assert (rows(HELD, twice, 4, seed=2)['image'][0] != found[0]).any()
    # variations of an image are changed apart
    same = {'position': {**COLUMNS, 'image': np.repeat(COLUMNS['image'][:1], COUNT, 0)}}
    pair = rows(same, {'position': np.array([4, 5], np.int32)}, 0)
    assert pair['id'][0] == pair['id'][1]
    assert (pair['image'][0] != pair['image'][1]).any()


def test_devices_look_their_rows_up_by_themselves():
    mesh = mesh_of()
    feed = Feed(lambda start: iter(()), HELD, CHANGES, 1)
    held, drawn = devices.put_copy(HELD, mesh), devices.put_batch(NUMBERS, mesh)
    program = jax.jit(feed.rows).lower(held, drawn, jnp.int32(3)).compile()
    text = program.as_text()
    assert not any(word in text for word in ('all-gather', 'all-to-all', 'all-reduce', 'permute('))
    found = program(held, drawn, jnp.int32(3))
    np.testing.assert_array_equal(found['image'], rows({}, whole(NUMBERS), 3)['image'])
    assert len(found['image'].sharding.device_set) == mesh.size


def test_an_alternating_flip_shows_the_other_side_in_the_next_epoch():
    """Half of the images begin with their mirror image; batches and steps have no part in it."""

    def mirrored(epoch, step, seed=1):
        drawn = whole({name: np.arange(COUNT, dtype=np.int32) for name in HELD})
        drawn['epoch'] = np.full(COUNT, epoch, np.int32)
        made = rows({}, drawn, step, (AlternatingFlip(),), seed)
        assert 'epoch' not in made
        flipped = (made['image'] == COLUMNS['image'][:, :, ::-1]).all((1, 2, 3))
        np.testing.assert_array_equal(made['image'][~flipped], COLUMNS['image'][~flipped])
        return flipped

    first = mirrored(0, 0)
    assert 4 < first.sum() < COUNT - 4
    np.testing.assert_array_equal(mirrored(1, 9), ~first)
    np.testing.assert_array_equal(mirrored(2, 5), first)
    assert (mirrored(0, 0, seed=2) != first).any()
    pairs = first.reshape(-1, 2)  # variations of one image have coins of their own
    assert (pairs[:, 0] != pairs[:, 1]).any()
