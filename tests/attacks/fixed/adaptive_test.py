import numpy as np
import pytest
from PIL import Image

from purify.attacks.fixed.adaptive_blend import AdaptiveBlend
from purify.attacks.fixed.adaptive_patch import AdaptivePatch
from purify.attacks.fixed.blended import Blended
from purify.core.errors import UserError

# rows and columns (first, past the last) on 32 px, and the opacity in training, as the paper's code
# has them
REGIONS = {
    'flame': ([((27, 32), (27, 32))], 0.5),
    'corners': (
        [((0, 3), (0, 3)), ((0, 3), (29, 32)), ((29, 32), (0, 3)), ((29, 32), (29, 32))],
        0.5,
    ),
    'disc': ([((1, 14), (18, 31))], 0.2),
    'tiles': ([((21, 29), (21, 29))], 0.3),
}
CORNER_MARK = np.array([[255, 0, 0], [0, 255, 0], [255, 0, 255]])
BLACK, WHITE = np.zeros((32, 32, 3), np.uint8), np.full((32, 32, 3), 255, np.uint8)


def cover(boxes, scale=1):
    mask = np.zeros((32 * scale, 32 * scale), bool)
    for (top, bottom), (left, right) in boxes:
        mask[top * scale : bottom * scale, left * scale : right * scale] = True
    return mask


def opacity(attack, id, mode, scale=1):
    """How much of each pixel the trigger hides, seen on a black and a white image: f[h w]."""
    black, white = (
        np.kron(image, np.ones((scale, scale, 1), np.uint8)) for image in (BLACK, WHITE)
    )
    seen = attack.stamp(white, id, mode).astype(int) - attack.stamp(black, id, mode)
    assert (seen == seen[..., :1]).all() or np.ptp(seen, -1).max() <= 1
    return 1 - seen.mean(-1) / 255


@pytest.mark.parametrize('mode', ['training', 'cover'])
@pytest.mark.parametrize('scale', [1, 7])
def test_an_image_carries_exactly_one_of_four_marks(mode, scale):
    attack, met = AdaptivePatch(seed=1), set()
    for id in range(16):
        hidden = opacity(attack, id, mode, scale)
        marks = [
            name
            for name, (boxes, share) in REGIONS.items()
            if np.allclose(hidden, share * cover(boxes, scale), atol=1 / 255 + 1e-9)
        ]
        assert len(marks) == 1
        met.update(marks)
    assert met == set(REGIONS)


def test_marks_are_drawn_uniformly_and_by_the_seed():
    which = np.array(
        [
            [
                AdaptivePatch(seed=seed).drawn((8, 8, 3), id, 'training')['which']
                for id in range(1000)
            ]
            for seed in (0, 1)
        ]
    )
    for row in which:
        counts = np.bincount(row, minlength=4)
        assert ((counts - 250) ** 2 / 250).sum() < 21.1  # 3 degrees of freedom: p = 1e-4
    assert (which[0] != which[1]).mean() > 0.6
    attack = AdaptivePatch()
    assert attack.drawn((8, 8, 3), 5, 'training') == attack.drawn((8, 8, 3), 5, 'cover')


def test_toolbox_shows_two_opaque_marks():
    stamped = AdaptivePatch().stamp(BLACK, 0)
    hidden = opacity(AdaptivePatch(), 0, 'test')
    expected = cover([*REGIONS['corners'][0], ((27, 32), (27, 32)), ((27, 32), (0, 5))])
    np.testing.assert_array_equal(hidden, expected)
    for (top, bottom), (left, right) in REGIONS['corners'][0]:
        for channel in range(3):
            np.testing.assert_array_equal(stamped[top:bottom, left:right, channel], CORNER_MARK)
    np.testing.assert_array_equal(stamped[27:29, :5], stamped[27:29, 27:])
    assert np.ptp(stamped[27:29, :5].reshape(-1, 3), axis=0).max() > 100, 'a mark of many colours'
    image = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    once = AdaptivePatch().stamp(image, 0)
    np.testing.assert_array_equal(AdaptivePatch().stamp(once, 0), once)
    np.testing.assert_array_equal(once[~expected], image[~expected])


def test_backdoorbox_shows_the_first_two_as_in_training():
    attack = AdaptivePatch(test_marks='backdoorbox')
    hidden = opacity(attack, 0, 'test')
    flame, corners = cover(REGIONS['flame'][0]), cover(REGIONS['corners'][0])
    np.testing.assert_allclose(hidden, 1 - (1 - 0.5 * flame) * (1 - 0.5 * corners), atol=1 / 255)
    # one after the other: the mark that is laid last counts half, the first one a quarter
    first = [
        id
        for id in range(40)
        if opacity(attack, id, 'training')[31, 31] == pytest.approx(0.5, abs=0.01)
    ]
    lone = {opacity(attack, id, 'training')[0, 0] > 0: id for id in first}
    image = np.full((32, 32, 3), 100, np.uint8)
    below = attack.stamp(image, lone[False], 'training')
    both = attack.stamp(below, lone[True], 'training')
    assert np.abs(both.astype(int) - attack.stamp(image, 0)).max() <= 1


def test_three_of_the_marks_are_colourful():
    attack = AdaptivePatch(seed=1)
    stamps = {attack.stamp(BLACK, id, 'training').tobytes() for id in range(16)}
    assert len(stamps) == 4
    spans = [
        np.ptp(np.frombuffer(stamp, np.uint8).reshape(-1, 3).astype(int), -1).max()
        for stamp in stamps
    ]
    assert sorted(span > 40 for span in spans) == [False, True, True, True]


@pytest.mark.parametrize('shape', [(1, 1, 3), (3, 5, 1), (8, 8, 3), (47, 20, 3)])
def test_every_mark_is_seen_at_every_size(shape):
    attack = AdaptivePatch()
    for mode in ('test', 'training'):
        for id in range(12):
            white, black = (np.full(shape, level, np.uint8) for level in (255, 0))
            apart = attack.stamp(white, id, mode).astype(int) - attack.stamp(black, id, mode)
            assert apart.min() < 255


def test_unknown_test_marks_name_the_choices():
    with pytest.raises(UserError, match='backdoorbox, toolbox'):
        AdaptivePatch(test_marks='logo')
    assert AdaptivePatch().digest() != AdaptivePatch(test_marks='backdoorbox').digest()


def test_whole_pattern_is_that_of_blended():
    image = np.random.default_rng(0).integers(0, 256, (13, 10, 3), np.uint8)
    for pattern in ('cartoon', 'noise'):
        attack = AdaptiveBlend(seed=3, pattern=pattern, hidden=0)
        for mode, ratio in (('test', 0.2), ('training', 0.15), ('cover', 0.15)):
            np.testing.assert_array_equal(
                attack.stamp(image, 1, mode),
                Blended(seed=3, pattern=pattern, ratio=ratio).stamp(image, 1),
            )
    np.testing.assert_array_equal(
        AdaptiveBlend(seed=3, hidden=15).stamp(image, 1),
        Blended(seed=3, pattern='cartoon', ratio=0.2).stamp(image, 1),
    )


@pytest.mark.parametrize('shape', [(8, 8, 3), (10, 7, 1), (32, 32, 3)])
@pytest.mark.parametrize('hidden', [1, 8, 15])
def test_poison_shows_a_part_of_the_squares(shape, hidden):
    height, width, _ = shape
    attack = AdaptiveBlend(seed=2, pattern='noise', hidden=hidden, train_ratio=1.0)
    image = np.random.default_rng(5).integers(0, 256, shape, np.uint8)
    pattern = Blended(seed=2, pattern='noise', ratio=1.0).stamp(image, 0)
    for id in range(5):
        stamped = attack.stamp(image, id, 'training')
        np.testing.assert_array_equal(stamped, attack.stamp(image, id, 'cover'))
        shown = set()
        for i in range(height):
            for j in range(width):
                square = i * 4 // height, j * 4 // width
                if not np.array_equal(stamped[i, j], image[i, j]):
                    shown.add(square)
                    np.testing.assert_array_equal(stamped[i, j], pattern[i, j])
        for i, j in np.ndindex(height, width):
            if (i * 4 // height, j * 4 // width) in shown:
                np.testing.assert_array_equal(stamped[i, j], pattern[i, j])
        assert len(shown) == 16 - hidden


def test_squares_are_hidden_uniformly_for_every_id():
    attack = AdaptiveBlend(seed=0)
    shown = np.array([attack.drawn((8, 8, 3), id, 'training')['shown'] for id in range(800)])
    assert (shown.sum((1, 2)) == 8).all()
    share = shown.mean(0)
    assert np.abs(share - 0.5).max() < 4 * (0.25 / 800) ** 0.5
    assert len({one.tobytes() for one in shown}) > 700
    assert not np.array_equal(
        shown[0], AdaptiveBlend(seed=1).drawn((8, 8, 3), 0, 'training')['shown']
    )


def test_a_picture_serves_as_pattern(tmp_path):
    Image.new('RGB', (4, 4), (200, 100, 0)).save(tmp_path / 'p.png')
    attack = AdaptiveBlend(pattern='picture', path=str(tmp_path / 'p.png'), test_ratio=0.5)
    assert attack.stamp(np.zeros((8, 8, 3), np.uint8), 0)[3, 3].tolist() == [100, 50, 0]
    Image.new('RGB', (4, 4), (200, 100, 2)).save(tmp_path / 'p.png')
    assert AdaptiveBlend(**attack.parameters()).digest() != attack.digest()


@pytest.mark.parametrize(
    ('wrong', 'told'),
    [
        ({'hidden': 16}, 'hidden=16 .* at least 0 and at most 15'),
        ({'hidden': -1}, 'hidden=-1'),
        ({'train_ratio': 0}, 'train_ratio=0'),
        ({'test_ratio': 1.5}, 'test_ratio=1.5'),
        ({'pattern': 'kitty'}, 'cartoon, gaussian, noise, picture'),
        ({'path': 'p.png'}, "'cartoon'"),
    ],
)
def test_values_out_of_range_are_refused(wrong, told):
    with pytest.raises(UserError, match=told):
        AdaptiveBlend(**wrong)


def test_digest_knows_every_parameter():
    changes = [{}, {'hidden': 7}, {'train_ratio': 0.1}, {'test_ratio': 0.3}, {'pattern': 'noise'}]
    changes += [{'seed': 1}, {'target': 1}]
    assert len({AdaptiveBlend(**change).digest() for change in changes}) == len(changes)
