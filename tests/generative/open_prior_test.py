import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from purify.core.errors import UserError
from purify.diffusion.samplers import SAMPLERS
from purify.generative.open_prior import load_variation_model
from purify.models.files.hub import EMBEDDED
from purify.models.files.pipelines import save_pretrained
from purify.models.files.shapes import random_pipeline


@pytest.fixture(scope='module')
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp('sd_variation')
    save_pretrained(random_pipeline('sd_variation', 'tiny', seed=0), folder)
    return folder


def described(weights):
    return jax.tree.map(lambda x: (x.shape, str(x.dtype)), weights)


@pytest.mark.long
@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
@pytest.mark.parametrize('which', ['latent', 'pixel'])
def test_shapes_are_those_of_the_weights(saved, which, dtype):
    folder = saved if which == 'latent' else EMBEDDED['digits']
    real, shapes = (
        load_variation_model(folder, dtype=dtype, weights=weights) for weights in (True, False)
    )
    assert {type(leaf) for leaf in jax.tree.leaves(real.weights)} == {np.ndarray}
    assert {type(leaf) for leaf in jax.tree.leaves(shapes.weights)} == {jax.ShapeDtypeStruct}
    assert described(shapes.weights) == described(real.weights)


def test_pixel_priors_of_shapes_can_be_traced():
    prior = load_variation_model(EMBEDDED['digits'], weights=False)
    vary = prior.vary([], sampler='ddim', start=200, steps=2)
    size = (2, prior.size_px, prior.size_px, prior.channels)
    keys = jax.random.split(jax.random.key(0), 2)
    out = jax.eval_shape(
        vary, prior.weights, jax.ShapeDtypeStruct(size, jnp.float32), np.zeros(2, int), keys
    )
    assert out.shape == size


@pytest.mark.long
@pytest.mark.parametrize('rederived', [True, False])
def test_a_pixel_prior_derives_eps_as_its_folder_says(tmp_path, rederived):
    """Its chain is that of the samplers, on a network that answers beyond what may be."""
    shutil.copytree(EMBEDDED['digits'], tmp_path / 'prior')
    file = next((tmp_path / 'prior').rglob('scheduler_config.json'))
    index = tmp_path / 'prior' / 'model_index.json'
    told = json.loads(file.read_text()) | {
        '_class_name': 'DDIMScheduler',
        'use_clipped_model_output': rederived,
    }
    file.write_text(json.dumps(told))
    index.write_text(index.read_text().replace('DDPMScheduler', 'DDIMScheduler'))
    prior = load_variation_model(tmp_path / 'prior')
    sampler = SAMPLERS.make('ddim', prior.schedule, [500, 100])
    x, output = (jnp.full((1, 2, 2, 1), value) for value in (0.5, -3.0))
    alpha, sigma = (np.asarray(sampler.tables[name][0]) for name in ('alpha', 'sigma'))
    assert (0.5 + 3 * sigma) / alpha > 1
    eps = (0.5 - alpha) / sigma if rederived else -3.0
    moved = sampler.step(sampler.init(x), 0, output, None)['x']
    wanted = sampler.tables['on_x0'][0] + sampler.tables['on_eps'][0] * eps
    np.testing.assert_allclose(moved, wanted, rtol=1e-5)


@pytest.mark.parametrize(
    ('index', 'shown'),
    [([], 'a list'), ({'_class_name': ['a']}, r"\['a'\]"), ({'unet': ['a', 'b']}, 'None')],
)
def test_broken_indices_are_named(tmp_path, index, shown):
    (tmp_path / 'model_index.json').write_text(json.dumps(index))
    with pytest.raises(UserError, match=rf'model_index\.json: must hold a .*, not {shown}'):
        load_variation_model(tmp_path)


@pytest.mark.parametrize(
    ('options', 'words'),
    [
        ({'dtype': 'foo'}, "dtype='foo'.*float32, float16, bfloat16"),
        ({'dtype': 'float64'}, "dtype='float64'"),
        ({'vae_slice': -1}, 'vae_slice=-1'),
        ({'vae_slice': 1.5}, 'vae_slice=1.5'),
    ],
)
def test_options_are_checked(options, words):
    with pytest.raises(UserError, match=words):
        load_variation_model(EMBEDDED['digits'], **options)


@pytest.mark.parametrize('size', [None, [8, 12]])
def test_pixel_priors_need_a_square_size(tmp_path, size):
    source = Path(EMBEDDED['digits'])
    for file in source.rglob('*'):
        if file.is_file():
            place = tmp_path / file.relative_to(source)
            place.parent.mkdir(exist_ok=True)
            place.symlink_to(file.resolve())
    config = tmp_path / 'unet' / 'config.json'
    values = json.loads(config.read_text())
    config.unlink()
    config.write_text(json.dumps(values | {'sample_size': size}))
    with pytest.raises(UserError, match=r'unet/config.json: sample_size = '):
        load_variation_model(tmp_path, weights=False)


@pytest.mark.long
def test_float16_runs_on_cpus(saved):
    """Convolutions, projections and attention: the whole chain, near to what float32 gives."""
    out = {}
    for dtype in ('float32', 'float16'):
        model = load_variation_model(saved, dtype=dtype)
        image = jnp.linspace(-1, 1, 16 * 16 * 3).reshape(1, 16, 16, 3)
        vary = model.vary(['a', 'b'], steps=2, guidance=2.0, size_px=8)
        quick = jax.jit(vary, compiler_options={'xla_backend_optimization_level': 0})
        out[dtype] = np.asarray(
            quick(model.weights, image, jnp.zeros(1, int), jax.random.split(jax.random.key(0), 1))
        )
    assert np.isfinite(out['float16']).all()
    assert np.abs(out['float16'] - out['float32']).max() < 0.05
    assert out['float32'].std() > 0.01
