"""New images of picked rows, and the dataset that is written with them."""

import itertools
from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
import pytest
import tensorflow_datasets as tfds
from support.small_dataset import COUNT, IDS, IMAGES, LABELS, SHARD, bytes_of, work, write_poisoned

from purify.core import preemption
from purify.core.errors import Preempted, UserError
from purify.data.loader import Split
from purify.data.table import Table
from purify.defenses.method import Purifier
from purify.engine.tables import apply_edits, write_table
from purify.stages import purify_images, write_dataset


@dataclass(frozen=True)
class Darker(Purifier):
    """The image, less `by` times one more than its variation."""

    by: int = 20
    copies: int = 1

    def number(self):
        return self.copies

    def rule(self, models, context):
        def rule(constants, rows):
            less = self.by * (rows['variation'] + 1)
            image = jnp.clip(
                rows['image'].astype(jnp.int32) - less[:, None, None, None], 0, 255
            ).astype(jnp.uint8)
            return {'image': image, 'finite': jnp.ones(len(less), bool)}

        return rule


KEEP = np.arange(COUNT) % 7 != 3
NEW = np.where(np.arange(COUNT) % 4 == 1, (LABELS + 1) % 3, LABELS).astype(np.int32)
CANDIDATE = np.where(np.arange(COUNT) % 4 == 1, np.arange(COUNT) % 3, -1).astype(np.int32)


@pytest.fixture(scope='module')
def poisoned(tmp_path_factory):
    return write_poisoned(tmp_path_factory.mktemp('poisoned'))


@pytest.fixture
def table(tmp_path):
    def table(name='verdicts', **changes):
        columns = {'ids': IDS, 'keep': KEEP, 'labels': NEW, 'candidate': CANDIDATE}
        columns |= {'pick': np.ones(COUNT, bool)}
        (tmp_path / name).mkdir()
        write_table(tmp_path / name, Table(columns | changes))
        return tmp_path / name

    return table


@pytest.fixture
def make(poisoned, tmp_path):
    def make(name, picked=None, copies=1):
        inputs = {'poisoned': poisoned} | ({'picked': picked} if picked else {})
        purify_images.run(
            work(tmp_path / name, inputs, seed=0, shard_size=4), Darker(copies=copies)
        )
        return tmp_path / name

    return make


@pytest.fixture
def write(poisoned, tmp_path):
    def write(name, **inputs):
        stage = work(tmp_path / name, {'poisoned': poisoned} | inputs, shard_size=SHARD)
        stage.run['threads'] = 1
        write_dataset.run(stage)
        return tmp_path / name

    return write


def darker(row, candidate):
    return np.clip(IMAGES[row].astype(int) - 20 * (candidate + 1), 0, 255)


def test_picked_rows_become_their_candidate_under_their_new_label(make, table):
    pick = np.arange(COUNT) > 8
    made = Split(make('replaced', table(pick=pick)), 'train')
    rows = np.flatnonzero(pick & (CANDIDATE >= 0))
    np.testing.assert_array_equal(made.ids, IDS[rows])
    np.testing.assert_array_equal(made.labels, NEW[rows])
    np.testing.assert_array_equal(made.variations, CANDIDATE[rows])
    for position, row in enumerate(rows):
        np.testing.assert_array_equal(made[position]['image'], darker(row, CANDIDATE[row]))


def test_several_copies_of_picked_rows_are_refused(make, table):
    with pytest.raises(UserError, match='replaced: 2 of each picked image'):
        make('replaced', table(), copies=2)


def test_without_picks_every_image_becomes_as_many_as_the_purifier_makes(make):
    made = Split(make('purified', copies=2), 'train')
    np.testing.assert_array_equal(made.ids, IDS.repeat(2))
    np.testing.assert_array_equal(made.labels, LABELS.repeat(2))
    np.testing.assert_array_equal(made.variations, np.tile([0, 1], COUNT))
    for position in range(2 * COUNT):
        np.testing.assert_array_equal(made[position]['image'], darker(position // 2, position % 2))


def test_the_dataset_is_what_was_decided(make, table, write):
    verdicts = table()
    folder = write('purified', edits=verdicts, replaced=make('replaced', verdicts))
    builder = tfds.builder_from_directory(folder)
    assert set(builder.info.features) == {'id', 'image', 'label'}
    source = builder.as_data_source('train')
    rows = np.flatnonzero(KEEP)
    assert builder.info.splits['train'].shard_lengths == [5, 5, 5, 5]
    assert len(source) == len(rows)
    for position, row in enumerate(rows):
        record = source[position]
        assert (record['id'], record['label']) == (IDS[row], NEW[row])
        image = IMAGES[row] if CANDIDATE[row] < 0 else darker(row, CANDIDATE[row])
        np.testing.assert_array_equal(record['image'], image)


def test_images_may_come_from_several_steps(make, table, write):
    early = np.arange(COUNT) < 10
    first, second = (
        make(name, table(f'{name} picks', pick=pick))
        for name, pick in (('a', early), ('b', ~early))
    )
    one = Split(write('one', edits=table(), replaced=first, replaced_rest=second), 'train')
    rows = np.flatnonzero(KEEP)
    expected = [IMAGES[row] if CANDIDATE[row] < 0 else darker(row, CANDIDATE[row]) for row in rows]
    np.testing.assert_array_equal(one.images(range(len(one))), expected)


def test_where_none_is_picked_nothing_is_made_and_the_dataset_is_whole(make, table, write):
    nobody = table('nobody', candidate=np.full(COUNT, -1))
    replaced = make('replaced', nobody)
    assert not bytes_of(replaced)
    found = Split(write('purified', edits=nobody, replaced=replaced), 'train')
    np.testing.assert_array_equal(found.images(range(len(found))), IMAGES[KEEP])
    np.testing.assert_array_equal(found.labels, NEW[KEEP])


def test_an_empty_step_among_others_is_passed_over(make, table, poisoned):
    verdicts = table()
    inputs = {
        'edits': verdicts,
        'replaced': make('none', table('nobody', candidate=np.full(COUNT, -1))),
    }
    inputs |= {'replaced_rest': make('all', verdicts)}
    assert len(apply_edits(Split(poisoned, 'train'), inputs)) == KEEP.sum()


def test_without_edits_a_split_is_itself(poisoned):
    split = Split(poisoned, 'train')
    assert apply_edits(split, {'data': poisoned}) is split


def test_images_that_no_step_made_are_missed(table, write):
    said = r'holds candidate \d+ of image \d+ .*that makes them as input'
    with pytest.raises(UserError, match=said):
        write('purified', edits=table())


def test_nothing_kept_is_refused(table, write):
    with pytest.raises(UserError, match='none of its 23 images is kept'):
        write('purified', edits=table(keep=np.zeros(COUNT, bool)))


def test_a_stop_and_a_restart_end_in_the_same_bytes(make, table, write, monkeypatch):
    inputs = {'edits': (verdicts := table()), 'replaced': make('replaced', verdicts)}
    whole = bytes_of(write('once/purified', **inputs))
    looks, asked = itertools.count(), []
    with monkeypatch.context() as patch:

        def stop_in_the_third_shard():
            if next(looks) == 2 * (1 + SHARD) + 2:  # before every shard and every record
                asked.append(True)
            if asked:
                raise Preempted

        patch.setattr(preemption, 'asked', lambda: bool(asked))
        patch.setattr(preemption, 'check', stop_in_the_third_shard)
        with pytest.raises(Preempted):
            write('twice/purified', **inputs)
    left = bytes_of(verdicts.parent / 'twice' / 'purified')
    assert len(left) == 2
    assert left.items() <= whole.items()
    assert bytes_of(write('twice/purified', **inputs)) == whole
