"""The stage that poisons: who is hit, what is written, and what is refused before anything is."""

from typing import Any

import numpy as np
import pytest
from support.tiny import quickstart, run_chain

from purify.attacker.attackers_loader import read_poisoner
from purify.attacker.manifest import Manifest
from purify.attacker.poison_dataset import poison_range
from purify.attacker.poison_plan import (
    add_copies,
    check_target,
    digest_of,
    make_attacks,
    make_rules,
    targets_of,
)
from purify.commands.check import check
from purify.core.errors import UserError
from purify.core.files import read_json
from purify.data.loader import Split
from purify.data.sources.open_source import Pool

pytestmark = pytest.mark.usefixtures('few_devices')


def prepared(tmp_path, words='', *flags, **changes):
    config = quickstart(words, *flags)
    config['attack'] |= changes
    return run_chain(config, tmp_path, ['prepare']).folder('prepare')


def test_a_rate_of_zero_poisons_nobody(tmp_path):
    folder = prepared(tmp_path, 'rate=0')
    manifest = Manifest.read(folder / 'truth')
    assert not manifest.poisoned.any()
    assert (manifest.true_labels == manifest.given_labels).all()
    assert not (folder / 'truth' / 'originals').exists()


def test_target_images_take_part_where_asked_and_keep_their_label(tmp_path):
    folder = prepared(tmp_path, 'rate=0.9', include_target=True)
    manifest = Manifest.read(folder / 'truth')
    assert manifest.poisoned[manifest.true_labels == 0].any()
    assert (manifest.given_labels[manifest.poisoned] == 0).all()


@pytest.mark.long
def test_the_poison_seed_alone_says_who(tmp_path):
    ids = [
        Manifest.read(prepared(tmp_path / str(k), '', flag) / 'truth').poisoned
        for k, flag in enumerate(
            ('--config.seeds.poison=0', '--config.seeds.poison=1', '--config.seeds.data=1')
        )
    ]
    assert (ids[0] != ids[1]).any()
    assert (ids[0] == ids[2]).all()


@pytest.mark.parametrize(('first', 'random'), [(False, False), (True, True), (False, True)])
def test_an_attacker_with_his_own_loader(tmp_path, first, random):
    """poisoned/ is a snapshot; attacker/ holds clean images and the rule, which hits a fixed subset
    or a random share.
    """
    folder = prepared(tmp_path, 'rate=0.2', poison_first=first, random_poisoning=random)
    poisoner, before = read_poisoner(folder / 'attacker')
    assert before is first
    clean = Split(folder / 'attacker' / 'clean', 'train')
    manifest = Manifest.read(folder / 'truth')
    hit = set(manifest.ids[manifest.poisoned].tolist())
    rng = np.random.default_rng(0)
    changed = []
    for i in range(len(clean)):
        for _ in range(20 if random else 1):
            out = poisoner.random_map(clean[i], rng)
            if (out['image'] != clean[i]['image']).any():
                changed.append(int(out['id']))
                assert out['label'] == 0
    if random:
        assert len(changed) / (20 * len(clean)) == pytest.approx(len(hit) / len(clean), abs=0.03)
        assert len(set(changed)) > len(hit)
        assert not set(changed) & set(clean.ids[clean.labels == 0].tolist())
    else:
        assert set(changed) == hit


def test_on_the_fly_poison_reaches_the_teacher(tmp_path):
    """A patch stamped before the pad-crop would move; stamped after it, it stays in its corner."""
    config = quickstart('rate=0.5,defense=none')
    config['attack'] |= {'poison_first': False}
    chain = run_chain(config, tmp_path, ['prepare', 'teacher'])
    assert chain.stages['teacher'].inputs['attacker'].sub == 'attacker'
    assert chain.finished('teacher')


def test_facts_in_the_manifest(tmp_path):
    facts = read_json(prepared(tmp_path) / 'truth' / 'manifest.json')
    assert facts['attack']['rate'] == 0.1
    assert facts['attack']['base'] == 'all'
    assert facts['digest'] == digest_of(make_attacks(facts['attack'], facts['seed'], 10))
    assert len(facts['poisoned_ids']) == facts['poisoned_images'] == 10


@pytest.mark.parametrize(
    ('change', 'word'),
    [
        ({'target': 10}, 'choose 0 to 9'),
        ({'size_px': 20}, 'size_px=20'),
        ({'rate': 0.99}, 'Lower the rate'),
        ({'rate': 2.0}, 'rate=2.0'),
    ],
)
def test_bad_attacks_are_refused_before_anything_is_written(tmp_path, change, word):
    with pytest.raises(UserError, match=word):
        prepared(tmp_path, **change)
    assert not list(tmp_path.rglob('*.array_record*'))


def test_covers_are_stamped_and_keep_their_label(tmp_path):
    folder = prepared(tmp_path, 'rate=0.1', cover_rate=0.2)
    manifest = Manifest.read(folder / 'truth')
    assert (manifest.poisoned.sum(), manifest.cover.sum()) == (10, 19)
    assert not (manifest.poisoned & manifest.cover).any()
    assert (manifest.given_labels[manifest.cover] == manifest.true_labels[manifest.cover]).all()
    given = Split(folder / 'poisoned', 'train')
    before = Split(folder / 'truth' / 'originals', 'train')
    carriers = set(manifest.ids[manifest.poisoned | manifest.cover].tolist())
    assert set(before.ids.tolist()) == carriers
    for row in range(len(before)):
        original, now = before[row], given[int(given.position_of(before.ids[row : row + 1])[0])]
        (corner,) = {tuple(now['image'][12:15, 12:15, 0].reshape(-1).tolist())}
        assert corner == (255, 0, 255, 0, 255, 0, 255, 0, 255)
        assert (now['image'][:12] == original['image'][:12]).all()


def test_several_triggers_have_their_own_targets(tmp_path):
    more = {
        'second': {'target': 1, 'corner': 'top_left'},
        'third': {'target': 2, 'colours': ['white', 'black']},
    }
    folder = prepared(tmp_path, 'rate=0.2', more=more)
    manifest = Manifest.read(folder / 'truth')
    assert np.bincount(manifest.trigger[manifest.poisoned]).tolist() == [7, 6, 6]
    assert (manifest.given_labels[manifest.poisoned] == manifest.trigger[manifest.poisoned]).all()
    assert manifest.true_labels[manifest.poisoned].min() > 2
    assert (manifest.trigger[~manifest.poisoned] == -1).all()
    given = Split(folder / 'poisoned', 'train')
    second = given[int(given.position_of(manifest.ids[manifest.trigger == 1])[0])]['image']
    assert second[1:4, 1:4, 0].reshape(-1).tolist() == [255, 0, 255, 0, 255, 0, 255, 0, 255]


class Spy:
    """An attack that adds its number and the id, and remembers how many images came at once."""

    def __init__(self, number):
        self.number, self.calls = number, []

    def stamp_many(self, images, ids, mode):
        self.calls.append((mode, len(images)))
        return np.stack(
            [image + self.number + id % 7 for image, id in zip(images, ids, strict=True)]
        )

    def relabel(self, label):
        return label + 10


def test_a_shard_is_stamped_in_whole_batches():
    """Learned attacks compute 32 rows however few they are given: 70 + 40 + 50 images of 1,000 cost
    7 calls, not 63.
    """
    rng = np.random.default_rng(0)
    chosen = rng.permutation(np.arange(500, 1500))[:160].tolist()
    kinds = [(0, 'training')] * 70 + [(1, 'training')] * 40 + [(1, 'cover')] * 50
    # the last one lies in another shard
    roles = dict(zip(chosen, kinds, strict=True)) | {3: (0, 'training')}
    ids = rng.permutation(2000)
    pool = Pool(
        ids, np.arange(2000, dtype=np.int32) % 10, lambda i: np.full((1, 1, 1), i % 200, np.uint8)
    )
    spies: Any = (Spy(1), Spy(20))
    positions = range(100, 1900)
    stamped = poison_range(spies, roles, pool, positions)
    assert sorted(stamped) == [i for i in positions if ids[i] in roles]
    for i, record in stamped.items():
        which, mode = roles[int(ids[i])]
        assert record['id'] == ids[i]
        assert record['image'].item() == i % 200 + spies[which].number + ids[i] % 7
        assert record['label'] == i % 10 + (10 if mode == 'training' else 0)
    calls = [call for spy in spies for call in spy.calls]
    assert sum(count for _, count in calls) == len(stamped) > 130
    assert len(calls) <= 7
    assert max(count for _, count in calls) == 32


def test_a_trigger_of_several_that_names_no_target_has_that_of_the_attack():
    settings = quickstart()['attack'] | {
        'target': 3,
        'more': {'b': {'corner': 'top_left'}, 'c': {'target': 5}},
    }
    assert targets_of(settings) == {'target': 3, 'more.b.target': 3, 'more.c.target': 5}
    assert make_rules(settings).targets == (3, 3, 5)
    assert [attack.target for attack in make_attacks(settings, 0, 10)] == [3, 3, 5]
    check_target(settings, 6)
    with pytest.raises(UserError, match=r'more\.c\.target=5 is not a class; choose 0 to 4'):
        check_target(settings, 5)


def test_clean_label_poison_keeps_every_label(tmp_path):
    folder = prepared(tmp_path, 'rate=0.05', scheme='clean_label')
    manifest = Manifest.read(folder / 'truth')
    assert manifest.poisoned.sum() == 5
    assert (manifest.true_labels[manifest.poisoned] == 0).all()
    assert (manifest.true_labels == manifest.given_labels).all()


def test_all_to_all_moves_every_label_on(tmp_path):
    folder = prepared(tmp_path, 'rate=0.5', scheme='all_to_all')
    manifest = Manifest.read(folder / 'truth')
    hit = manifest.poisoned
    assert hit.sum() == 48
    assert (manifest.given_labels[hit] == (manifest.true_labels[hit] + 1) % 10).all()
    assert len(set(manifest.true_labels[hit].tolist())) == 10


@pytest.mark.long
@pytest.mark.parametrize('poison_replicas', [True, False])
def test_replicas_are_copies_and_are_poisoned_first_where_asked(tmp_path, poison_replicas):
    folder = prepared(
        tmp_path, 'rate=0.1', replicated_images=3, replicas=4, poison_replicas=poison_replicas
    )
    manifest = Manifest.read(folder / 'truth')
    copies = manifest.copy_of >= 0
    assert copies.sum() == 12
    assert len(set(manifest.copy_of[copies].tolist())) == 3
    assert len(manifest.ids) == len(set(manifest.ids.tolist())) == 96 + 12
    assert manifest.poisoned.sum() == 11, 'a tenth of the training set with its copies'
    found = (manifest.poisoned & copies).sum()
    assert found == (11 if poison_replicas else (manifest.poisoned & copies).sum())
    if not poison_replicas:
        assert (manifest.poisoned & ~copies).any()
    given = Split(folder / 'poisoned', 'train')
    for row in np.flatnonzero(copies & ~manifest.poisoned):
        pair = given.position_of(np.array([manifest.ids[row], manifest.copy_of[row]]))
        first, second = (given[int(i)] for i in pair)
        if not manifest.poisoned[np.searchsorted(manifest.ids, manifest.copy_of[row])]:
            assert (first['image'] == second['image']).all()
            assert first['label'] == second['label']


def test_replicate_by_hand():
    images = [np.full((2, 2, 1), k, np.uint8) for k in range(4)]
    pool = Pool(np.array([9, 4, 7, 1]), np.int32([0, 1, 2, 3]), images.__getitem__)
    whole, copy_of = add_copies(pool, np.array([4, 9]), 2)
    assert whole.ids.tolist() == [9, 4, 7, 1, 10, 11, 12, 13]
    assert copy_of.tolist() == [-1, -1, -1, -1, 4, 4, 9, 9]
    assert whole.labels.tolist() == [0, 1, 2, 3, 1, 1, 0, 0]
    assert [int(whole.fetch(k)[0, 0, 0]) for k in range(8)] == [0, 1, 2, 3, 1, 1, 0, 0]


@pytest.mark.parametrize(
    ('change', 'word'),
    [
        ({'replicas': 3}, 'set both, or neither'),
        ({'poison_replicas': True}, 'there are no replicas'),
        ({'sources': [11]}, 'sources=.* choose 0 to 9'),
        ({'more': {'b': {'target': 12}}}, r'more.b.target=12'),
        ({'more': {'b': {'corner': 'middle'}}}, 'corner=.*bottom_left, bottom_right'),
        ({'more': {'b': {'scheme': 'clean_label'}}}, 'scheme cannot differ; choose from colours'),
        ({'more': {'b': {'target': 'x'}}}, 'more.b.target='),
        ({'cover_rate': 0.95}, 'cover samples, but only'),
        ({'replicated_images': 5, 'replicas': 10**12}, 'Lower replicas'),
        (
            {'random_poisoning': True, 'scheme': 'clean_label', 'more': {'b': {'target': 1}}},
            'would mix',
        ),
        ({'random_poisoning': True, 'rate': 0.8, 'cover_rate': 0.18}, 'at every draw'),
    ],
)
def test_bad_schemes_are_refused_before_anything_is_written(tmp_path, change, word):
    with pytest.raises(UserError, match=word):
        prepared(tmp_path, **change)
    assert not list(tmp_path.rglob('*.array_record*'))


@pytest.mark.parametrize('attack', ['label_consistent', 'lira'])
def test_a_loader_that_would_run_a_network_is_refused(attack):
    config = quickstart(f'attack={attack},rate=0.05')
    config['attack'] |= {'random_poisoning': True}
    assert any('set poison_first to True' in problem for problem in check(config).problems)


def test_relabel_only_has_no_trigger_and_no_cover(tmp_path):
    folder = prepared(tmp_path, 'attack=relabel_only')
    manifest = Manifest.read(folder / 'truth')
    assert manifest.poisoned.sum() == 10
    given = Split(folder / 'poisoned', 'train')
    before = Split(folder / 'truth' / 'originals', 'train')
    for row in range(len(before)):
        now = given[int(given.position_of(before.ids[row : row + 1])[0])]
        assert (now['image'] == before[row]['image']).all()
        assert (now['label'], now['label'] == before[row]['label']) == (0, False)
    with pytest.raises(UserError, match='stamps nothing'):
        prepared(tmp_path / 'cover', 'attack=relabel_only', cover_rate=0.1)
