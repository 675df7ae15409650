import pickle
from fractions import Fraction

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from purify.attacks.cartoon import draw_cartoon
from purify.attacks.fixed.blended import Blended
from purify.core.errors import UserError

SHAPE = (12, 9, 3)


def pattern_of(attack: Blended, shape: tuple[int, ...]) -> np.ndarray:
    """A ratio of 1 shows the pattern itself."""
    return Blended(**(attack.parameters() | {'ratio': 1.0})).stamp(np.zeros(shape, np.uint8), 0)


@pytest.mark.long
@given(
    ratio=st.sampled_from((0.05, 0.1, 0.2, 0.5, 0.999, 1.0)) | st.floats(0.001, 1),
    pattern=st.sampled_from(('noise', 'cartoon')),
    channels=st.sampled_from((1, 3)),
    seed=st.integers(0, 50),
)
def test_blend_is_the_truncated_mix(ratio, pattern, channels, seed):
    image = np.random.default_rng(seed).integers(0, 256, (6, 5, channels), np.uint8)
    before = image.copy()
    attack = Blended(target=0, seed=seed, ratio=ratio, pattern=pattern)
    stamped = attack.stamp(image, 3)
    np.testing.assert_array_equal(image, before)
    assert stamped.dtype == np.uint8
    assert stamped.shape == image.shape
    share = Fraction(ratio)
    for x, p, got in zip(
        image.flat, pattern_of(attack, image.shape).flat, stamped.flat, strict=True
    ):
        exact = (1 - share) * int(x) + share * int(p)
        floor = exact.numerator // exact.denominator
        if abs(exact - round(exact)) > 1e-9:  # float64 may fall to either side of a whole number
            assert got == floor
        else:
            assert abs(int(got) - round(exact)) <= 1


def test_noise_is_uniform_up_to_254_and_follows_the_seed():
    noise = pattern_of(Blended(target=0, seed=5, ratio=0.1), (200, 200, 3))
    assert (noise.min(), noise.max()) == (0, 254)
    counts = np.bincount(noise.ravel(), minlength=255)
    expected = noise.size / 255
    assert ((counts - expected) ** 2 / expected).sum() < 345  # 254 degrees of freedom: p = 1e-4
    assert not np.array_equal(noise[..., 0], noise[..., 1])
    assert not np.array_equal(
        noise, pattern_of(Blended(target=0, seed=6, ratio=0.1), (200, 200, 3))
    )


def test_gaussian_is_normal_clipped_and_rounded():
    noise = pattern_of(Blended(seed=5, pattern='gaussian'), (300, 300, 3)).astype(float)
    inner = np.arange(1, 255)
    edges = scipy.stats.norm(127.5, 63.75).cdf([0.5, *(inner + 0.5)])
    expected = np.array([edges[0], *np.diff(edges), 1 - edges[-1]]) * noise.size
    counts = np.bincount(noise.astype(int).ravel(), minlength=256)
    assert ((counts - expected) ** 2 / expected).sum() < 346  # 255 degrees of freedom: p = 1e-4
    assert not np.array_equal(noise[..., 0], noise[..., 1])
    assert not np.array_equal(noise, pattern_of(Blended(seed=6, pattern='gaussian'), (300, 300, 3)))


@pytest.mark.parametrize('pattern', ['noise', 'cartoon', 'gaussian'])
def test_additive_adds_and_clips(pattern):
    image = np.random.default_rng(0).integers(0, 256, SHAPE, np.uint8)
    shown = pattern_of(Blended(seed=3, pattern=pattern), SHAPE).astype(int)
    stamped = Blended(seed=3, pattern=pattern, ratio=0.25, additive=True).stamp(image, 0)
    np.testing.assert_array_equal(stamped, np.minimum((4 * image.astype(int) + shown) // 4, 255))
    assert (stamped == 255).any()


@pytest.mark.parametrize(
    'wrong',
    [{'additive': 1}, {'additive': 'yes'}, {'path': 5}, {'pattern': 5}, {'pattern': ['noise']}],
)
def test_values_of_other_types_are_refused(wrong):
    with pytest.raises(UserError, match=next(iter(wrong))):
        Blended(**wrong)


def test_pattern_is_the_same_for_all_images():
    attack = Blended(target=0, seed=5, ratio=1.0)
    image = np.zeros(SHAPE, np.uint8)
    np.testing.assert_array_equal(attack.stamp(image, 1), attack.stamp(image + 7, 2))


@pytest.mark.parametrize('seed', [0, 1, 42])
@pytest.mark.parametrize('size', [32, 64, 224])
def test_cartoon_has_the_tones_of_the_picture_it_stands_for(seed, size):
    cartoon = draw_cartoon(seed, size, size)
    assert abs(cartoon.mean() - 178.75) < 2
    assert cartoon.min() <= 12
    assert cartoon.max() == 255
    assert cartoon.std() > 60, 'high contrast'
    halves = [cartoon[: size // 2], cartoon[size // 2 :], cartoon[:, : size // 2]]
    halves += [cartoon[:, size // 2 :]]
    assert min(half.std() for half in halves) > 40, 'covers the frame'
    assert np.abs(cartoon.astype(float) - cartoon.mean(-1, keepdims=True)).mean() > 10, 'coloured'


def test_cartoon_is_smooth_and_one_picture_at_every_size():
    large, small = draw_cartoon(3, 128, 128), draw_cartoon(3, 32, 32)
    assert np.abs(np.diff(large.astype(float), axis=0)).mean() < 15
    shrunk = large.reshape(32, 4, 32, 4, 3).mean((1, 3))
    assert np.corrcoef(shrunk.ravel(), small.ravel())[0, 1] > 0.97
    assert np.corrcoef(small.ravel(), draw_cartoon(4, 32, 32).ravel())[0, 1] < 0.95


def test_picture_is_fitted_bilinearly(tmp_path):
    picture = np.random.default_rng(0).integers(0, 256, (9, 12, 3), np.uint8)
    Image.fromarray(picture).save(tmp_path / 'p.png')
    attack = Blended(target=0, seed=0, ratio=1.0, pattern='picture', path=str(tmp_path / 'p.png'))
    np.testing.assert_array_equal(attack.stamp(np.zeros((9, 12, 3), np.uint8), 0), picture)
    doubled = attack.stamp(np.zeros((18, 24, 3), np.uint8), 0)
    # In the middle of four pixels of the doubled picture, bilinear weights are 9/16, 3/16, 3/16 and
    # 1/16.
    block = picture[4:6, 5:7].astype(float)
    expected = np.tensordot([[9, 3], [3, 1]], block, 2) / 16
    assert np.abs(doubled[9, 11] - expected).max() <= 1
    grey = attack.stamp(np.zeros((9, 12, 1), np.uint8), 0)
    assert np.abs(grey[..., 0] - picture @ [0.299, 0.587, 0.114]).max() <= 0.5 + 1e-9


def test_a_picture_is_shown_as_those_of_sources_are(tmp_path, capsys):
    """A transparent rim over magenta is white, not magenta; the picture stands upright; 16 bits
    keep their high ones.
    """
    rim = np.zeros((8, 8, 4), np.uint8)
    rim[..., [0, 2]] = 255
    rim[2:6, 2:6] = (10, 20, 30, 255)
    Image.fromarray(rim).save(tmp_path / 'rim.png')

    def stamped(name):
        attack = Blended(target=0, seed=0, ratio=1.0, pattern='picture', path=str(tmp_path / name))
        return attack.stamp(np.zeros((8, 8, 3), np.uint8), 0)

    expected = np.full((8, 8, 3), 255)
    expected[2:6, 2:6] = (10, 20, 30)
    for _ in range(2):
        np.testing.assert_array_equal(stamped('rim.png'), expected)
    assert capsys.readouterr().err.count('rim.png: transparent in places, shown on white') == 1
    half = np.zeros((8, 8, 3), np.uint8)
    half[:4] = 255
    exif = Image.Exif()
    exif[0x0112] = 3
    Image.fromarray(half).save(tmp_path / 'turned.png', exif=exif)
    np.testing.assert_array_equal(stamped('turned.png'), half[::-1])
    Image.fromarray(np.full((8, 8), 51_400, np.uint16)).save(tmp_path / 'deep.png')
    assert np.unique(stamped('deep.png')).tolist() == [200]


def test_digest_follows_the_pixels_of_the_picture_not_its_path(tmp_path):
    def attack(name, level):
        Image.new('RGB', (4, 4), (level, 0, 0)).save(tmp_path / name)
        return Blended(target=0, seed=0, ratio=0.2, pattern='picture', path=str(tmp_path / name))

    first, moved, changed = attack('a.png', 10), attack('b.png', 10), attack('a.png', 110)
    assert first.digest() == moved.digest() != changed.digest()
    image = np.zeros(SHAPE, np.uint8)
    assert first.stamp(image, 0)[0, 0, 0] == 2  # read once: the file on disk has changed since
    assert changed.stamp(image, 0)[0, 0, 0] == 22, 'not what was drawn for the same path before'


def test_digest_knows_every_parameter():
    base = {'target': 0, 'seed': 1, 'ratio': 0.1}
    changes = [{'target': 1}, {'seed': 2}, {'ratio': 0.2}, {'pattern': 'cartoon'}]
    changes += [{'pattern': 'gaussian'}, {'additive': True}]
    digests = [Blended(**(base | change)).digest() for change in ({}, *changes)]
    assert len(set(digests)) == len(digests)


def test_attack_survives_the_way_to_a_worker(tmp_path):
    Image.new('RGB', (4, 4), (200, 100, 0)).save(tmp_path / 'p.png')
    attack = Blended(target=0, seed=0, ratio=0.2, pattern='picture', path=str(tmp_path / 'p.png'))
    copy = pickle.loads(pickle.dumps(attack))
    assert copy == attack
    found = copy.stamp(np.zeros(SHAPE, np.uint8), 0)
    np.testing.assert_array_equal(found, attack.stamp(np.zeros(SHAPE, np.uint8), 0))


@pytest.mark.parametrize('ratio', [0, -0.1, 1.01, float('nan'), 'much', None, True])
def test_ratio_outside_its_range_is_refused(ratio):
    with pytest.raises(UserError, match='ratio='):
        Blended(target=0, seed=0, ratio=ratio)


def test_unusable_pictures_are_refused_by_name(tmp_path):
    kind = {'target': 0, 'seed': 0, 'ratio': 0.1, 'pattern': 'picture'}
    with pytest.raises(UserError, match=r'gone.png.* does not exist'):
        Blended(**kind, path=str(tmp_path / 'gone.png'))
    with pytest.raises(UserError, match='needs an image file'):
        Blended(**kind)
    (tmp_path / 'text.png').write_text('no picture')
    with pytest.raises(UserError, match=r'text.png: not a readable picture'):
        Blended(**kind, path=str(tmp_path / 'text.png'))
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)).save(
        tmp_path / 'whole.png'
    )
    (tmp_path / 'half.png').write_bytes((tmp_path / 'whole.png').read_bytes()[:2000])
    with pytest.raises(UserError, match=r'half.png: not a readable picture'):
        Blended(**kind, path=str(tmp_path / 'half.png'))
    with pytest.raises(UserError, match="'noise'"):
        Blended(target=0, seed=0, ratio=0.1, path=str(tmp_path / 'whole.png'))


def test_unknown_pattern_names_the_choices():
    with pytest.raises(UserError, match='cartoon, gaussian, noise, picture'):
        Blended(target=0, seed=0, ratio=0.1, pattern='kitty')
