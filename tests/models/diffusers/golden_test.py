"""Every network against PyTorch's: same files and inputs in, same outputs out."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from golden.weights import GOLDEN, OTHER, materialise

from purify.models.files.pipelines import from_pretrained

OWN = (
    'unet_sd1',
    'unet_sd2',
    'unet_three_levels',
    'unet_two_transformers',
    'vae_three_levels',
    'vae_plain',
    'clip_vision_quick_gelu',
    'clip_vision_gelu',
    'clip_text_first_eos',
    'clip_text_legacy_eos',
)
OTHERS = ('unet2d_condition', 'autoencoder_kl', 'clip_vision', 'clip_text')


def ours(network, io):
    """What the network answers to a case's inputs, under the names of PyTorch's answers."""
    kind = type(network).__name__
    if kind == 'UNet2DConditionModel':
        return {'out': network(io['sample'], io['timestep'], io['encoder_hidden_states'])}
    if kind == 'AutoencoderKL':
        mean, logvar = network.encode(io['image'])
        return {'mean': mean, 'logvar': logvar, 'decoded': network.decode(io['mean'])}
    if kind == 'CLIPTextModel':
        return dict(zip(('last_hidden_state', 'pooled'), network(io['input_ids']), strict=True))
    return dict(
        zip(('image_embeds', 'last_hidden_state'), network(io['pixel_values']), strict=True)
    )


def compare(folder, io_file):
    with np.load(io_file) as arrays:
        io = {
            name: jnp.asarray(x.transpose(0, 2, 3, 1) if x.ndim == 4 else x)
            for name, x in arrays.items()
        }
    made = nnx.jit(ours)(from_pretrained(folder), io)
    for name, array in made.items():
        assert array.dtype == jnp.float32
        np.testing.assert_allclose(array, io[name], rtol=0, atol=1e-4, err_msg=name)


@pytest.mark.long
@pytest.mark.parametrize('case', OWN)
def test_output_of_pytorch(case, tmp_path):
    compare(materialise(GOLDEN / case, tmp_path / case), GOLDEN / case / 'io.npz')


@pytest.mark.parametrize('case', OTHERS)
def test_output_of_pytorch_with_stored_weights(case):
    if not (OTHER / case).is_dir():
        pytest.skip(f'{case} is not in {OTHER}; PURIFY_GOLDEN names a folder that holds it')
    compare(OTHER / case, OTHER / case / 'io.npz')
