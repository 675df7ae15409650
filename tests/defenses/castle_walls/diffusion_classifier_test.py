"""Against float64 loops: one image, class, draw and element at a time."""

import itertools
from dataclasses import dataclass, fields, replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from purify.core.errors import UserError
from purify.core.randomness import stream_key
from purify.defenses.castle_walls.diffusion_classifier import (
    DenoisingErrors,
    DiffusionClassifier,
    errors_rule,
    level_ratios,
    nearest_levels,
)
from purify.defenses.method import Context
from purify.defenses.registry import DEFENSES
from purify.diffusion.preconditioning import Preconditioning
from purify.diffusion.schedules import make_noise_schedule

NAMES = ['a', 'b', 'c', 'd']
SHAPE = (4, 3, 2)
SETTINGS = {'draws': 6, 'p_mean': -1.2, 'p_std': 1.2, 'p_filter': 0.25}
SETTINGS |= {'p_filters': [0.0, 0.25, 0.9], 'weighting': 'edm', 'clip': True, 'rounds': []}
RNG = np.random.default_rng(0)
IMAGES, IDS = RNG.integers(0, 256, (5, *SHAPE), np.uint8), np.array([7, 3, 90, 11, 4], np.int32)
WEIGHTS = {'pull': RNG.normal(0, 0.3, (4, *SHAPE)).astype(np.float32), 'mix': np.float32(0.8)}


@dataclass(frozen=True)
class Made:
    """A generator whose network is a formula; its schedule says what it answers with."""

    schedule: object = make_noise_schedule('linear', 1000, prediction='epsilon')
    state_shape: tuple = SHAPE
    channels: int = 2
    class_names: tuple = tuple(NAMES)
    weights: object = None
    deviation: float = 0.5

    def encode(self, weights, images, keys):
        return images

    def predictor(self, weights, labels, guidance):
        assert guidance == 1
        return lambda x, t: (
            weights['mix'] * x
            + jnp.tanh(jnp.asarray(weights['pull'])[labels] * (1 + t[:, None, None, None] / 500))
        )


def compiled(generator=None, seed=5, shape=SHAPE, **changes):
    """(weights, images, ids) -> columns as NumPy."""
    rule = jax.jit(
        DenoisingErrors(**SETTINGS | changes).rule(
            {'generator': generator or Made()}, Context(shape, seed, NAMES)
        )
    )
    return lambda weights, images, ids: jax.tree.map(
        np.asarray, rule({'generator': weights}, {'image': images, 'id': ids})
    )


def run(generator=None, **changes):
    return compiled(generator, **changes)(WEIGHTS, IMAGES, IDS)


def draws_of(identity, seed, count, generator):
    """(log level, noise) of every draw, as promised: functions of (seed, id, draw)."""
    key = jax.random.fold_in(stream_key(seed, 'diffusion classifier'), identity)
    for draw in range(count):
        level, noise = jax.random.split(jax.random.fold_in(key, draw))
        yield (
            float(jax.random.normal(level)),
            np.asarray(jax.random.normal(noise, generator.state_shape), np.float64),
        )


def by_hand(generator, seed=5, **changes):
    """Errors f64[b draws k p] of every draw."""
    own = SETTINGS | changes
    alphas = np.sqrt(generator.schedule.alphas_cumprod)
    sigmas = np.sqrt(1 - generator.schedule.alphas_cumprod)
    found = np.zeros((len(IDS), own['draws'], len(NAMES), len(own['p_filters'])))
    for row, identity in enumerate(IDS.tolist()):
        x0 = IMAGES[row].astype(np.float64) / 127.5 - 1
        for draw, (normal, noise) in enumerate(draws_of(identity, seed, own['draws'], generator)):
            t = int(
                np.argmin(np.abs(np.log(sigmas / alphas) - (own['p_mean'] + own['p_std'] * normal)))
            )
            alpha, sigma = alphas[t], sigmas[t]
            s, x = sigma / alpha, alpha * x0 + sigma * noise
            weight = {'edm': (s**2 + 0.25) / (0.5 * s) ** 2, 'epsilon': 1 / s**2, 'none': 1.0}[
                own['weighting']
            ]
            for k in range(len(NAMES)):
                answer = np.float64(WEIGHTS['mix']) * x + np.tanh(
                    WEIGHTS['pull'][k].astype(np.float64) * (1 + t / 500)
                )
                clean = (
                    answer
                    if generator.schedule.prediction == 'sample'
                    else (x - sigma * answer) / alpha
                )
                clean = np.clip(clean, -1, 1) if own['clip'] else clean
                errors = sorted(
                    float((a - b) ** 2) for a, b in zip(clean.ravel(), x0.ravel(), strict=True)
                )
                for place, share in enumerate(own['p_filters']):
                    kept = errors[: int(len(errors) * (1 - share) + 1e-9)]
                    found[row, draw, k, place] = weight * sum(kept) / len(kept)
    return found


@pytest.mark.long
@pytest.mark.parametrize(
    'changes',
    [
        {},
        {'clip': False},
        {'weighting': 'epsilon'},
        {'weighting': 'none', 'p_mean': 0.5, 'p_std': 0.4},
        {'draws': 1},
    ],
    ids=str,
)
def test_errors_are_those_of_loops_over_all_elements(changes):
    found, want = run(**changes), by_hand(Made(), **changes).mean(1)
    np.testing.assert_allclose(found['errors'], want, rtol=2e-4)
    np.testing.assert_array_equal(found['predictions'], want.argmin(1))
    assert found['finite'].all()
    assert len(set(found['predictions'].ravel().tolist())) > 1


@pytest.mark.long
def test_an_edm_generator_is_asked_at_its_own_levels():
    generator = Made(schedule=Preconditioning(levels=40).schedule())
    found, want = run(generator, clip=False), by_hand(generator, clip=False).mean(1)
    np.testing.assert_allclose(found['errors'], want, rtol=2e-4)


@pytest.mark.long
def test_noise_is_shared_by_the_classes():
    """Equal conditions have equal errors to the last bit."""
    weights = WEIGHTS | {'pull': np.repeat(WEIGHTS['pull'][:1], 4, 0)}
    errors = compiled()(weights, IMAGES, IDS)['errors']
    np.testing.assert_array_equal(errors, np.repeat(errors[:, :1], 4, 1))
    assert len(np.unique(errors[:, 0, 0])) == len(IDS)


@pytest.mark.long
def test_a_row_depends_on_its_image_id_and_seed_alone():
    rule = compiled()
    whole = rule(WEIGHTS, IMAGES, IDS)
    apart = [rule(WEIGHTS, IMAGES[i : i + 1], IDS[i : i + 1]) for i in range(len(IDS))]
    for name in ('errors', 'predictions'):
        found = whole[name]
        np.testing.assert_allclose(found, np.concatenate([one[name] for one in apart]), rtol=1e-6)
    order = np.array([3, 0, 4, 1, 2])
    found = rule(WEIGHTS, IMAGES[order], IDS[order])['errors']
    np.testing.assert_array_equal(found, whole['errors'][order])
    assert not np.allclose(run(seed=6)['errors'], whole['errors'], rtol=1e-3)


@pytest.mark.long
def test_more_draws_begin_with_the_fewer():
    one, three = by_hand(Made(), draws=1), by_hand(Made(), draws=3)
    np.testing.assert_array_equal(one[:, 0], three[:, 0])
    np.testing.assert_allclose(run(draws=3)['errors'], three.mean(1), rtol=2e-4)


@pytest.mark.long
def test_rounds_that_keep_all_are_none():
    plain, kept = run(), run(rounds=[[2, 4]])
    np.testing.assert_allclose(kept['errors'], plain['errors'], rtol=1e-6)
    np.testing.assert_array_equal(kept['predictions'], plain['predictions'])


@pytest.mark.long
def test_rounds_eliminate_by_the_headline_so_far():
    """Against loops: 4 classes for 2 draws, 3 for 1 more, 2 for the other 3."""
    each, left = by_hand(Made()), [set(range(4)) for _ in IDS]
    found = run(rounds=[[2, 3], [1, 2]])
    spent = np.full((len(IDS), 4), 6)
    for row, (upto, stay) in itertools.product(range(len(IDS)), [(2, 3), (3, 2)]):
        order = sorted(left[row], key=lambda k, row=row, upto=upto: each[row, :upto, k, 1].sum())
        for gone in order[stay:]:
            spent[row, gone] = upto
        left[row] = set(order[:stay])
    want = np.stack(
        [[each[row, : spent[row, k], k].mean(0) for k in range(4)] for row in range(len(IDS))]
    )
    np.testing.assert_allclose(found['errors'], want, rtol=2e-4)
    for row, p in itertools.product(range(len(IDS)), range(3)):
        seen = found['predictions'][row, p]
        assert seen == min(sorted(left[row]), key=lambda k, row=row, p=p: want[row, k, p])
    assert len({tuple(sorted(one)) for one in left}) > 1
    again = run()
    assert any((found[name] != again[name]).any() for name in ('predictions', 'errors'))


def test_calls_are_counted():
    assert errors_rule(SETTINGS | {'images': 0, 'dtype': 'float32'}).calls(4) == 24
    wanted = 2 * 4 + 1 * 3 + 3 * 2
    assert DenoisingErrors(**SETTINGS | {'rounds': [[2, 3], [1, 2]]}).calls(4) == wanted
    with pytest.raises(UserError, match='rounds keep 5 of 4 classes'):
        DenoisingErrors(**SETTINGS | {'rounds': [[2, 5]]}).calls(4)


@pytest.mark.long
def test_the_network_is_asked_as_often_as_counted():
    asked = []

    class Counting(Made):
        def predictor(self, weights, labels, guidance):
            def predict(x, t):
                jax.debug.callback(lambda: asked.append(len(x)), ordered=True)
                return super(Counting, self).predictor(weights, labels, guidance)(x, t)

            return predict

    changes = {'draws': 4, 'rounds': [[1, 3], [1, 2]]}
    run(Counting(), **changes)
    jax.effects_barrier()
    assert asked == [len(IDS)] * DenoisingErrors(**SETTINGS | changes).calls(4)


def test_broken_rows_are_told():
    weights = WEIGHTS | {'mix': np.float32(np.nan)}
    assert not compiled()(weights, IMAGES, IDS)['finite'].any()


def test_levels_are_the_nearest_on_a_logarithmic_scale():
    schedule = make_noise_schedule('linear', 50)
    logs = np.log(level_ratios(schedule))
    asked = np.concatenate([np.linspace(logs[0] - 2, logs[-1] + 2, 301), logs])
    want = np.abs(logs[None] - asked[:, None]).argmin(1)
    np.testing.assert_array_equal(nearest_levels(schedule, jnp.asarray(asked, jnp.float32)), want)
    assert {0, 49} <= set(want.tolist())


@pytest.mark.long
def test_grey_images_are_widened_for_a_generator_of_colours():
    generator = Made(state_shape=(4, 3, 3), channels=3)
    weights = {'pull': RNG.normal(0, 0.3, (4, 4, 3, 3)).astype(np.float32), 'mix': np.float32(0.8)}
    grey, rule = IMAGES[..., :1], DenoisingErrors(**SETTINGS)
    found = compiled(generator, shape=(4, 3, 1))(weights, grey, IDS)
    wide = compiled(generator, shape=(4, 3, 3))(weights, np.repeat(grey, 3, -1), IDS)
    np.testing.assert_array_equal(found['errors'], wide['errors'])
    with pytest.raises(UserError, match='grey images'):
        rule.rule({'generator': replace(generator, channels=1)}, Context((4, 3, 3), 5, NAMES))
    with pytest.raises(UserError, match='trained for classes a, b, c, d'):
        rule.rule({'generator': generator}, Context((4, 3, 3), 5, ['x', *NAMES[1:]]))


@pytest.mark.parametrize(
    ('changes', 'words'),
    [
        ({'draws': 0}, 'draws=0'),
        ({'p_std': -1.0}, 'p_std=-1.0'),
        ({'p_filters': []}, r'p_filters=\[\]'),
        ({'p_filters': [0.25, 1.0]}, 'shares in'),
        ({'p_filter': 0.1}, 'p_filter=0.1 is none of'),
        ({'weighting': 'snr'}, "weighting='snr' must be one of edm, epsilon, none"),
        ({'rounds': [[6, 3]]}, 'fewer draws'),
        ({'rounds': [[1, 3, 2]]}, 'pairs'),
        ({'rounds': [[0, 3]]}, 'pairs'),
        ({'rounds': [[1, 3], [1, 3]]}, 'numbers that fall'),
        ({'rounds': [[1, 1]]}, '2 or more'),
    ],
)
def test_bad_settings_are_refused(changes, words):
    with pytest.raises(UserError, match=words):
        DenoisingErrors(**SETTINGS | changes)


def test_the_defence_is_a_generator_and_how_it_is_asked():
    part = {'objective': {'name': 'ddpm', 'drop': 0.1}, 'steps': 3}
    made = DEFENSES.make(
        'diffusion_classifier', generator=part, **SETTINGS, images=9, dtype='bfloat16'
    )
    method = made.method({})
    wanted = [('generator', 'generator', {'data': 'poisoned'}, part)]
    assert [(step.name, step.kind, step.inputs, step.settings) for step in method.steps] == wanted
    assert (method.outcome.generator, method.outcome.classifier) == ('generator', None)
    assert method.outcome.diffusion == SETTINGS | {'images': 9, 'dtype': 'bfloat16'}
    assert errors_rule(method.outcome.diffusion) == DenoisingErrors(**SETTINGS)
    expected = {'generator', *method.outcome.diffusion}
    assert {field.name for field in fields(DiffusionClassifier)} == expected
    with pytest.raises(UserError, match='images=-1'):
        DiffusionClassifier(part, **SETTINGS, images=-1, dtype='float32')
    with pytest.raises(UserError, match='draws=0'):
        DiffusionClassifier(part, **SETTINGS | {'draws': 0}, images=0, dtype='float32')
