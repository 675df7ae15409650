import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from PIL import Image

from purify.core.errors import UserError
from purify.diffusion.samplers import SAMPLERS
from purify.diffusion.schedules import make_noise_schedule
from purify.generative.open_prior import load_variation_model
from purify.generative.pixel_prior import PixelPrior
from purify.models.files.hub import EMBEDDED
from purify.train.state import split_network


class Knows(nnx.Module):
    """Names the noise exactly when the clean image is all zeros."""

    def __init__(self, alphas):
        self.alphas = nnx.data(jnp.asarray(alphas, jnp.float32))

    def __call__(self, x, t):
        return x / jnp.sqrt(1 - self.alphas[t])[:, None, None, None]


def prior():
    schedule = make_noise_schedule('linear', 100)
    graph, params, stats = split_network(Knows(schedule.alphas_cumprod))
    return PixelPrior(graph, {'params': params, 'stats': stats}, schedule, 8, 1)


@pytest.mark.long
@pytest.mark.parametrize('sampler', sorted(SAMPLERS))
def test_a_perfect_network_gives_the_image_back(sampler):
    model = dataclasses.replace(prior(), distilled=sampler == 'consistency')
    keys = jax.random.split(jax.random.key(0), 3)
    out = model.vary([], sampler=sampler, start=60, steps=12)(
        model.weights, jnp.zeros((3, 8, 8, 1)), jnp.zeros(3, int), keys
    )
    assert np.abs(np.asarray(out)).max() < 2e-3


@pytest.mark.parametrize(('sampler', 'distilled'), [('consistency', False), ('ddim', True)])
def test_distilled_priors_and_their_sampler_go_together(sampler, distilled):
    model = dataclasses.replace(prior(), distilled=distilled)
    with pytest.raises(UserError, match='distilled'):
        model.vary([], sampler=sampler, start=60, steps=2)


@pytest.mark.parametrize('eta', [-0.1, 1.5, float('nan')])
def test_an_eta_that_is_no_share_is_refused_whatever_the_sampler(eta):
    with pytest.raises(UserError, match='between 0 and 1'):
        prior().vary([], sampler='sde', start=60, steps=3, eta=eta)


def test_eta_is_of_ddim_alone():
    keys, images = jax.random.split(jax.random.key(0), 3), jnp.zeros((3, 8, 8, 1))

    def varied(sampler, eta):
        model = prior()
        vary = model.vary([], sampler=sampler, start=60, steps=3, eta=eta)
        return np.asarray(vary(model.weights, images + 0.3, jnp.zeros(3, int), keys))

    assert (varied('ddim', 0.0) != varied('ddim', 1.0)).any()
    np.testing.assert_array_equal(varied('sde', 0.0), varied('sde', 1.0))


@pytest.mark.parametrize(
    ('start', 'steps', 'word'), [(0, 1, 'start=0'), (101, 5, 'start=101'), (5, 10, 'steps')]
)
def test_starts_the_schedule_does_not_have_are_refused(start, steps, word):
    with pytest.raises(UserError, match=word):
        prior().vary([], sampler='ddim', start=start, steps=steps)


@pytest.mark.long
def test_the_embedded_prior_is_small_and_makes_digits_cleaner():
    """Noised digits come back nearer to the clean ones: the shipped weights are trained ones."""
    folder = EMBEDDED['digits']
    assert sum(path.stat().st_size for path in folder.rglob('*')) < 2 * 2**20
    assert '--config prior' in (folder / 'README.md').read_text()
    from purify.data.sources.open_source import read_digits

    pool = read_digits(1).test
    clean = jnp.asarray(np.stack([pool.fetch(i) for i in range(16)]) / 127.5 - 1, jnp.float32)
    model = load_variation_model(folder)
    keys = jax.random.split(jax.random.key(0), 16)
    vary = jax.jit(model.vary([], sampler='ddim', eta=0.0, start=200, steps=4))
    out = vary(model.weights, clean, jnp.zeros(16, int), keys)
    alpha = model.schedule.alphas_cumprod[199]
    assert float(jnp.square(out - clean).mean()) < 0.25 * (1 - alpha) / alpha


@pytest.mark.long
def test_photos32_is_small_and_makes_photographs_cleaner():
    """Cuts of two photographs that it has not seen come back nearer than a blur of the noised."""
    folder = EMBEDDED['photos32']
    assert sum(path.stat().st_size for path in folder.rglob('*')) < 8 * 2**20
    assert '--config prior:photos32' in (folder / 'README.md').read_text()
    from sklearn.datasets import load_sample_images

    cuts = [
        np.asarray(Image.fromarray(image).resize((160, 96)))[y : y + 32, x : x + 32]
        for image in load_sample_images().images
        for y in (0, 32, 64)
        for x in range(0, 160, 32)
    ]
    clean = jnp.asarray(np.stack(cuts) / 127.5 - 1, jnp.float32)
    model = load_variation_model(folder)
    keys = jax.random.split(jax.random.key(0), len(clean))
    vary = jax.jit(model.vary([], sampler='ddim', eta=0.0, start=150, steps=4))
    out = vary(model.weights, clean, jnp.zeros(len(clean), int), keys)
    alpha = model.schedule.alphas_cumprod[149]
    error = lambda image: float(jnp.square(image - clean).mean())
    assert error(out) < 0.12 * (1 - alpha) / alpha
    noised = clean + np.sqrt((1 - alpha) / alpha) * jax.random.normal(keys[0], clean.shape)
    shape = (len(clean), 12, 12, 3)
    blurred = jax.image.resize(jax.image.resize(noised, shape, 'cubic'), clean.shape, 'cubic')
    assert error(out) < 0.6 * error(blurred)
