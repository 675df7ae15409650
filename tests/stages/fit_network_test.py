"""Where the images of a training live, and poison that comes after the augmentations."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from support.meshes import mesh_of
from support.small_dataset import COUNT, IMAGES, work, write_poisoned

from purify.core.randomness import id_keys, stream_key
from purify.data.augment import Flip, PadCrop, augment
from purify.data.loader import Split
from purify.data.training_set import TrainingSet
from purify.models.classifiers.registry import NETWORKS
from purify.stages.fit_network import fit_fresh, fit_network, make_feed
from purify.train.objectives.tasks import Classify
from purify.train.state import abstract_network, split_network

AUGMENT = {'pad_crop': {'pad_px': 2}, 'flip': {'p': 0.5}}
BATCH, MIB = 8, 2**20


class Mark:
    """Poison: the first pixel tells the record's draw, the label is 2."""

    def random_map(self, record, rng):
        image = record['image'].copy()
        image[0, 0] = rng.integers(256)
        return record | {'image': image, 'label': np.int32(2)}


@pytest.fixture(scope='module')
def split(tmp_path_factory):
    return Split(write_poisoned(tmp_path_factory.mktemp('data')), 'train')


def feed_of(folder, data, *, resident_mb=1, workers=0, **settings):
    own = {'batch': BATCH, 'augment': AUGMENT, 'seeds': {'data': 3, 'model': 3}} | settings
    made = work(folder / 'teacher', {}, **own)
    made.run.update(resident_mb=resident_mb, threads=1, workers=workers)
    return make_feed(made, data, mesh_of(1))


def rows(feed, step):
    drawn = next(feed.batches(step))
    return jax.tree.map(np.asarray, feed.rows(feed.held, drawn, jnp.int32(step)))


def test_small_sets_live_on_the_devices_and_others_are_read(split, tmp_path, capsys):
    data = TrainingSet(split)
    held, read = feed_of(tmp_path, data), feed_of(tmp_path, data, resident_mb=0)
    assert isinstance(held.held['position']['image'], jax.Array)
    assert read.held == {}
    for step in (0, 5):
        found, wanted = rows(held, step), rows(read, step)
        assert set(found) == set(wanted)
        for name, column in wanted.items():
            np.testing.assert_array_equal(found[name], column)
    assert capsys.readouterr().err == ''


def test_a_set_that_is_too_large_is_named(split, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(TrainingSet, 'bytes', 3 * MIB)
    assert feed_of(tmp_path, TrainingSet(split), resident_mb=2).held == {}
    said = 'teacher: 3 MiB of images are more than run.resident_mb = 2; they are read as they are'
    assert said in capsys.readouterr().err


def test_poison_comes_after_the_augmentations(split, tmp_path):
    feed = feed_of(tmp_path, TrainingSet(split, poison_last=Mark()))
    assert feed.held == {}
    plain = feed_of(tmp_path, TrainingSet(split), resident_mb=0)
    for step in (0, 4):
        drawn = next(plain.batches(step))
        key = jax.random.fold_in(stream_key(3, 'augment'), step)
        changed = augment((PadCrop(2), Flip(0.5)), drawn['image'], id_keys(key, drawn['id']))
        found = rows(feed, step)
        np.testing.assert_array_equal(found['id'], drawn['id'])
        np.testing.assert_array_equal(found['image'][:, 1:], changed[:, 1:])
        assert (found['image'][:, 0, 0] == found['image'][:, 0, 0, :1]).all()
        assert len(np.unique(found['image'][:, 0, 0, 0])) > 2  # drawn for each
        assert set(found['label']) == {2}
    again = rows(feed_of(tmp_path, TrainingSet(split, poison_last=Mark())), 4)
    np.testing.assert_array_equal(again['image'], found['image'])


def test_poison_comes_after_an_alternating_flip(split, tmp_path):
    flip = {'augment': {'alternating_flip': {}}, 'batch': COUNT}
    feed = feed_of(tmp_path, TrainingSet(split, poison_last=Mark()), **flip)
    plain = feed_of(tmp_path, TrainingSet(split), **flip)
    for step in (0, 1):
        found, wanted = rows(feed, step), rows(plain, step)
        np.testing.assert_array_equal(found['image'][:, 1:], wanted['image'][:, 1:])
        assert set(found['label']) == {2}


def test_poison_before_the_augmentations_is_augmented(split, tmp_path):
    class Fill:
        def random_map(self, record, rng):
            return record | {'image': np.full_like(record['image'], 255)}

    feed = feed_of(tmp_path, TrainingSet(split, poison=Fill()))
    found = np.concatenate([rows(feed, step)['image'] for step in range(3)])
    assert set(np.unique(found)) == {0, 255}  # zeros come in at the border
    drawn = itertools.islice(feed.batches(0), 3)
    assert all((batch['image'] == 255).all() for batch in drawn)
    assert len(IMAGES) == COUNT  # and the dataset is as it was
    assert (split[0]['image'] == IMAGES[0]).all()


@pytest.mark.parametrize('place', [{'resident_mb': 1}, {'resident_mb': 0, 'workers': 1}])
def test_alternating_flips_are_told_the_epoch(split, tmp_path, place):
    """An image of the first epoch is the mirror image of what the second shows of it."""
    data = TrainingSet(split)
    feed = feed_of(tmp_path, data, **place, augment={'alternating_flip': {}}, batch=COUNT)
    first, second = rows(feed, 0), rows(feed, 1)
    assert set(first) == set(rows(feed_of(tmp_path, data), 0))
    by_id = lambda rows: rows['image'][rows['id'].argsort()]
    np.testing.assert_array_equal(by_id(first), by_id(second)[:, :, ::-1])
    plain = split.all_images()[split.ids.argsort()]
    same = (by_id(first) == plain).all((1, 2, 3))
    assert 0 < same.sum() < COUNT


def test_a_fresh_network_sees_images_where_a_layer_is_made_from_them(split, tmp_path):
    sizes = {'num_classes': 3, 'channels': IMAGES.shape[-1], 'width': 4}
    build = lambda rngs: NETWORKS.make('fast', **sizes, widths=(1,), rngs=rngs)
    weights = fit_fresh(build, TrainingSet(split), 3)
    expected = build(nnx.Rngs(stream_key(3, 'init')))
    expected.fit_to(split.all_images())
    _, params, stats = split_network(expected)
    jax.tree.map(np.testing.assert_array_equal, weights, {'params': params, 'stats': stats})
    how = {'optim': {'name': 'sgd', 'lr': 1e-12}, 'epochs': 0, 'steps': 1, 'accumulate': 1}
    how |= {'batch': BATCH, 'augment': {}, 'seeds': {'data': 3, 'model': 3}}
    made = work(tmp_path / 'teacher', {}, **how)
    made.run.update(
        resident_mb=1, threads=1, workers=0, steps_together=1, save_every=9, log_every=9
    )
    graph, like = abstract_network(build)
    trained = fit_network(made, Classify(graph), build, like, TrainingSet(split))
    kernel = stats['whitening']['kernel']
    np.testing.assert_array_equal(trained.stats['whitening']['kernel'], kernel)
    other = lambda rngs: NETWORKS.make('resnet', **sizes, rngs=rngs)
    assert fit_fresh(other, TrainingSet(split), 3) is None
