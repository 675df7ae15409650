"""The decisions on made-up datasets: what must be found, what must not be called an attack, and
what a false alarm costs.

The settings are the defaults; they were chosen on other worlds (seeds below 1000) than are asked
here. How often both methods err over many sizes stands in docs/results/decision-worlds.
"""

from dataclasses import replace

import numpy as np
import pytest
from support.worlds import (
    decide_densities,
    decide_labels,
    density_cases,
    density_world,
    equal,
    label_cases,
    label_world,
    long_tailed,
)

from purify.defenses.registry import DEFENSES

TARGETS = DEFENSES.part('dataelixir')['targets']
NAMES = ('nondisruptive', 'strangers', 'disruptive', 'alpha', 'keep', 'narrow')
RELABEL = {name: DEFENSES.part('relabel')[name] for name in NAMES}
SIZES = {'10 of 80': equal(10, 80), '10 of 1000': equal(10, 1000)}
SIZES |= {'43, long-tailed': long_tailed(43, 500), '100 of 100': equal(100, 100)}


def label_verdicts(case, sizes, count=6):
    changes, targets = label_cases(sizes)[case]
    worlds = (
        label_world(np.random.default_rng(7000 + seed), sizes, **changes) for seed in range(count)
    )
    return [decide_labels(world, TARGETS) for world in worlds], targets


def density_verdicts(case, sizes, count=6, **changes):
    own, targets = density_cases(sizes)[case]
    worlds = [
        density_world(np.random.default_rng(7000 + seed), sizes, **own | changes)
        for seed in range(count)
    ]
    return [(decide_densities(world, RELABEL), world) for world in worlds], targets


@pytest.mark.long
@pytest.mark.parametrize('sizes', SIZES)
@pytest.mark.parametrize('case', ['5 %', '10 %', '10 %, two targets'])
def test_dataelixir_names_targets(case, sizes):
    found, targets = label_verdicts(case, SIZES[sizes])
    assert np.mean([set(facts['target_labels']) == targets for facts in found]) >= 5 / 6


@pytest.mark.long
def test_dataelixir_names_stubborn_poison():
    """1,000 honest odd images of which .4 of the candidates stay, 5,000 poisoned ones of which .2
    do: an excess of half a nat.
    """
    for seed in range(4):
        world = label_world(
            np.random.default_rng(7000 + seed),
            equal(10, 10_000),
            h=0.1,
            q=0.4,
            poison={0: 5000},
            e=0.2,
            spread_q=0.1,
        )
        assert decide_labels(world, TARGETS)['target_labels'] == [0]


def test_dataelixir_names_eight_images_of_eighty_eight():
    """The digits at a rate of .01, where the teacher may know the trigger but by half."""
    worlds = [
        label_world(
            np.random.default_rng(7000 + seed),
            equal(10, 80),
            poison={0: 8},
            learned=0.6,
            spread_h=0.8,
        )
        for seed in range(12)
    ]
    found = np.mean([decide_labels(world, TARGETS)['target_labels'] == [0] for world in worlds])
    assert found >= 0.75


@pytest.mark.long
@pytest.mark.parametrize(('case', 'most'), [('clean', 2), ('clean, many odd images', 4)])
def test_dataelixir_leaves_clean_data_alone(case, most):
    """Of 32 datasets of four shapes; where a third of the images is odd, classes differ more, and
    chance has more room.
    """
    found = [facts for sizes in SIZES.values() for facts in label_verdicts(case, sizes, count=8)[0]]
    assert sum(bool(facts['suspect_labels']) for facts in found) <= most
    assert sum(facts['verdict']['word'] != 'clean' for facts in found) <= most


@pytest.mark.parametrize('targets', [[0], [1]])
def test_two_classes_are_enough_for_dataelixir(targets):
    world = label_world(np.random.default_rng(7000), equal(2, 300), poison={targets[0]: 90})
    assert decide_labels(world, TARGETS)['target_labels'] == targets


def test_half_of_the_labels_may_be_targets_of_dataelixir():
    found, targets = label_verdicts('10 %, half of the labels', equal(10, 1000))
    hits = [len(targets & set(facts['target_labels'])) for facts in found]
    assert np.mean(hits) >= 3  # of five, each with 2 % of the data
    assert all(set(facts['target_labels']) <= targets for facts in found)


@pytest.mark.long
@pytest.mark.parametrize('sizes', ['10 of 1000', '100 of 100', '43, long-tailed'])
@pytest.mark.parametrize(
    'case', ['all-to-all', 'symmetric noise 10 %', 'asymmetric noise 10 %', 'asymmetric noise 20 %']
)
def test_dataelixir_calls_no_attack_what_has_no_target(case, sizes):
    """But for one dataset of six with small classes: half may be wrong labels of all others."""
    found, _ = label_verdicts(case, SIZES[sizes])
    assert sum(bool(facts['target_labels']) for facts in found) <= ('tailed' in sizes)
    found = [facts for facts in found if not facts['target_labels']]
    words = {facts['verdict']['word'] for facts in found}
    assert words <= (
        {'unexplained', 'mislabelled'}
        if case != 'all-to-all' or 'tailed' in sizes
        else {'unexplained'}
    )
    for facts in found:
        assert 0.03 < facts['verdict']['share'] < 0.13
        assert f'{facts["verdict"]["share"]:.1%}' in facts['verdict']['text']


def test_more_targets_than_half_are_said_to_be_many_and_none_is_named():
    """Seven of ten: targets then say what is usual, so none stands out; silence would be wrong."""
    poison = dict.fromkeys(range(7), 71)
    for seed in range(4):
        facts = decide_labels(
            label_world(np.random.default_rng(7000 + seed), equal(10, 500), poison=poison), TARGETS
        )
        assert (facts['target_labels'], facts['verdict']['word']) == ([], 'unexplained')
        world = density_world(
            np.random.default_rng(7000 + seed),
            equal(10, 500),
            dimensions=32,
            apart=8.0,
            poison=poison,
        )
        facts = decide_densities(world, RELABEL).facts
        assert (facts['target_labels'], facts['verdict']['word']) == ([], 'unexplained')
        assert 'labelled as 7 of 10 classes' in facts['verdict']['text']


@pytest.mark.parametrize('seed', [7005, 7011, 7020])
def test_a_class_that_holds_most_strangers_is_named_though_its_density_is_not_so_low(seed):
    """Seven poisoned images of eighty-seven; the paper's limit of .6 is a hair's breadth.

    Its own rule asks for no strangers.
    """
    case = density_cases(equal(10, 80))['non-disruptive 1 %'][0]
    world = density_world(np.random.default_rng(seed), equal(10, 80), **case)
    facts = decide_densities(world, RELABEL).facts
    assert 0.6 < facts['labels'][0]['nd'] < 1
    assert facts['target_labels'] == [0]
    assert facts['labels'][0]['margin'] > 1
    paper = RELABEL | {'strangers': {'share': 0.0, 'deviations': 5.0, 'level': 0.05}}
    assert decide_densities(world, paper).facts['target_labels'] == []


@pytest.mark.parametrize('confused', [[0], [0, 2, 4, 6, 8]])
def test_the_attack_that_would_look_alike_is_named(confused):
    """Wrong labels of classes, each from one other."""
    for seed in range(4):
        world = density_world(
            np.random.default_rng(7000 + seed), equal(10, 300), dimensions=32, apart=8.0
        )
        labels, rng = world.labels.copy(), np.random.default_rng(seed)
        for label in confused:
            labels[rng.choice(np.flatnonzero(world.labels == label + 1), 60, replace=False)] = label
        verdict = decide_densities(replace(world, labels=labels), RELABEL).facts['verdict']
        assert verdict['word'] == 'mislabelled'
        assert 'An attack from one class to one other would look alike.' in verdict['text']


def test_wrong_labels_of_all_classes_look_like_an_attack_on_most():
    for seed in range(4):
        case = density_cases(equal(10, 500))['symmetric noise 10 %'][0]
        world = density_world(
            np.random.default_rng(7000 + seed), equal(10, 500), dimensions=32, apart=8.0, **case
        )
        wanted = 'An attack that aims at most classes would look alike.'
        assert wanted in decide_densities(world, RELABEL).facts['verdict']['text']


@pytest.mark.parametrize('apart', [2.0, 2.5])
def test_clean_classes_that_overlap_are_called_no_attack_on_many(apart):
    for sizes in (long_tailed(10, 1000), np.array([1000, 60])):
        for seed in range(4):
            world = density_world(np.random.default_rng(7000 + seed), sizes, apart=apart)
            wanted = 'aims at so many'
            assert wanted not in decide_densities(world, RELABEL).facts['verdict']['text']


@pytest.mark.parametrize('sizes', [(100, 900, 100), (50, 50, 800, 50, 50), (200, 2000, 200, 200)])
def test_poison_drawn_from_a_dataset_of_one_large_class_is_an_attack(sizes):
    """Most of it comes from that class, because most images do."""
    sizes = np.array(sizes)
    found = []
    for seed in range(6):
        rng = np.random.default_rng(7000 + seed)
        world = label_world(rng, sizes, poison={0: int(0.1 * sizes[1:].sum())})
        found.append(decide_labels(world, TARGETS)['target_labels'] == [0])
    assert np.mean(found) >= 5 / 6


@pytest.mark.parametrize('case', ['symmetric noise 10 %', 'asymmetric noise 20 %'])
def test_wrong_labels_that_no_classifier_repeats_are_mislabelled(case):
    changes, _ = label_cases(equal(10, 500))[case]
    world = label_world(np.random.default_rng(7000), equal(10, 500), memorised=0.1, **changes)
    assert decide_labels(world, TARGETS)['verdict']['word'] == 'mislabelled'


@pytest.mark.long
@pytest.mark.parametrize('sizes', ['10 of 80', '10 of 500', '43 of 60'])
@pytest.mark.parametrize(
    'case', ['non-disruptive 5 %', 'non-disruptive 10 %', 'disruptive, half of a class']
)
def test_relabelling_names_targets_and_keeps_no_poison(case, sizes):
    classes, images = map(int, sizes.split(' of '))
    found, targets = density_verdicts(case, equal(classes, images))
    assert np.mean([set(table.facts['target_labels']) == targets for table, _ in found]) >= 5 / 6
    for table, world in found:
        if not table.facts['target_labels']:
            continue
        stays = table['keep'] & (table['labels'] == world.labels) & world.poisoned
        assert stays.sum() <= 0.3 * world.poisoned.sum()


@pytest.mark.long
@pytest.mark.parametrize(
    ('case', 'most'),
    [
        ('clean', 1),
        ('a class in the midst', 4),
        ('a wide class', 3),
        ('a far class', 1),
        # which look like nothing else, as disruptive poison does
        ('a class with 8 % odd images', 10),
    ],
)
def test_false_alarms_of_relabelling_are_rare_and_cheap(case, most):
    """Of 18 datasets of three shapes, and at what share of a class."""
    alarms, changed = 0, []
    for classes, images in ((10, 80), (10, 500), (43, 60)):
        found, _ = density_verdicts(case, equal(classes, images))
        alarms += sum(bool(table.facts['target_labels']) for table, _ in found)
        changed += [
            (~table['keep'] | (table['labels'] != world.labels)).sum() / images
            for table, world in found
        ]
    assert alarms <= most
    assert sum(changed) <= 0.5 * alarms  # where .85 is what a class named for sure loses


@pytest.mark.parametrize(
    'case', ['all-to-all', 'symmetric noise 10 %', 'asymmetric noise 10 %', 'asymmetric noise 20 %']
)
def test_relabelling_calls_no_attack_what_has_no_target(case):
    found, _ = density_verdicts(case, equal(10, 80))
    assert not any(table.facts['target_labels'] for table, _ in found)
    words = [table.facts['verdict']['word'] for table, _ in found]
    wanted = 2 if '10 %' in case else 4
    assert words.count('unexplained' if case == 'all-to-all' else 'mislabelled') >= wanted


def test_half_of_the_classes_may_be_targets_of_relabelling():
    """Five of ten: their low scores must not pass for the usual ones."""
    targets, hits = {0, 2, 4, 6, 8}, 0
    for seed in range(6):
        rng = np.random.default_rng(7000 + seed)
        world = density_world(
            rng, equal(10, 500), dimensions=32, apart=8.0, poison=dict.fromkeys(targets, 100)
        )
        named = set(decide_densities(world, RELABEL).facts['target_labels'])
        assert named <= targets
        hits += len(named)
    assert hits >= 24  # of 30


def test_no_image_that_looks_poisoned_is_kept_and_none_is_relabelled_to_a_less_likely_class():
    found, _ = density_verdicts('non-disruptive 10 %', equal(10, 200), count=3)
    for table, world in found:
        rows = np.arange(len(world.labels))
        own = world.log_density[rows, world.labels]
        rest = world.log_density.copy()
        rest[rows, world.labels] = -np.inf
        strange = own < rest.max(1)
        moved = table['labels'] != world.labels
        assert not (moved & ~strange).any()
        target = world.labels == 0
        assert not (target & strange & table['keep'] & ~moved).any()
        facts = table.facts['labels'][0]
        assert facts['looks_poisoned'] == (target & strange).sum()
        assert facts['kept'] + facts['looks_poisoned'] <= facts['images']
        seen = (facts['kept'], facts['relabelled'])
        assert seen == ((target & table['keep'] & ~moved).sum(), moved.sum())


def test_a_narrow_alarm_touches_only_what_looks_poisoned():
    found, _ = density_verdicts('non-disruptive 1 %', equal(10, 500), dimensions=32, apart=8.0)
    named = [(table, world) for table, world in found if table.facts['target_labels'] == [0]]
    assert len(named) >= 4
    for table, world in named:
        clean = (world.labels == 0) & ~world.poisoned
        assert (~table['keep'] | (table['labels'] != world.labels))[clean].mean() <= 0.02
        assert (table['keep'] & (table['labels'] == world.labels))[world.poisoned].mean() <= 0.1
