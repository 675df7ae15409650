import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.small_dataset import bytes_of
from support.tiny import quickstart, run_chain

from purify.attacker.poison_dataset import write_clean
from purify.attacker.poison_plan import read_attacks
from purify.attacks.fixed.adaptive_patch import AdaptivePatch
from purify.attacks.fixed.label_consistent import LabelConsistent
from purify.core import preemption
from purify.core.errors import Preempted, UserError
from purify.data.loader import Split
from purify.engine.stage import Work
from purify.evaluation.trigger_dataset import (
    CLASSES,
    check_faintest,
    draw_half,
    draw_strength,
    has_trigger,
    mode_of,
    write_trigger_dataset,
)
from purify.train.cost import Cost

pytestmark = pytest.mark.usefixtures('few_devices')


class Prepared:
    """Digits prepared with an attack, and the clean training images beside them."""

    def __init__(self, folder, words, *flags):
        self.config = quickstart(f'{words},defense=none', *flags)
        chain = run_chain(self.config, folder / 'stages', ['prepare'])
        self.folder, self.truth = folder, chain.folder('prepare') / 'truth'
        settings = {'source': self.config['source'], 'shard_size': 40}
        write_clean(Work('clean', folder / 'clean', {}, settings, self.config['run'], (), Cost()))
        self.clean = folder / 'clean' / 'clean'

    def work(self, name, seed=3, **settings):
        inputs = {'data': self.clean, 'truth': self.truth}
        return Work(
            name,
            self.folder / name,
            inputs,
            {'seed': seed, 'shard_size': 40, 'faintest': 1.0} | settings,
            self.config['run'],
            (),
            Cost(),
        )


@pytest.fixture(scope='module')
def made(tmp_path_factory):
    more = {'--config.source.train_size': 90, '--config.source.test_size': 31}
    made = Prepared(
        tmp_path_factory.mktemp('marking'),
        'attack=patch',
        *(f'{name}={value}' for name, value in more.items()),
    )
    write_trigger_dataset(made.work('marked'))
    return made


@pytest.mark.long
def test_half_of_the_clean_training_images_are_stamped(made):
    clean, marked = Split(made.clean, 'train'), Split(made.folder / 'marked' / 'train', 'train')
    (attack,) = read_attacks(made.truth)
    assert marked.class_names == list(CLASSES)
    assert np.array_equal(marked.ids, clean.ids)
    assert marked.labels.sum() == len(clean) // 2
    for i in range(len(clean)):
        image, identity = clean[i]['image'], int(clean.ids[i])
        want = attack.stamp(image, identity, 'training') if marked.labels[i] else image
        assert np.array_equal(marked[i]['image'], want)
    shown = {int(label) for label in clean.labels[marked.labels == 1]}
    assert len(shown) > 5  # of any class, not of the target alone


def test_every_test_image_is_there_with_and_without(made):
    test = Split(made.truth / 'test', 'test')
    marked = Split(made.folder / 'marked' / 'test', 'test')
    (attack,) = read_attacks(made.truth)
    assert len(marked) == 3 * len(test)
    assert np.array_equal(marked.variations > 0, marked.labels == 1)
    for i in range(len(test)):
        image = test[i]['image']
        stamped = attack.stamp(image, int(test.ids[i]), 'training')
        for k, want in enumerate((image, stamped, stamped)):  # here the faintest stamps are whole
            assert np.array_equal(marked[3 * i + k]['image'], want)
            assert marked.variations[3 * i + k] == k


def test_stamps_are_as_faint_as_asked_for(made):
    write_trigger_dataset(made.work('faint', faintest=0.2))
    clean, marked = Split(made.clean, 'train'), Split(made.folder / 'faint' / 'train', 'train')
    (attack,) = read_attacks(made.truth)
    strengths = []
    for i in np.flatnonzero(marked.labels):
        image, identity = clean[i]['image'].astype(np.float64), int(clean.ids[i])
        whole = attack.stamp(clean[i]['image'], identity, 'training') - image
        moved = marked[i]['image'] - image
        share = (moved * whole).sum() / (whole**2).sum()
        assert np.abs(moved - share * whole).max() <= 1
        strengths.append(share)
    assert 0.19 <= min(strengths) < 0.4 < 0.8 < max(strengths) <= 1.01
    ids = np.array([5, 2, 9])
    assert np.array_equal(
        draw_strength(ids, 0.3, 1)[[1, 0, 2]], draw_strength(np.sort(ids), 0.3, 1)
    )
    for wrong in (0.0, 1.5):
        with pytest.raises(UserError, match='faintest='):
            check_faintest(wrong)


@pytest.mark.long
def test_shards_and_restarts_change_no_image(made, monkeypatch):
    """Stopped after two shards and run again, in shards of another size."""
    seen = []

    def stop():
        seen.append(1)
        if asked():
            raise Preempted

    def asked():
        return len(seen) >= 60

    whole = made.work('again', shard_size=17)
    whole.run['threads'] = 1
    with monkeypatch.context() as patch:
        patch.setattr(preemption, 'check', stop)
        patch.setattr(preemption, 'asked', asked)
        with pytest.raises(Preempted):
            write_trigger_dataset(whole)
    assert list(whole.folder.rglob('*.array_record*'))
    assert not (whole.folder / 'train' / 'dataset_info.json').exists()
    write_trigger_dataset(whole)
    write_trigger_dataset(made.work('straight', shard_size=17))
    assert bytes_of(whole.folder) == bytes_of(made.folder / 'straight')
    for split in ('train', 'test'):
        one, other = (Split(made.folder / name / split, split) for name in ('marked', 'again'))
        assert np.array_equal(one.labels, other.labels)
        assert all(np.array_equal(one[i]['image'], other[i]['image']) for i in range(len(one)))


@pytest.mark.long
def test_several_triggers_stamp_as_many_each(tmp_path):
    config = quickstart('attack=patch,defense=none')
    config['attack'] |= {'more': {'second': {'target': 3, 'corner': 'top_left'}}, 'rate': 0.1}
    chain = run_chain(config, tmp_path / 'stages', ['prepare'])
    truth = chain.folder('prepare') / 'truth'
    settings = {'source': config['source'], 'shard_size': 40}
    write_clean(Work('clean', tmp_path / 'clean', {}, settings, config['run'], (), Cost()))
    clean = tmp_path / 'clean' / 'clean'
    inputs = {'data': clean, 'truth': truth}
    write_trigger_dataset(
        Work(
            'marked',
            tmp_path / 'marked',
            inputs,
            {'seed': 0, 'shard_size': 30, 'faintest': 1.0},
            config['run'],
            (),
            Cost(),
        )
    )
    before = Split(clean, 'train')
    marked = Split(tmp_path / 'marked' / 'train', 'train')
    attacks = read_attacks(truth)
    found = [0, 0]
    for i in np.flatnonzero(marked.labels):
        stamped = [
            attack.stamp(before[i]['image'], int(before.ids[i]), 'training') for attack in attacks
        ]
        same = [np.array_equal(marked[i]['image'], image) for image in stamped]
        assert sum(same) == 1
        found[same.index(True)] += 1
    assert found == [24, 24]


@given(
    st.lists(st.integers(0, 10**6), unique=True, min_size=1, max_size=60),
    st.integers(1, 4),
    st.integers(0, 99),
)
def test_who_is_stamped_does_not_hang_on_the_order(ids, triggers, seed):
    ids = np.array(ids)
    which = draw_half(ids, triggers, seed)
    assert (which >= 0).sum() == len(ids) // 2
    counts = np.bincount(which[which >= 0], minlength=triggers)
    assert counts.max() - counts.min() <= 1
    turned = np.random.default_rng(seed).permutation(len(ids))
    assert np.array_equal(draw_half(ids[turned], triggers, seed), which[turned])


def test_another_seed_stamps_others():
    ids = np.arange(100)
    assert not np.array_equal(draw_half(ids, 1, 0), draw_half(ids, 1, 1))


def test_attacks_without_a_trigger_have_nothing_to_tell(tmp_path):
    assert has_trigger({'name': 'badnets1'})  # made by a partial
    assert not has_trigger({'name': 'relabel_only'})
    made = Prepared(tmp_path, 'attack=relabel_only')
    with pytest.raises(UserError, match='no trigger'):
        write_trigger_dataset(made.work('marked'))


def test_marks_are_those_of_training_images():
    assert mode_of(AdaptivePatch()) == 'training'
    assert mode_of(LabelConsistent()) == 'test'  # its surrogate is the attacker's
    image = np.full((8, 8, 1), 99, np.uint8)
    wanted = (1, 8, 8, 1)
    assert LabelConsistent().stamp_many([image], [0], mode_of(LabelConsistent())).shape == wanted
