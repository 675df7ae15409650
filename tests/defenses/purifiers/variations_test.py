import jax
import jax.numpy as jnp
import numpy as np
import pytest

from purify.core.errors import UserError
from purify.defenses.method import Context
from purify.defenses.purifiers.variations import Variations
from purify.defenses.registry import DEFENSES
from purify.train.objectives.tasks import resize_to

IMAGES = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 3), np.uint8)
NAMES = ['cat', 'dog']
DISTILL = {'objective': {'name': 'distill'}, 'augment': {'flip': {}}}
CLASSIFY = {'objective': {'name': 'classify'}, 'augment': {}}


class Fake:
    """A prior that shifts and squeezes the colours, and adds noise where asked."""

    weights, model = 0.5, 'pixel'

    def __init__(self, size_px=8, channels=3, noise=0.0, by_label=0.0):
        self.size_px, self.channels, self.noise, self.by_label = size_px, channels, noise, by_label

    def vary(self, class_names, *, strength):
        assert list(class_names) == NAMES

        def vary(weights, images, labels, keys):
            images = resize_to(images, self.size_px)
            assert images.shape[3] == self.channels
            noise = jax.vmap(lambda key: jax.random.normal(key, images.shape[1:]))(keys)
            return (
                strength * weights * images
                + 0.3
                + self.noise * noise
                + self.by_label * labels[:, None, None, None]
            )

        return vary


def defense(**changes):
    settings = {'copies': 1, 'vary': {'model': 'pixel', 'strength': 0.5}, 'colour_transfer': True}
    settings |= {'epsilon': 1e-6, 'dtype': 'float32'}
    return Variations(**(settings | changes))


def rows(images=IMAGES, variation=0):
    count = len(images)
    return {
        'image': jnp.array(images),
        'id': jnp.arange(count),
        'label': jnp.arange(count) % 2,
        'variation': jnp.full(count, variation),
    }


@pytest.mark.long
def test_colour_transfer_undoes_a_change_of_colour():
    out = defense().rule({'prior': Fake()}, Context((8, 8, 3), 0, NAMES))({'prior': 0.5}, rows())[
        'image'
    ]
    assert np.abs(np.asarray(out).astype(int) - IMAGES).max() <= 1


@pytest.mark.long
def test_without_it_the_priors_colours_stay():
    out = defense(colour_transfer=False).rule({'prior': Fake()}, Context((8, 8, 3), 0, NAMES))(
        {'prior': 0.5}, rows()
    )['image']
    wanted = np.clip(np.round(((IMAGES / 127.5 - 1) * 0.25 + 0.3 + 1) * 127.5), 0, 255)
    assert np.abs(np.asarray(out) - wanted).max() <= 1


@pytest.mark.long
def test_noise_is_a_function_of_seed_id_and_copy():
    noisy = Fake(noise=0.5)
    rule = defense().rule({'prior': noisy}, Context((8, 8, 3), 0, NAMES))
    whole = np.asarray(rule({'prior': 0.5}, rows())['image'])
    part = {name: value[3:5] for name, value in rows().items()}
    assert (np.asarray(rule({'prior': 0.5}, part)['image']) == whole[3:5]).all()
    assert (np.asarray(rule({'prior': 0.5}, rows(variation=1))['image']) != whole).any()
    assert (
        np.asarray(
            defense().rule({'prior': noisy}, Context((8, 8, 3), 1, NAMES))({'prior': 0.5}, rows())[
                'image'
            ]
        )
        != whole
    ).any()
    same = np.repeat(IMAGES[:1], 6, 0)
    assert (
        len({image.tobytes() for image in np.asarray(rule({'prior': 0.5}, rows(same))['image'])})
        == 6
    )


@pytest.mark.long
@pytest.mark.parametrize(
    ('size', 'channels', 'prior_channels'), [(16, 3, 3), (4, 3, 3), (8, 1, 3), (8, 1, 1)]
)
def test_priors_of_another_size_and_grey_images_fit(size, channels, prior_channels):
    rule = defense().rule(
        {'prior': Fake(size, prior_channels)}, Context((8, 8, channels), 0, NAMES)
    )
    out = rule({'prior': 0.5}, rows(IMAGES[..., :channels]))['image']
    assert out.shape == (6, 8, 8, channels)
    assert out.dtype == jnp.uint8


def test_a_grey_prior_cannot_vary_colour_images():
    with pytest.raises(UserError, match='3 channels'):
        defense().rule({'prior': Fake(8, 1)}, Context((8, 8, 3), 0, NAMES))


def test_the_given_label_reaches_the_prior():
    rule = defense(colour_transfer=False).rule(
        {'prior': Fake(by_label=0.25)}, Context((8, 8, 3), 0, NAMES)
    )
    plain = defense(colour_transfer=False).rule({'prior': Fake()}, Context((8, 8, 3), 0, NAMES))
    apart = np.asarray(rule({'prior': 0.5}, rows())['image']).astype(int) - np.asarray(
        plain({'prior': 0.5}, rows())['image']
    )
    assert (apart[0::2] == 0).all()
    assert (apart[1::2] > 20).all()


def test_rows_the_prior_breaks_are_told():
    broken = Fake(by_label=np.nan)
    out = defense().rule({'prior': broken}, Context((8, 8, 3), 0, NAMES))(
        {'prior': 0.5}, rows() | {'label': jnp.array([1, 0, 0, 1, 0, 0])}
    )
    assert not out['finite'].any()  # 0 x NaN is NaN, too
    assert (
        defense()
        .rule({'prior': Fake()}, Context((8, 8, 3), 0, NAMES))({'prior': 0.5}, rows())['finite']
        .all()
    )


def test_another_model_than_the_config_says_is_refused():
    fake = Fake()
    fake.model = 'versatile'
    with pytest.raises(UserError, match="'pixel', but the prior is a 'versatile'"):
        defense().rule({'prior': fake}, Context((8, 8, 3), 0, NAMES))
    with pytest.raises(UserError, match='pixel, sd_img2img, sd_variation, versatile'):
        defense(vary={'model': 'pixels'})


@pytest.mark.parametrize('bad', [{'copies': 0}, {'epsilon': 0.0}])
def test_settings_out_of_range(bad):
    with pytest.raises(UserError, match=rf'defense\.{next(iter(bad))}='):
        defense(**bad)


def test_methods_name_their_steps():
    with_teacher = defense().method(DISTILL)
    assert [step.name for step in with_teacher.steps] == ['purified', 'student']
    assert with_teacher.steps[1].inputs == {'data': 'purified', 'teacher': 'teacher'}
    assert 'teacher' not in defense().method(CLASSIFY).steps[1].inputs
    assert DEFENSES.make('none').method({}).steps == ()
    alone = DEFENSES.make('augmentations').method(DISTILL)
    assert alone.steps[0].inputs['data'] == 'poisoned'
    assert alone.outcome.purified is None
    with pytest.raises(UserError, match=r'student\.augment'):
        DEFENSES.make('augmentations').method(CLASSIFY)
