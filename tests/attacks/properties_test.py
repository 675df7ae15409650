"""What holds for every attack with a fixed trigger, at every size, in every mode."""

import functools
import json

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from purify.attacks.attack import MODES
from purify.attacks.registry import ATTACKS, build

NEED_A_MODEL = {'sample_specific', 'input_aware', 'lira'}
VARIANTS = {
    'patch': [{'corner': 'random', 'margin_px': 1, 'size_px': 4}, {'transparent': True}],
    'sinusoid': [{'ratio': 0.2}],
    'warp': [{'control_px': 0, 'strength': 1.0}],
    'dct': [{'channels': (0, 1, 2), 'wrap': True}],
    'low_frequency': [{'stretch': True}],
    'label_consistent': [{'corners': 'one', 'amplitude': 0.25}],
    'blended': [{'pattern': 'cartoon'}, {'pattern': 'gaussian'}, {'additive': True}],
    'adaptive_patch': [{'test_marks': 'backdoorbox'}],
}
ALL = {name: [{}, *VARIANTS.get(name, [])] for name in ATTACKS if name not in NEED_A_MODEL}
CASES = [
    pytest.param(name, changes, id='-'.join([name, *changes]))
    for name in ALL
    for changes in ALL[name]
]
each_attack = pytest.mark.parametrize(('name', 'changes'), CASES)
keeps_range = pytest.mark.parametrize(
    ('name', 'changes'), [case for case in CASES if not case.values[1].get('wrap')]
)
sizes = st.sampled_from((8, 9, 13, 31, 32, 33, 40)) | st.integers(8, 48)


def mode_of(name, mode):
    """Training images of label_consistent need a surrogate; see its own test."""
    return 'test' if name == 'label_consistent' and mode == 'training' else mode


def draw_image(shape, seed):
    """Random levels, a third of them at the ends of the range."""
    rng = np.random.default_rng(seed)
    ends = 255 * rng.integers(0, 2, shape, np.uint8)
    return np.where(rng.random(shape) < 1 / 3, ends, rng.integers(0, 256, shape, np.uint8))


def test_every_attack_is_here():
    assert set(ATTACKS) == set(ALL) | NEED_A_MODEL
    assert set(VARIANTS) <= set(ALL)


@pytest.mark.long
@each_attack
@settings(max_examples=8)
@given(
    size=st.tuples(sizes, sizes),
    channels=st.sampled_from((1, 3)),
    mode=st.sampled_from(MODES),
    seed=st.integers(0, 3),
    id=st.integers(0, 2**40),
    content=st.integers(0, 99),
)
@example(size=(224, 224), channels=3, mode='training', seed=0, id=1, content=0)
@example(size=(8, 8), channels=3, mode='test', seed=0, id=1, content=0)
@example(size=(200, 224), channels=1, mode='cover', seed=0, id=1, content=0)
def test_stamp_is_a_function_of_parameters_id_and_mode(
    name, changes, size, channels, mode, seed, id, content
):
    attack, mode = build(name, seed=seed, **changes), mode_of(name, mode)
    image = draw_image((*size, channels), content)
    before = image.copy()
    image.flags.writeable = False
    stamped = attack.stamp(image, id, mode)
    np.testing.assert_array_equal(image, before)
    assert not np.shares_memory(stamped, image)
    assert stamped.shape == image.shape
    assert stamped.dtype == np.uint8
    assert (stamped != image).any() == attack.has_trigger
    np.testing.assert_array_equal(attack.stamp(image, np.int64(id), mode), stamped)
    again = build(name, **json.loads(json.dumps(attack.parameters())))
    np.testing.assert_array_equal(again.stamp(image, id, mode), stamped)
    found = attack.stamp_many([image, before], [id, id], mode)
    np.testing.assert_array_equal(found, [stamped, stamped])


@pytest.mark.long
@keeps_range
@settings(max_examples=8)
@given(
    size=st.tuples(sizes, sizes),
    channels=st.sampled_from((1, 3)),
    mode=st.sampled_from(MODES),
    id=st.integers(0, 2**40),
    content=st.integers(0, 99),
)
@example(size=(8, 8), channels=1, mode='test', id=1, content=0)
@example(size=(224, 224), channels=3, mode='cover', id=1, content=0)
def test_levels_never_wrap(name, changes, size, channels, mode, id, content):
    attack, mode = build(name, seed=1, **changes), mode_of(name, mode)
    image = draw_image((*size, channels), content)
    stamped = attack.stamp(image, id, mode).astype(int)
    if name == 'dct':
        # the change is bounded by the wave, brought to RGB (factors up to 1.78), and the rounding
        # of both ways
        wave = np.abs(attack.shared(image.shape, mode)['wave']).max()
        assert np.abs(stamped - image).max() <= 1.78 * (wave + 1) + 4
    elif changes.get('stretch'):
        assert (stamped.min(), stamped.max()) == (0, 255)
    else:  # brighter images give brighter results: a level that wrapped would not
        brighter = np.minimum(
            image.astype(int) + np.random.default_rng(id).integers(0, 60, image.shape), 255
        ).astype(np.uint8)
        assert (attack.stamp(brighter, id, mode) >= stamped).all()
        black, white = (attack.stamp(np.full_like(image, level), id, mode) for level in (0, 255))
        assert (black <= stamped).all()
        assert (stamped <= white).all()


@pytest.mark.long
@each_attack
def test_batch_on_the_device_is_the_stamp(name, changes):
    attack = build(name, seed=2, **changes)
    for channels, mode in ((3, 'test'), (3, 'training'), (3, 'cover'), (1, 'cover')):
        mode = mode_of(name, mode)
        images = np.stack([draw_image((33, 20, channels), content) for content in range(4)])
        ids = [5, 2**40, 0, 7]
        batch = np.asarray(attack.stamp_batch(images, ids, mode)).astype(int)
        single = attack.stamp_many(images, ids, mode)
        assert batch.shape == single.shape
        assert np.abs(batch - single).max() <= 1
        assert (batch != single).mean() < 0.01


patches = functools.partial(
    st.sampled_from,
    [name for name in ALL if name.endswith('patch') and name != 'adaptive_patch'] + ['badnets1'],
)


@settings(max_examples=60)
@given(
    name=patches(),
    size=st.tuples(sizes, sizes),
    channels=st.sampled_from((1, 3)),
    mode=st.sampled_from(MODES),
    content=st.integers(0, 99),
)
def test_patches_replace_one_square_and_nothing_else(name, size, channels, mode, content):
    attack = build(name)
    image = draw_image((*size, channels), content)
    stamped = attack.stamp(image, 0, mode)
    black, white = (attack.stamp(np.full_like(image, level), 0, mode) for level in (0, 255))
    inside = (black == white).all(-1)
    side = {
        'patch': 3,
        'white_patch': 3,
        'dataelixir_patch': 4,
        'dbd_patch': 2,
        'grid_patch': 3,
    }.get(name, max(3, min(size) // 10))
    assert inside.sum() == side * side
    assert inside[np.ix_(inside.any(1), inside.any(0))].all()
    np.testing.assert_array_equal(stamped[inside], black[inside])
    np.testing.assert_array_equal(stamped[~inside], image[~inside])
    np.testing.assert_array_equal(attack.stamp(stamped, 0, mode), stamped)
