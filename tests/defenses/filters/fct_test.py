import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage
from support.made_scores import IDS, IMAGES, SHAPE, by_hand, check_rows, scored

from purify.core.errors import UserError
from purify.core.randomness import stream_key
from purify.defenses.filters.fct import FeatureConsistency, move, network_steps
from purify.defenses.filters.score_filter import score

SETTINGS = score('fct')
USUAL = FeatureConsistency(**{name: SETTINGS[name] for name in ('rotation', 'shift')}, times=3)


def view(image, identity, number, measure, seed=5):
    """The view of an image [h w c] in float64, turned by SciPy and shifted by loops."""
    key = jax.random.fold_in(
        jax.random.fold_in(stream_key(seed, 'feature consistency'), identity), number
    )
    turn_key, shift_key = jax.random.split(key)
    angle = np.deg2rad(
        float(jax.random.uniform(turn_key, minval=-measure.rotation, maxval=measure.rotation))
    )
    shares = np.asarray(jax.random.uniform(shift_key, (2,), minval=-1, maxval=1), np.float64)
    by = np.rint(shares * measure.shift * np.array(SHAPE[:2])).astype(int)
    centre = (np.array(SHAPE[:2]) - 1) / 2
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    turned = [
        ndimage.affine_transform(
            channel, turn, centre - turn @ centre, order=1, mode='grid-constant'
        )
        for channel in np.moveaxis(image, -1, 0)
    ]
    moved = np.zeros(SHAPE)
    for i in range(SHAPE[0]):
        for j in range(SHAPE[1]):
            down, right = i - by[0], j - by[1]
            if 0 <= down < SHAPE[0] and 0 <= right < SHAPE[1]:
                moved[i, j] = [channel[down, right] for channel in turned]
    return moved


@pytest.mark.long
@pytest.mark.parametrize(
    'changes', [{}, {'times': 1}, {'shift': 0.0, 'rotation': 40.0}, {'rotation': 0.0, 'shift': 0.4}]
)
def test_the_score_is_the_mean_square_by_which_features_move(changes):
    measure = dataclasses.replace(USUAL, **changes)
    images = IMAGES / 255
    wanted = []
    for image, identity in zip(images, IDS, strict=True):
        own = by_hand(image[None])[1]
        views = [view(image, int(identity), number, measure) for number in range(measure.times)]
        wanted.append(np.mean([((by_hand(x[None])[1] - own) ** 2).mean() for x in views]))
    np.testing.assert_allclose(scored(measure)['score'], wanted, rtol=2e-3)


@pytest.mark.parametrize('by', [(0, 0), (2, -1), (-4, 5), (4, -5)])
def test_moving_brings_in_black(by):
    image = np.random.default_rng(0).uniform(0.1, 1, SHAPE).astype(np.float32)
    wanted = np.zeros(SHAPE, np.float32)
    for i in range(SHAPE[0]):
        for j in range(SHAPE[1]):
            if 0 <= i - by[0] < SHAPE[0] and 0 <= j - by[1] < SHAPE[1]:
                wanted[i, j] = image[i - by[0], j - by[1]]
    np.testing.assert_array_equal(move(jnp.array(image), jnp.array(by)), wanted)


@pytest.mark.long
def test_rows_do_not_meet_and_the_seed_counts():
    check_rows(USUAL)
    assert (scored(USUAL)['score'] != scored(USUAL, seed=6)['score']).all()


def test_its_network_is_trained_early_and_then_spread():
    optim = {'name': 'sgd', 'lr': 0.1, 'momentum': 0.9, 'nesterov': False, 'weight_decay': 0.0}
    optim |= {'clip': 0.0}
    rate = {'schedule': 'step', 'warmup': 0.1, 'drops': (0.5,), 'factor': 0.1}
    student = {'network': {'name': 'resnet18'}, 'epochs': 99, 'steps': 0, 'batch': 16}
    student |= {'augment': {'flip': {'p': 0.5}}}
    student |= {'optim': optim | rate, 'objective': {'name': 'distill'}, 'load': 'x'}
    student |= {'init_from': 'y', 'accumulate': 1}
    early, spread = network_steps(SETTINGS['early'], SETTINGS['spread'] | {'weight': 0.5}, student)
    assert early.inputs == {'data': 'poisoned'}
    assert spread.inputs == {'data': 'poisoned', 'init': early.name}
    assert early.settings['objective'] == {'name': 'classify', 'label_smoothing': 0.0}
    assert spread.settings['objective'] == {'name': 'spread', 'weight': 0.5}
    for step, epochs in ((early, 2), (spread, 10)):
        made = step.settings
        wanted = (epochs, {}, '', '')
        assert (made['epochs'], made['augment'], made['load'], made['init_from']) == wanted
        assert made['optim'] == optim | {'lr': 0.01, 'schedule': 'constant', 'warmup': 0.0}
        assert (made['network'], made['batch']) == (student['network'], 16)


BAD = ({'rotation': 181.0}, {'rotation': -1.0}, {'shift': 1.0}, {'shift': 0.0, 'rotation': 0.0})
BAD += ({'times': 0}, {'times': 1.5})


@pytest.mark.parametrize('bad', [*BAD, {'shift': float('nan')}])
def test_settings_that_say_nothing_are_refused(bad):
    with pytest.raises(UserError, match='fct'):
        dataclasses.replace(USUAL, **bad)
