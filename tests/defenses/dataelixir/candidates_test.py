import functools
import math
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import dataelixir_reference as reference
from support.made_candidates import (
    CLASSES,
    CONSTANTS,
    EVERY,
    MODELS,
    PROTOTYPES,
    ROWS,
    SCHEDULE,
    SHAPE,
    answer,
    eps_by_hand,
    features_by_hand,
    label_by_hand,
    make_prior,
    noises,
)

from purify.core.errors import UserError
from purify.data.table import Table
from purify.defenses.dataelixir.candidates import Candidates, Remake
from purify.defenses.dataelixir.label_changes import SETS, choose_candidate
from purify.defenses.dataelixir.verdicts import LabelTransition
from purify.defenses.method import Context, describe_rule


@functools.cache
def walk_by_hand(state='x_t', seed=0, levels='rounded'):
    """All candidates of all rows as 8-bit images f64[n k h w c]."""
    every = []
    for image, turns in zip(ROWS['image'], noises(seed), strict=True):
        x, mine = image / 127.5 - 1, []
        for draws in turns:
            x, states = reference.one_round(
                x,
                SCHEDULE.betas,
                12,
                eps_by_hand,
                draws.__getitem__,
                released=True,
                kept=3,
                state=state,
            )
            x = np.clip(x, -1, 1)
            mine += [reference.grey_levels(s, levels) for s in states]
        every.append(mine)
    return np.array(every)


@functools.cache
def program(state='x_t', seed=0, levels='rounded'):
    return jax.jit(
        Candidates(**EVERY | {'state': state, 'levels': levels}).rule(
            MODELS, Context(SHAPE, seed, list('abcd'))
        )
    )


@functools.cache
def measured(state='x_t', seed=0, levels='rounded'):
    return {
        name: np.asarray(column)
        for name, column in program(state, seed, levels)(CONSTANTS, ROWS).items()
    }


@pytest.mark.long
@pytest.mark.parametrize(
    ('state', 'seed', 'levels'),
    [('x_t', 0, 'rounded'), ('x0', 1, 'rounded'), ('x_t', 0, 'truncated')],
)
def test_labels_and_distances_are_those_of_the_equations(state, seed, levels):
    out, images = measured(state, seed, levels), walk_by_hand(state, seed, levels)
    raw = [
        reference.there_and_back(image) if levels == 'truncated' else image.astype(float)
        for image in ROWS['image']
    ]
    labels = [[label_by_hand(candidate) for candidate in mine] for mine in images]
    assert out['candidates'].tolist() == labels
    assert out['raw'].tolist() == [label_by_hand(image) for image in raw]
    pairs = zip(raw, images, strict=True)
    distances = [
        [reference.distance(image, candidate, features_by_hand) for candidate in mine]
        for image, mine in pairs
    ]
    np.testing.assert_allclose(out['distance'], distances, atol=2e-3)
    assert out['finite'].all()
    assert len(set(map(tuple, labels))) > 5  # labels change, and not in one way


@pytest.mark.long
@pytest.mark.parametrize('reading', ['given', 'predicted'])
def test_sets_scores_and_choices_follow(reading):
    """From images to choices twice, `released` where the reading is: nothing passes between the two
    but the draws.
    """
    released = reading == 'predicted'
    settings = {'tau': 0.12, 'rank': 0.8, 'benign': reading, 'count_raw': released}
    settings |= {'choice': 'agreeing' if released else 'all'}
    rule = LabelTransition(
        **settings,
        targets={'name': 'mad', 'threshold': 0.5, 'score': 'kl', 'two_sided': False},
        labels='benign',
    )
    out, labels, ids = measured(), ROWS['label'], ROWS['id'].astype(np.int64)
    columns = {name: out[name] for name in ('raw', 'candidates', 'distance')}
    found = rule.decide(ids, labels, {'candidates': Table(columns | {'ids': ids})}, CLASSES)
    pooled, sets, chosen = {y: [] for y in range(CLASSES)}, [], 0
    for row, (image, candidates) in enumerate(
        zip(ROWS['image'].astype(float), walk_by_hand(), strict=True)
    ):
        theirs = [label_by_hand(x) for x in candidates]
        raw = label_by_hand(image)
        own = int(labels[row])
        letter, eta, left = reference.sort_out(theirs, own, raw, 0.12, reading)
        sets.append(letter)
        assert (SETS[found['set'][row]][0].upper(), found['eta'][row]) == (letter, eta)
        if letter != 'B':
            pooled[own] += left + [raw] * released
        if letter == 'P' and own in found.facts['target_labels']:
            distances = [reference.distance(image, x, features_by_hand) for x in candidates]
            wanted = reference.choose(
                distances, 0.8, released, [x == left[0] or not released for x in theirs]
            )
            assert found['labels'][row] == left[0]
            assert distances[found['candidate'][row]] == pytest.approx(distances[wanted], abs=4e-3)
            chosen += 1
    assert set(sets) == set('BPS')
    assert chosen > 1
    for row in found.facts['labels']:
        labels = pooled[row['label']]
        wanted = reference.divergence(row['label'], labels) if labels else 0
        # ours counts half a candidate where there is none
        wanted = min(wanted, math.log(2 * max(1, len(labels))))
        assert row['score'] == pytest.approx(wanted, rel=1e-9)


def test_candidates_are_made_again():
    remake = Remake(**EVERY).rule(MODELS, Context(SHAPE, 0, []))
    count = len(ROWS['id'])
    which = np.arange(count, dtype=np.int32) % 10 - 1
    out = jax.jit(remake)(CONSTANTS, ROWS | {'variation': which})
    image = np.asarray(out['image'])
    assert image.dtype == np.uint8
    assert (image[which < 0] == ROWS['image'][which < 0]).all()
    made = which >= 0
    wanted = walk_by_hand()[np.arange(count), np.maximum(which, 0)]
    assert np.abs(image[made] - wanted[made]).max() <= 1
    assert np.asarray(out['finite']).all()


@pytest.mark.parametrize(('rank', 'count_raw'), [(0.8, False), (0.0, True)])
def test_chosen_is_the_candidate_at_the_rank(rank, count_raw):
    out = jax.jit(
        Candidates(**EVERY).chosen(MODELS, Context(SHAPE, 0, []), rank=rank, count_raw=count_raw)
    )(CONSTANTS, ROWS)
    which = choose_candidate(
        measured()['distance'], np.ones((len(ROWS['id']), 9), bool), rank, count_raw
    )
    # -1 is the image itself
    every = np.concatenate([walk_by_hand(), ROWS['image'][:, None]], axis=1)
    assert np.abs(np.asarray(out['image']) - every[np.arange(len(which)), which]).max() <= 1
    assert np.asarray(out['finite']).all()


def test_a_row_depends_on_its_image_and_id_alone():
    order = np.random.default_rng(0).permutation(len(ROWS['id']))
    turned = program()(CONSTANTS, {name: value[order] for name, value in ROWS.items()})
    assert (np.asarray(turned['candidates']) == measured()['candidates'][order]).all()
    np.testing.assert_allclose(turned['distance'], measured()['distance'][order], atol=1e-4)
    alike = program()(
        CONSTANTS,
        {name: np.repeat(value[:1], len(order), 0) for name, value in ROWS.items()}
        | {'id': ROWS['id']},
    )
    assert len(set(np.asarray(alike['distance'])[:, 0].tolist())) == len(order)


SHORT = EVERY | {
    'steps': 4,
    'kept': 2,
    'sampler': {'name': 'ddim', 'eta': 1.0},
    'forward': 'matched',
}


def draw_rows(*shape):
    return {
        'image': np.random.default_rng(0).integers(0, 256, (3, *shape), np.uint8),
        'id': np.arange(3),
    }


@pytest.mark.long
def test_grey_images_of_another_size_are_compared_as_they_are():
    shape, weights = (9, 9, 1), jnp.ones((CLASSES, 9, 9, 1))
    rule = jax.jit(Candidates(**SHORT).rule(MODELS, Context(shape, 0, [])))
    out = rule({'prior': CONSTANTS['prior'], 'classifier': weights}, draw_rows(*shape))
    assert out['candidates'].shape == out['distance'].shape == (3, 6)
    assert out['finite'].all()


@pytest.mark.long
@pytest.mark.parametrize('prior_channels', [1, 3])
def test_images_are_made_in_the_size_of_the_dataset(prior_channels):
    prior = make_prior(PROTOTYPES[..., :prior_channels])
    remake = jax.jit(Remake(**SHORT).rule({'prior': prior}, Context((5, 5, prior_channels), 0, [])))
    rows = draw_rows(5, 5, prior_channels)
    image = np.asarray(
        remake({'prior': prior.weights}, rows | {'variation': np.array([0, 3, 5])})['image']
    )
    assert image.shape == rows['image'].shape
    assert (image != rows['image']).any((1, 2, 3)).all()


def test_levels_are_truncated_as_they_are_in_the_released_code():
    """Pixel by pixel: of candidates and of the image they are compared with, not of what stays."""
    which = np.arange(len(ROWS['id']), dtype=np.int32) % 10 - 1
    remake = jax.jit(Remake(**EVERY | {'levels': 'truncated'}).rule(MODELS, Context(SHAPE, 0, [])))
    image, made = np.asarray(remake(CONSTANTS, ROWS | {'variation': which})['image']), which >= 0
    assert (image[~made] == ROWS['image'][~made]).all()
    wanted, rounded = (
        walk_by_hand(levels=levels)[np.flatnonzero(made), which[made]]
        for levels in ('truncated', 'rounded')
    )
    assert (image[made] == wanted).mean() > 0.99
    assert (image[made] == rounded).mean() < 0.7


@pytest.mark.long
@pytest.mark.parametrize('levels', ['rounded', 'truncated'])
def test_the_classifier_sees_the_image_itself_on_the_same_levels(levels):
    """A classifier whose label is the grey level of the first pixel."""

    def read(weights, images):
        return (
            -jnp.abs(images[:, 0, 0, :1] * 255 - jnp.arange(256)[None]),
            images.reshape(len(images), -1) + 0.1,
        )

    image = np.broadcast_to(np.arange(256, dtype=np.uint8)[:, None, None, None], (256, *SHAPE))
    rule = Candidates(**SHORT | {'levels': levels, 'rounds': 1}).rule(
        MODELS | {'classifier': SimpleNamespace(answer=read)}, Context(SHAPE, 0, [])
    )
    seen = np.asarray(jax.jit(rule)(CONSTANTS, {'image': image, 'id': np.arange(256)})['raw'])
    wanted = reference.there_and_back(np.arange(256.0)) if levels == 'truncated' else np.arange(256)
    np.testing.assert_array_equal(seen, wanted)
    assert (seen != np.arange(256)).sum() == (63 if levels == 'truncated' else 0)


@pytest.mark.long
@pytest.mark.parametrize('which', ['image', 'candidates'])
def test_logits_that_are_no_numbers_are_told(which):
    """With sound features and distances."""

    def crack(weights, images):
        own = (jnp.abs(images * 255 - ROWS['image'][: len(images)]) < 0.5).all((1, 2, 3))
        logits, features = answer(weights, images)
        return jnp.where((own == (which == 'image'))[:, None], jnp.nan, logits), features

    models = MODELS | {'classifier': SimpleNamespace(answer=crack)}
    assert not jax.jit(Candidates(**SHORT).rule(models, Context(SHAPE, 0, [])))(CONSTANTS, ROWS)[
        'finite'
    ].any()
    chosen = Candidates(**SHORT).chosen(models, Context(SHAPE, 0, []), rank=0.8, count_raw=False)
    assert not jax.jit(chosen)(CONSTANTS, ROWS)['finite'].any()


def test_rows_the_models_break_are_told():
    broken = jax.tree.map(lambda x: x * jnp.nan, CONSTANTS['prior'])
    assert not program()(CONSTANTS | {'prior': broken}, ROWS)['finite'].any()
    assert not program()(CONSTANTS | {'classifier': CONSTANTS['classifier'] * jnp.inf}, ROWS)[
        'finite'
    ].any()


def test_the_program_does_not_grow_with_the_chain():
    """One loop over rounds, in it one over calls and one over states."""
    text = [
        str(
            jax.make_jaxpr(Candidates(**EVERY | changes).rule(MODELS, Context(SHAPE, 0, [])))(
                CONSTANTS, ROWS
            )
        )
        for changes in ({}, {'rounds': 9, 'steps': 19, 'start': 19, 'window': 8, 'kept': 8})
    ]
    assert text[0].count('\n') == text[1].count('\n')


@pytest.mark.parametrize(
    ('changes', 'words'),
    [
        ({'rounds': 0}, 'rounds=0'),
        ({'kept': 4}, 'kept'),
        ({'steps': 13}, 'steps=13'),
        ({'forward': 'both'}, 'matched, released'),
        ({'state': 'x'}, 'x0, x_t'),
        ({'levels': 'floor'}, 'rounded, truncated'),
        ({'sampler': {'name': 'dddim'}}, "'ddim'"),
        ({'sampler': {}}, 'ddim'),
        ({'sampler': {'name': 'pndm'}}, 'ddim, ddpm, dpmpp_2m, euler'),
        (
            {'sampler': {'name': 'ddpm', 'eta': 1.0}},
            "sampler.eta: 'ddpm' has .* variance, clip_sample, noise_at_end",
        ),
        ({'sampler': {'name': 'ddim', 'eta': 'x'}}, "'ddim' cannot take that"),
        ({'sampler': {'name': 'ddim', 'eta': 2.0}}, 'eta must lie'),
        ({'sampler': {'name': 'ddpm', 'variance': 'huge'}}, 'fixed_large'),
        ({'start': 20, 'steps': 20}, 'choose 1 to 19'),
    ],
)
def test_refusals(changes, words):
    with pytest.raises(UserError, match=words):
        Candidates(**EVERY | changes).rule(MODELS, Context(SHAPE, 0, []))


def test_samplers_are_refused_before_there_is_a_prior():
    for sampler in ({'name': 'pndm'}, {'name': 'euler', 'eta': 1.0}, {'name': 'ddim', 'eta': 2.0}):
        with pytest.raises(UserError):
            Remake(**EVERY | {'sampler': sampler})


def test_priors_it_cannot_use():
    with pytest.raises(UserError, match='a prior on pixels'):
        Remake(**EVERY).rule({'prior': SimpleNamespace(model='versatile')}, Context(SHAPE, 0, []))
    with pytest.raises(UserError, match='3 channels'):
        Remake(**EVERY).rule({'prior': make_prior(PROTOTYPES[..., :1])}, Context(SHAPE, 0, []))


def test_what_is_made_again_is_one_image_by_the_chain_that_was_measured():
    remake = Candidates(**EVERY).remake()
    assert remake == Remake(**EVERY)
    assert remake.number() == 1
    assert remake.network_calls(MODELS) == Candidates(**EVERY).network_calls(MODELS) == 3 * 12


def test_every_setting_of_the_chain_is_a_fact():
    """So that a stage is another where one of them is."""
    assert describe_rule(Candidates(**EVERY)) == {'name': 'Candidates'} | EVERY
    assert describe_rule(Remake(**EVERY)) == {'name': 'Remake'} | EVERY
