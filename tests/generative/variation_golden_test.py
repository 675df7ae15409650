"""Whole chains against PyTorch's pipelines: CLIP or captions, guided UNet, scheduler, VAE."""

import jax.numpy as jnp
import numpy as np
import pytest
from golden.weights import GOLDEN, OTHER, materialise

from purify.generative.open_prior import load_variation_model

VARIATIONS = ('variation_ddim_leading', 'variation_pndm_leading', 'variation_dpmpp_linspace')
VARIATIONS += ('variation_euler_trailing', 'variation_ddim_v', 'versatile_ddim')
OTHERS = ('sd_image_variation', 'versatile_image_variation')
GUIDANCE = (1.0, 7.5)


def read(case):
    """io.npz with images as NHWC; pictures already are."""
    with np.load(case / 'io.npz') as arrays:
        flip = {
            name
            for name in arrays
            if arrays[name].ndim == 4 and not name.startswith(('image_gs', 'source'))
        }
        return {
            name: array.transpose(0, 2, 3, 1) if name in flip else array
            for name, array in arrays.items()
        }


def check(made, expected):
    assert made.shape == expected.shape
    assert made.dtype == jnp.float32
    np.testing.assert_allclose(made, expected, rtol=0, atol=2e-3)


def compare(folder, case, guidances=GUIDANCE):
    io, model = read(case), load_variation_model(folder)
    if 'source_uint8' in io:
        pictures = jnp.asarray(io['source_uint8'] / 255, jnp.float32)
        np.testing.assert_allclose(model.preprocess(pictures), io['pixel_values'], atol=1e-5)
    for guidance in guidances:
        made = model.generate(
            io['pixel_values'],
            io['latents'],
            steps=int(io['num_inference_steps']),
            guidance=guidance,
        )
        check(made, io[f'image_gs{guidance}'])


@pytest.mark.long
@pytest.mark.parametrize('case', VARIATIONS)
def test_image_variations_of_pytorch(case, tmp_path):
    # each is a program of its own to compile
    guidances = GUIDANCE if case == VARIATIONS[0] else GUIDANCE[1:]
    compare(materialise(GOLDEN / case, tmp_path / case), GOLDEN / case, guidances)


@pytest.mark.parametrize('case', OTHERS)
def test_image_variations_of_pytorch_with_stored_weights(case):
    if not (OTHER / case).is_dir():
        pytest.skip(f'{case} is not in {OTHER}; PURIFY_GOLDEN names a folder that holds it')
    compare(OTHER / case, OTHER / case)


@pytest.mark.long
def test_image_to_image_of_pytorch(tmp_path):
    case = GOLDEN / 'img2img_ddim'
    io, model = read(case), load_variation_model(materialise(case, tmp_path / 'img2img'))
    np.testing.assert_array_equal(model.tokens(io['captions'].tolist()), io['input_ids'])
    np.testing.assert_array_equal(model.tokens(['']), io['negative_input_ids'])
    for guidance in GUIDANCE:
        made = model.generate(
            io['image'],
            io['noise'],
            input_ids=io['input_ids'],
            negative_input_ids=io['negative_input_ids'],
            encode_noise=io['encode_noise'],
            strength=float(io['strength']),
            steps=int(io['num_inference_steps']),
            guidance=guidance,
        )
        check(made, io[f'image_gs{guidance}'])
