"""The stage that makes a dataset from a generator: labels, sizes, resuming."""

from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
import pytest
from support.small_dataset import COUNT, IMAGES, bytes_of, work, write_poisoned

from purify.core import preemption
from purify.core.errors import Preempted, UserError
from purify.data.loader import Split
from purify.defenses.castle_walls.generation import Generate
from purify.diffusion.schedules import make_noise_schedule
from purify.stages import generate_images, models
from purify.stages.generate_images import wanted_labels

SETTINGS = {'images': 0, 'labels': [], 'seed': 3, 'shard_size': 5}
GENERATE = Generate(
    {'name': 'ddim', 'eta': 1.0}, steps=3, guidance=1.0, dtype='float32', stream='generated'
)


@dataclass(frozen=True)
class Speckled:
    class_names: tuple = ('a', 'b', 'c')
    weights: tuple = ()
    schedule: object = make_noise_schedule('linear', 100, prediction='sample')
    state_shape: tuple = (6, 6, 3)
    channels: int = 3

    def predictor(self, weights, labels, guidance):
        return lambda x, t: 0.5 * jnp.tanh(x) + 0.2 * labels[:, None, None, None]

    def decode(self, weights, states):
        return states


@pytest.fixture
def inputs(tmp_path, monkeypatch):
    monkeypatch.setattr(models, 'open_generator', lambda folder, **how: Speckled())
    return {'poisoned': write_poisoned(tmp_path / 'poisoned'), 'generator': tmp_path / 'generator'}


@pytest.mark.long
def test_as_many_as_the_dataset_in_turns_of_all_classes(tmp_path, inputs):
    generate_images.run(work(tmp_path / 'generated', inputs, **SETTINGS), GENERATE)
    made = Split(tmp_path / 'generated', 'train')
    assert (len(made), made.shape, made.class_names) == (COUNT, IMAGES.shape[1:], list('abc'))
    np.testing.assert_array_equal(made.ids, np.arange(COUNT))
    np.testing.assert_array_equal(made.labels, np.arange(COUNT) % 3)
    assert len({made[i]['image'].tobytes() for i in range(COUNT)}) == COUNT


@pytest.mark.long
def test_a_smaller_set_is_the_beginning_of_a_larger_one_and_batches_change_nothing(
    tmp_path, inputs
):
    few, many = (work(tmp_path / f'set{n}', inputs, **SETTINGS | {'images': n}) for n in (7, 12))
    many.run['batch_per_device'] = 5
    generate_images.run(few, GENERATE)
    generate_images.run(many, GENERATE)
    small, large = (Split(one.folder, 'train') for one in (few, many))
    for i in range(7):
        np.testing.assert_array_equal(small[i]['image'], large[i]['image'])


def test_killed_it_goes_on_and_ends_with_the_same_bytes(tmp_path, inputs, monkeypatch):
    generate_images.run(work(tmp_path / 'whole' / 'generated', inputs, **SETTINGS), GENERATE)
    part = work(tmp_path / 'part' / 'generated', inputs, **SETTINGS)
    asked = iter([False, True] + [True] * 100)
    monkeypatch.setattr(preemption, 'asked', lambda: next(asked))
    with pytest.raises(Preempted):
        generate_images.run(part, GENERATE)
    monkeypatch.setattr(preemption, 'asked', lambda: False)
    there = {path.name: path.stat().st_mtime_ns for path in part.folder.glob('*.array_record*')}
    assert 0 < len(there) < 5
    generate_images.run(part, GENERATE)
    assert bytes_of(tmp_path / 'part') == bytes_of(tmp_path / 'whole')
    assert all((part.folder / name).stat().st_mtime_ns == when for name, when in there.items())


def test_labels_in_turn_or_those_asked_for():
    np.testing.assert_array_equal(wanted_labels(5, (), 3), [0, 1, 2, 0, 1])
    np.testing.assert_array_equal(wanted_labels(4, [2], 3), [2, 2, 2, 2])
    for images, labels, told in ((5, (3,), 'no classes'), (-1, (), 'images=-1')):
        with pytest.raises(UserError, match=told):
            wanted_labels(images, labels, 3)
