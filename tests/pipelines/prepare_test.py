import numpy as np
import pytest
from pipelines.tiny import quickstart, run_chain

from purify.core.errors import UserError
from purify.core.files import read_json
from purify.data.loader import Split
from purify.data.manifest import Manifest
from purify.pipelines.prepare import make_attack, read_poisoner


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


def test_the_poison_seed_alone_says_who(tmp_path):
    ids = [
        Manifest.read(prepared(tmp_path / str(k), '', flag) / 'truth').poisoned
        for k, flag in enumerate(('--config.seeds.poison=0', '--config.seeds.poison=1', '--config.seeds.data=1'))
    ]
    assert (ids[0] != ids[1]).any()
    assert (ids[0] == ids[2]).all()


@pytest.mark.parametrize(('first', 'random'), [(False, False), (True, True), (False, True)])
def test_an_attacker_with_his_own_loader(tmp_path, first, random):
    """poisoned/ is a snapshot; attacker/ holds clean images and the rule, which hits a fixed subset or a random share."""
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
    """After the pad-crop a patch stamped before it would move; stamped after it, it stays in its corner."""
    config = quickstart('rate=0.5,defense=none')
    config['attack'] |= {'poison_first': False}
    chain = run_chain(config, tmp_path, ['prepare', 'teacher'])
    assert chain.stages['teacher'].inputs['attacker'].sub == 'attacker'
    assert chain.finished('teacher')


def test_facts_in_the_manifest(tmp_path):
    facts = read_json(prepared(tmp_path) / 'truth' / 'manifest.json')
    assert facts['attack']['rate'] == 0.1
    assert facts['attack']['base'] == 'all'
    assert facts['digest'] == make_attack(facts['attack'], facts['seed']).digest()
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
