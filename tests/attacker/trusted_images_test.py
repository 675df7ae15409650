"""The few clean images that a defender is given: whom the truth lets in, and how many."""

import contextlib
import dataclasses
import json
from dataclasses import asdict

import numpy as np
import pytest
from support.small_dataset import bytes_of, work
from support.tiny import ROOT, quickstart, run_chain

from purify.attacker.manifest import Manifest
from purify.attacker.trusted_images import draw_trusted, trust
from purify.commands.plan import make_stages
from purify.config.load import load_config
from purify.core.errors import UserError
from purify.data.loader import Split
from purify.defenses.registry import DEFENSES
from purify.defenses.settings import TrustedSettings
from purify.engine.chain import Chain
from purify.engine.tables import FACTS, apply_edits, read_table

NAMES = list('abc')
COUNT = 120


def truth(**changes):
    """120 images; every third is poisoned into class 0, every fifth covers, class 2 is rarest."""
    order = np.random.default_rng(0).permutation(COUNT)
    true = np.where(order % 10 < 5, 0, np.where(order % 10 < 8, 1, 2)).astype(np.int32)
    poisoned, cover = order % 3 == 0, (order % 3 > 0) & (order % 5 == 1)
    given = np.where(poisoned, 0, true).astype(np.int32)
    none = np.full(COUNT, -1)
    made = Manifest(7 * order + 1, true, given, poisoned, cover, none.astype(np.int32), none, {})
    return dataclasses.replace(made, **changes)


def draw(manifest, *, per_class=0, share=0.0, seed=0):
    return draw_trusted(manifest, NAMES, per_class=per_class, share=share, seed=seed)


def rows_of(manifest, ids):
    return np.array([manifest.ids.tolist().index(i) for i in ids])


@pytest.mark.parametrize('how', [{'per_class': 4}, {'share': 0.1}])
def test_only_untouched_images_are_trusted(how):
    manifest = truth()
    for seed in range(20):
        rows = rows_of(manifest, draw(manifest, seed=seed, **how))
        assert len(rows) == len(set(rows.tolist()))
        assert not (manifest.poisoned | manifest.cover)[rows].any()
        assert (manifest.given_labels == manifest.true_labels)[rows].all()


def test_wrong_labels_are_never_trusted():
    manifest = truth()
    wrong = manifest.given_labels.copy()
    wrong[(manifest.true_labels == 1) & (np.cumsum(manifest.true_labels == 1) > 20)] = 2
    noisy = dataclasses.replace(manifest, given_labels=wrong)
    clean = ~noisy.poisoned & ~noisy.cover & (wrong == noisy.true_labels)
    most = np.bincount(noisy.true_labels[clean])
    everyone = draw(noisy, per_class=int(most.min()))
    assert clean[rows_of(noisy, everyone)].all()
    said = rf"class 'b' has {most[1]} images .* {most[1] + 1} are to be trusted"
    with pytest.raises(UserError, match=said):
        draw(noisy, per_class=int(most[1]) + 1)


def test_so_many_of_each_class():
    manifest = truth()
    rows = rows_of(manifest, draw(manifest, per_class=5))
    assert np.bincount(manifest.true_labels[rows]).tolist() == [5, 5, 5]


def test_a_share_of_all_is_spread_as_clean_images_are():
    manifest = truth()
    clean = ~manifest.poisoned & ~manifest.cover
    rows = rows_of(manifest, draw(manifest, share=0.25))
    wanted = 0.25 * COUNT * np.bincount(manifest.true_labels[clean]) / clean.sum()
    counts = np.bincount(manifest.true_labels[rows])
    np.testing.assert_array_equal(counts, np.round(wanted))
    assert abs(counts.sum() - 0.25 * COUNT) <= 1
    assert np.bincount(
        manifest.true_labels[rows_of(manifest, draw(manifest, share=0.001))]
    ).tolist() == [1, 1, 1]


def test_the_draw_is_of_the_seed_and_the_ids_alone():
    manifest = truth()
    few = draw(manifest, per_class=3)
    more = draw(manifest, per_class=5)
    other = draw(manifest, per_class=3, seed=1)
    assert set(few) < set(more)
    assert set(few) != set(other)
    order = np.random.default_rng(1).permutation(COUNT)
    columns = ('ids', 'true_labels', 'given_labels', 'poisoned', 'cover', 'trigger', 'copy_of')
    shuffled = dataclasses.replace(
        manifest, **{name: getattr(manifest, name)[order] for name in columns}
    )
    np.testing.assert_array_equal(draw(shuffled, per_class=3), few)


@pytest.mark.parametrize('how', [{'per_class': 4}, {'share': 0.25}])
def test_other_classes_change_at_most_how_many_of_a_class_are_trusted(how):
    manifest = truth()
    fewer = dataclasses.replace(
        manifest, poisoned=manifest.poisoned | ((manifest.true_labels == 1) & (manifest.ids > 400))
    )
    one, other = (
        [i for i in draw(made, **how) if manifest.true_labels[rows_of(manifest, [i])] == 0]
        for made in (manifest, fewer)
    )
    assert one == other[: len(one)]
    assert (len(one) < len(other)) == ('share' in how)


@pytest.mark.parametrize(
    'how',
    [{}, {'per_class': 2, 'share': 0.1}, {'per_class': -1}, {'share': 1.0}, {'share': -0.1}],
    ids=str,
)
def test_exactly_one_number_says_how_many(how):
    said = r'trusted.per_class=.* and trusted.share=.*: give one of them'
    with pytest.raises(UserError, match=said):
        draw(truth(), **how)
    with pytest.raises(UserError, match='give one of them'):
        make_stages(quickstart('defense=none') | {'trusted': asdict(TrustedSettings(**how))})


def test_a_class_without_clean_images_is_named():
    manifest = truth()
    with pytest.raises(UserError, match="class 'c' has 0 images"):
        draw(
            dataclasses.replace(manifest, poisoned=manifest.poisoned | (manifest.true_labels == 2)),
            share=0.01,
        )


@pytest.fixture(scope='module')
def chain(tmp_path_factory):
    config = quickstart('defense=none') | {'trusted': asdict(TrustedSettings(per_class=2))}
    return run_chain(config, tmp_path_factory.mktemp('trusted'), ['prepare', 'trusted'])


def test_the_stage_leaves_a_table_that_training_can_read(chain, tmp_path):
    prepared, folder = chain.folder('prepare'), chain.folder('trusted')
    table = read_table(folder)
    split = Split(prepared / 'poisoned', 'train')
    manifest = Manifest.read(prepared / 'truth')
    assert table.facts == {'images': 20, 'of_each_class': [2] * 10}
    np.testing.assert_array_equal(table['ids'], split.ids)
    np.testing.assert_array_equal(table['labels'], split.labels)
    left = apply_edits(split, {'edits': folder})
    assert len(left) == 20
    assert not set(left.ids.tolist()) & set(
        manifest.ids[manifest.poisoned | manifest.cover].tolist()
    )
    again = work(
        tmp_path / 'again',
        {'poisoned': prepared / 'poisoned', 'truth': prepared / 'truth'},
        **chain.stages['trusted'].settings,
    )
    trust(again)
    written = bytes_of(folder)
    assert {name: written[name] for name in bytes_of(again.folder)} == bytes_of(again.folder)


def test_its_place_in_the_chain():
    """The stage alone opens the truth; a seed of the model changes nothing; a defence gets the
    table under its name.
    """
    config = load_config(f'{ROOT}/configs/quickstart.py:defense=none')
    stages = {
        stage.name: stage
        for stage in make_stages(config | {'trusted': asdict(TrustedSettings(share=0.05))})
    }
    assert list(stages)[:2] == ['prepare', 'trusted']
    found = {role: (source.stage, source.sub) for role, source in stages['trusted'].inputs.items()}
    assert found == {'poisoned': ('prepare', 'poisoned'), 'truth': ('prepare', 'truth')}
    wanted = {'per_class': 0, 'share': 0.05, 'seed': config['seeds']['data']}
    assert stages['trusted'].settings == wanted


def test_those_alone_who_ask_may_look_at_the_trusted(chain):
    """A run whose defence needs some: its own stages, neither the teacher nor another defence."""
    theirs = chain.folder('trusted') / FACTS
    config = quickstart('defense=augmentations') | {'trusted': asdict(TrustedSettings(per_class=2))}
    blind = make_stages(config)
    config['defense'] = DEFENSES.part('nad')
    told = [stage for stage in make_stages(config) if stage.name not in ('prepare', 'trusted')]

    def look(work):
        assert json.loads(theirs.read_text())['images'] == 20

    finished = [stage for stage in blind if stage.name in ('prepare', 'trusted')]
    for stages, name, allowed in (
        (told, 'teacher', False),
        (blind, 'student', False),
        (told, 'finetuned', True),
    ):
        stage = next(stage for stage in stages if stage.name == name)
        inputs = {
            role: source
            for role, source in stage.inputs.items()
            if source.stage in ('prepare', 'trusted')
        }
        other = Chain([*finished, dataclasses.replace(stage, run=look, inputs=inputs)], chain.store)
        assert other.folder('trusted') == chain.folder('trusted')
        with (
            contextlib.nullcontext()
            if allowed
            else pytest.raises(PermissionError, match='may not read the truth')
        ):
            other.run([name], config['run'])
