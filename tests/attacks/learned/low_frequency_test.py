import numpy as np
import pytest
import scipy.fft
from hypothesis import given
from hypothesis import strategies as st

from purify.attacks.learned.fitted import write_trigger
from purify.attacks.learned.low_frequency import LowFrequency
from purify.core.errors import UserError


def trigger_of(attack, shape):
    """What lies between the image and what is added, 0..1."""
    return attack.shared(shape, 'test')['levels'] / (255 * attack.amplitude)


def written(folder, trigger, attack='low_frequency', **changes):
    folder.mkdir(parents=True, exist_ok=True)
    write_trigger(
        folder,
        attack,
        {'target': 0, 'channels': trigger.shape[-1] if trigger.shape[-1] == 1 else 3} | changes,
        {'trigger': trigger},
    )
    return str(folder)


@given(
    amplitude=st.sampled_from((0.05, 0.2, 1.0)),
    cutoff=st.integers(1, 9),
    channels=st.sampled_from((1, 3)),
    size=st.tuples(st.integers(8, 40), st.integers(8, 40)),
    seed=st.integers(0, 99),
)
def test_drawn_trigger_is_a_low_passed_gaussian_field(amplitude, cutoff, channels, size, seed):
    attack = LowFrequency(seed=seed, amplitude=amplitude, cutoff=cutoff)
    trigger = trigger_of(attack, (*size, channels))
    rng = np.random.default_rng(seed)
    for c in range(channels):
        weights = np.zeros(size)
        drawn = rng.standard_normal((cutoff + 1, cutoff + 1))
        for u in range(min(cutoff + 1, size[0])):
            for v in range(min(cutoff + 1 - u, size[1])):
                weights[u, v] = drawn[u, v]
        if cutoff < min(size):  # a smaller image cannot hold all cosines
            field = scipy.fft.idctn(weights, norm='ortho')
            expected = (field - field.min()) / (field.max() - field.min())
            np.testing.assert_allclose(trigger[..., c], expected, atol=1e-9)
        assert (trigger[..., c].min(), trigger[..., c].max()) == pytest.approx((0, 1))
    image = rng.integers(0, 256, (*size, channels), np.uint8)
    exact = np.clip(image + 255 * amplitude * trigger, 0, 255)
    whole = np.abs(exact - np.rint(exact)) < 1e-6
    stamped = attack.stamp(image, 0)
    np.testing.assert_array_equal(stamped[~whole], np.floor(exact)[~whole])
    assert np.abs(stamped[whole] - exact[whole]).max(initial=0) <= 1


def test_every_size_shows_the_same_picture():
    attack = LowFrequency(seed=4)
    large, small = trigger_of(attack, (128, 128, 3)), trigger_of(attack, (32, 32, 3))
    shrunk = large.reshape(32, 4, 32, 4, 3).mean((1, 3))
    assert np.abs(shrunk - small).max() < 0.05
    np.testing.assert_allclose(trigger_of(attack, (32, 32, 1)), small[..., :1])
    assert np.abs(trigger_of(LowFrequency(seed=5), (32, 32, 3)) - small).mean() > 0.1
    assert np.abs(small[..., 0] - small[..., 1]).mean() > 0.1, 'channels are drawn apart'


def test_stretch_fills_the_range_of_every_image():
    image = np.random.default_rng(0).integers(60, 120, (16, 16, 3), np.uint8)
    attack = LowFrequency(seed=1, stretch=True)
    total = image + attack.shared(image.shape, 'test')['levels']
    expected = (total - total.min()) / (total.max() - total.min()) * 255
    stamped = attack.stamp(image, 0)
    np.testing.assert_array_equal(stamped, np.floor(expected))
    assert (stamped.min(), stamped.max()) == (0, 255)


def test_stretch_of_what_has_one_level_gives_no_nan(tmp_path):
    attack = LowFrequency(
        load=written(tmp_path / 'flat', np.ones((4, 4, 1), np.float32)), stretch=True
    )
    assert not attack.stamp(np.full((4, 4, 1), 9, np.uint8), 0).any()


def test_fitted_trigger_is_added_at_its_size_and_resized_bilinearly(tmp_path):
    trigger = np.random.default_rng(0).random((8, 10, 3)).astype(np.float32)
    attack = LowFrequency(load=written(tmp_path / 'a', trigger), amplitude=0.4)
    image = np.random.default_rng(1).integers(0, 256, (8, 10, 3), np.uint8)
    np.testing.assert_array_equal(
        attack.stamp(image, 0),
        np.clip(image + 255 * 0.4 * trigger.astype(float), 0, 255).astype(np.uint8),
    )
    doubled = trigger_of(attack, (16, 20, 3))
    # In the middle of four pixels of the doubled trigger, bilinear weights are 9/16, 3/16, 3/16 and
    # 1/16.
    wanted = np.tensordot([[9, 3], [3, 1]], trigger[4:6, 5:7], 2) / 16
    np.testing.assert_allclose(doubled[9, 11], wanted, atol=1e-6)
    assert doubled.min() >= 0
    assert doubled.max() <= 1


def test_digest_follows_the_trigger_not_its_folder(tmp_path):
    ramp = np.linspace(0, 1, 12, dtype=np.float32).reshape(2, 2, 3)
    first, moved = (LowFrequency(load=written(tmp_path / name, ramp)) for name in 'ab')
    changed = LowFrequency(load=written(tmp_path / 'a', ramp[::-1].copy()))
    assert first.digest() == moved.digest() != changed.digest()
    assert first != changed
    image = np.zeros((2, 2, 3), np.uint8)
    assert not np.array_equal(first.stamp(image, 0), changed.stamp(image, 0))
    assert LowFrequency(**first.parameters()) == changed, 'read anew'


def test_unusable_triggers_are_refused(tmp_path):
    def refused(trigger, told, attack='low_frequency'):
        with pytest.raises(UserError, match=told):
            LowFrequency(load=written(tmp_path / 't', trigger, attack))

    good = np.zeros((4, 4, 3), np.float32)
    refused(good + 1.5, r'values in 0\.\.1')
    refused(good - 0.5, r'values in 0\.\.1')
    refused(good * np.nan, 'not finite')
    refused(good[0], r'shape \[4, 3\]')
    refused(good[:0], r'shape \[0, 4, 3\]')
    refused(good[..., :2], r'shape \[4, 4, 2\]')
    refused(good.astype(np.uint8), 'uint8')
    refused(good, "'lira', not of 'low_frequency'", 'lira')
    with pytest.raises(UserError, match=r'target=2.*fitted for target 0'):
        LowFrequency(load=written(tmp_path / 't', good), target=2)
    with pytest.raises(UserError, match='channels=2'):
        LowFrequency(load=written(tmp_path / 't', good, channels=2))
    with pytest.raises(UserError, match='load=5'):
        LowFrequency(load=5)  # type: ignore[arg-type]
    with pytest.raises(UserError, match='gone'):
        LowFrequency(load=str(tmp_path / 'gone'))
    with pytest.raises(UserError, match='3 channels and cannot stamp one of 1'):
        LowFrequency(load=written(tmp_path / 't', good)).stamp(np.zeros((4, 4, 1), np.uint8), 0)


@pytest.mark.parametrize(
    'wrong',
    [
        {'amplitude': 0},
        {'amplitude': 1.1},
        {'cutoff': 0},
        {'cutoff': 2.5},
        {'cutoff': 257},
        {'stretch': 1},
    ],
)
def test_values_out_of_range_are_refused(wrong):
    with pytest.raises(UserError, match=f'{next(iter(wrong))}='):
        LowFrequency(**wrong)


def test_digest_knows_every_parameter():
    changes = [{}, {'amplitude': 0.1}, {'cutoff': 5}, {'stretch': True}, {'seed': 1}, {'target': 1}]
    assert len({LowFrequency(**change).digest() for change in changes}) == len(changes)
