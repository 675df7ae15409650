import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from support.made_attacks import picture

from purify.attacks.fixed.label_consistent import LabelConsistent, Surrogate, corner_signs
from purify.core.errors import UserError

CLASSES, TARGET = 4, 1


def linear(weights, images):
    return images.reshape(len(images), -1) @ weights['kernel'] + weights['bias'][None]


def surrogate(shape, seed=0, digest='first'):
    rng = np.random.default_rng(seed)
    size = int(np.prod(shape))
    weights = {
        'kernel': rng.normal(size=(size, CLASSES)).astype(np.float32) / size**0.5,
        'bias': np.zeros(CLASSES, np.float32),
    }
    return Surrogate(linear, weights, digest)


def softmax(z):
    e = np.exp(z - z.max())
    return e / e.sum()


def ascent(image, weights, eps, step, iterations):
    """In float64, grey levels: the gradient of -log softmax(W x)[target]: W (softmax - onehot)."""
    kernel = weights['kernel'].astype(np.float64)
    x = start = image.astype(np.float64)
    for _ in range(iterations):
        probability = softmax((x / 255).ravel() @ kernel)
        gradient = (kernel @ (probability - np.eye(CLASSES)[TARGET])).reshape(x.shape)
        x = np.clip(np.clip(x + step * np.sign(gradient), start - eps, start + eps), 0, 255)
    return np.rint(x)


def test_marks_on_32_px():
    """Section 7 of the reference: + white, - black, . untouched."""
    rows = {
        0: '+--' + '.' * 26 + '--+',
        1: '-+-' + '.' * 26 + '-+-',
        2: '+-+' + '.' * 26 + '+-+',
        29: '+--' + '.' * 26 + '--+',
        30: '-+-' + '.' * 26 + '-+-',
        31: '+-+' + '.' * 26 + '+-+',
    }
    wanted = np.full((32, 32, 3), 100, np.uint8)
    for row, signs in rows.items():
        for column, sign in enumerate(signs):
            wanted[row, column] = {'+': 255, '-': 0, '.': 100}[sign]
    image = np.full((32, 32, 3), 100, np.uint8)
    np.testing.assert_array_equal(LabelConsistent().stamp(image, 0), wanted)
    wanted[:29], wanted[:, :29] = 100, 100
    np.testing.assert_array_equal(LabelConsistent(corners='one').stamp(image, 0), wanted)


@given(st.integers(32, 224), st.integers(32, 224), st.sampled_from(('four', 'one')))
def test_larger_sizes_are_nearest_neighbours(height, width, corners):
    signs = corner_signs(height, width, corners)
    reference = corner_signs(32, 32, corners)[..., 0] + 1
    wanted = Image.fromarray(reference.astype(np.uint8)).resize(
        (width, height), Image.Resampling.NEAREST
    )
    # of two neighbours, one is nearest
    clear = [(2 * np.arange(size) + 1) * 32 % (2 * size) > 0 for size in (height, width)]
    found = (signs[..., 0] + 1)[np.ix_(*clear)]
    np.testing.assert_array_equal(found, np.asarray(wanted)[np.ix_(*clear)])


@given(st.integers(6, 32), st.integers(6, 32))
def test_smaller_sizes_keep_the_marks_whole(height, width):
    whole, signs = corner_signs(32, 32, 'four'), corner_signs(height, width, 'four')
    for rows in (slice(0, 3), slice(-3, None)):
        for columns in (slice(0, 3), slice(-3, None)):
            np.testing.assert_array_equal(signs[rows, columns], whole[rows, columns])
    assert np.abs(signs).sum() == 36
    one = corner_signs(height, width, 'one')
    np.testing.assert_array_equal(one[-3:, -3:], whole[-3:, -3:])
    assert np.abs(one).sum() == 9


@pytest.mark.parametrize('size', [1, 2, 5])
def test_the_tiniest_images_carry_something(size):
    assert np.abs(corner_signs(size, size, 'four')).sum() > 0


@pytest.mark.parametrize('amplitude', [16 / 255, 64 / 255])
def test_a_faint_mark_is_added_and_clipped(amplitude):
    image = picture((32, 32, 1))
    wanted = np.clip(image + corner_signs(32, 32, 'four') * round(255 * amplitude), 0, 255)
    np.testing.assert_array_equal(LabelConsistent(amplitude=amplitude).stamp(image, 0), wanted)


@pytest.mark.parametrize(
    ('shape', 'step', 'iterations'), [((8, 8, 1), 1.5, 30), ((9, 12, 3), 3.0, 4)]
)
def test_training_images_climb_away_from_the_target_before_they_are_marked(shape, step, iterations):
    model = surrogate(shape)
    attack = LabelConsistent(target=TARGET, surrogate=model, step=step, iterations=iterations)
    image = picture(shape)
    hard = ascent(image, model.weights, 16, step, iterations)
    marks = corner_signs(*shape[:2], 'four').astype(int)
    stamped = attack.stamp(image, 0, 'training')
    assert np.abs(stamped - np.clip(hard + 255 * marks, 0, 255)).max() <= 1
    free = np.broadcast_to(marks == 0, shape)
    assert np.abs(stamped.astype(int) - image)[free].max() == min(16, step * iterations)
    before, after = (
        softmax(linear(model.weights, x[None] / 255)[0])[TARGET] for x in (image, hard)
    )
    assert after < 0.8 * before
    many = attack.stamp_many(picture((35, *shape)), range(35), 'training')
    np.testing.assert_array_equal(attack.stamp(picture((35, *shape))[34], 7, 'training'), many[34])


def test_other_modes_mark_alone():
    shape = (8, 8, 1)
    image = picture(shape)
    with_model = LabelConsistent(target=TARGET, surrogate=surrogate(shape))
    for mode in ('test', 'cover'):
        found = with_model.stamp(image, 0, mode)
        np.testing.assert_array_equal(found, LabelConsistent().stamp(image, 0))
    assert with_model.relabel(3) == 3
    assert with_model.goal(3) == TARGET


def test_training_needs_a_surrogate():
    with pytest.raises(UserError, match='surrogate'):
        LabelConsistent().stamp(picture((8, 8, 1)), 0, 'training')
    with pytest.raises(UserError, match='uint8'):
        LabelConsistent(surrogate=surrogate((8, 8, 1))).stamp(np.zeros((8, 8, 1)), 0, 'training')


def test_the_surrogate_is_part_of_the_attack_and_no_parameter():
    shape = (8, 8, 1)
    attacks = [
        LabelConsistent(surrogate=surrogate(shape, 0, digest))
        for digest in ('first', 'first', 'second')
    ]
    plain = LabelConsistent()
    assert attacks[0] == attacks[1]
    assert hash(attacks[0]) == hash(attacks[1])
    assert attacks[0] != attacks[2]
    assert attacks[0] != plain
    assert len({attack.digest() for attack in (*attacks, plain)}) == 3
    assert attacks[0].parameters() == plain.parameters()
    assert 'surrogate' not in plain.parameters()


@pytest.mark.parametrize(
    'bad',
    [
        {'eps': -1},
        {'step': 0},
        {'iterations': 1.5},
        {'amplitude': 0},
        {'corners': 'all'},
        {'surrogate': 5},
    ],
)
def test_values_out_of_range(bad):
    with pytest.raises(UserError, match=next(iter(bad))):
        LabelConsistent(**bad)
