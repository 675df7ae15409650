import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from purify.core.errors import UserError
from purify.core.files import write_json
from purify.generative.pixel_generator import (
    NOTE,
    make_pixel_generator,
    make_preconditioning,
    open_generator,
)
from purify.stages.pixel_denoiser import prior_builder, write_denoiser
from purify.train.state import abstract_network

DDPM = {
    'name': 'ddpm',
    'drop': 0.1,
    'schedule': {'name': 'linear', 'steps': 50, 'prediction': 'epsilon'},
}
EDM = {'name': 'edm', 'drop': 0.1, 'p_mean': -1.2, 'p_std': 1.2, 'sigma_data': 0.5}
EDM |= {'sigma_min': 0.002, 'sigma_max': 80.0, 'rho': 7.0, 'levels': 20}
SETTINGS = {'sample_size': 8, 'block_out_channels': [4, 8], 'layers_per_block': 1}
SETTINGS |= {'attention_levels': 0, 'norm_num_groups': 2, 'dropout': 0.0, 'dtype': 'float32'}
X = jax.random.normal(jax.random.key(1), (4, 8, 8, 1))
LABELS = jnp.array([0, 1, 2, 1])


@pytest.fixture(scope='module')
def network():
    config, build = prior_builder(SETTINGS, 1, 3)
    graph, shapes = abstract_network(build)
    rng = np.random.default_rng(2)
    # fresh ones would be zeros in places
    weights = jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape) / 3, x.dtype), shapes)
    net = nnx.merge(graph, weights['params'], weights['stats'])
    return config, net, graph, weights


def test_guidance_is_the_scale_and_the_last_row_stands_for_no_class(network):
    _, net, graph, weights = network
    model = make_pixel_generator(graph, weights, DDPM, 8, 1, list('abc'))
    t = jnp.array([3, 10, 20, 40])
    ask = jax.jit(net)
    told, untold = ask(X, t, LABELS), ask(X, t, jnp.full(4, 3))
    assert np.abs(told - untold).max() > 1e-3

    def guided(scale):
        return jax.jit(model.predictor(weights, LABELS, scale))(X, t)

    np.testing.assert_allclose(guided(1), told, atol=1e-6)
    np.testing.assert_allclose(guided(0), untold, atol=1e-5)
    w = 1.5  # Ho & Salimans, eq. 6
    by_hand = (1 + w) * told - w * untold
    found = guided(1 + w)
    np.testing.assert_allclose(found, by_hand, atol=1e-5)


def test_a_generator_that_was_always_told_its_class_cannot_be_guided(network):
    _, _, graph, weights = network
    model = make_pixel_generator(graph, weights, DDPM | {'drop': 0.0}, 8, 1, list('abc'))
    model.predictor(weights, LABELS, 1)
    with pytest.raises(UserError, match='drop above 0'):
        model.predictor(weights, LABELS, 2.0)


def test_edm_is_asked_at_its_own_scale_and_answers_with_the_image(network):
    _, net, graph, weights = network
    model = make_pixel_generator(graph, weights, EDM, 8, 1, list('abc'))
    assert (model.schedule.prediction, model.schedule.steps) == ('sample', 20)
    t = jnp.array([0, 7, 13, 19])
    sigma = np.asarray(model.edm.sigmas(), np.float64)[np.asarray(t)][:, None, None, None]
    x = np.asarray(X, np.float64) * np.sqrt(1 + sigma**2)
    inside = x / np.sqrt(sigma**2 + 0.25)
    answer = jax.jit(net)(
        jnp.asarray(inside, jnp.float32),
        jnp.asarray(np.log(sigma.ravel()) / 4, jnp.float32),
        LABELS,
    )
    clean = 0.25 / (sigma**2 + 0.25) * x + sigma * 0.5 / np.sqrt(sigma**2 + 0.25) * np.asarray(
        answer, np.float64
    )
    found = jax.jit(model.predictor(weights, LABELS, 1))(X, t)
    np.testing.assert_allclose(found, clean, rtol=1e-3, atol=2e-3)


@pytest.mark.parametrize('objective', [DDPM, EDM], ids=['ddpm', 'edm'])
def test_a_folder_gives_the_generator_back(network, tmp_path, objective):
    config, _, graph, weights = network
    before = make_pixel_generator(graph, weights, objective, 8, 1, list('abc'))
    scheduler = {'_class_name': 'DDPMScheduler' if objective is DDPM else 'EDMEulerScheduler'}
    write_denoiser(tmp_path, config, scheduler, graph, weights, 'float32')
    with pytest.raises(UserError, match=NOTE):
        open_generator(tmp_path)
    write_json(tmp_path / NOTE, {'objective': objective, 'class_names': list('abc')})
    after = open_generator(tmp_path)
    assert (after.class_names, after.state_shape, after.channels) == (list('abc'), (8, 8, 1), 1)
    np.testing.assert_array_equal(after.schedule.betas, before.schedule.betas)
    t = jnp.array([1, 5, 9, 19])
    one, other = (
        jax.jit(model.predictor(model.weights, LABELS, 2.0))(X, t) for model in (before, after)
    )
    np.testing.assert_allclose(one, other, atol=1e-5)
    shapes = open_generator(tmp_path, weights=False)
    assert all(isinstance(x, jax.ShapeDtypeStruct) for x in jax.tree.leaves(shapes.weights))


def test_the_unet_has_a_row_for_every_class_and_one_for_none(network):
    config, net, *_ = network
    assert config['num_class_embeds'] == 4
    assert 'num_class_embeds' not in prior_builder(SETTINGS, 1)[0]
    with pytest.raises(UserError, match='class_labels'):
        net(X, jnp.zeros(4, int))


@pytest.mark.parametrize(
    ('objective', 'told'),
    [
        (DDPM | {'drop': 'often'}, r'at `\$\.objective\.drop`'),
        (DDPM | {'schedule': 'linear'}, r'at `\$\.objective\.schedule`'),
        (DDPM | {'name': 'gan'}, 'gan'),
        ({'name': 'ddpm', 'drop': 0.1}, 'says nothing of schedule'),
        ({'name': 'latent', 'drop': 0.0}, 'says nothing of caption, size_px'),
        (EDM | {'levels': 'many'}, r'at `\$\.objective\.levels`'),
    ],
)
def test_a_note_that_makes_no_generator_is_named(tmp_path, objective, told):
    write_json(tmp_path / NOTE, {'objective': objective, 'class_names': list('abc')})
    with pytest.raises(UserError, match=rf'{NOTE}.*{told}'):
        open_generator(tmp_path)


def test_settings_that_edm_does_not_have_are_named():
    with pytest.raises(UserError, match=r'edm: .*sigma_middle'):
        make_preconditioning(EDM | {'sigma_middle': 1.0})
